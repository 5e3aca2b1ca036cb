package proxy

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	"usher/proxy/decide"
	"usher/proxy/race"
	"usher/proxy/record"
	"usher/proxy/udp"
)

// report counts the session, and tells the log, the list of refusals and Options.Ended
// about its end. It always does, so log: disconnect and log: error in a rule change
// nothing.
func (s *session) report(err error) {
	o := outcomeOf(err)
	log := s.server.opts.Logger
	if s.isCheck(err) {
		s.server.opts.Metrics.checks.Inc()
		log.LogAttrs(context.Background(), slog.LevelDebug, "health check",
			slog.String("client", s.from.String()), slog.String("reason", o.reason))
		return
	}
	now := time.Now()
	s.server.opts.Metrics.finish(s, o, now.Sub(s.began))
	logged := log.Enabled(context.Background(), slog.LevelInfo)
	if s.stage.connected && !logged && s.server.opts.Ended == nil {
		return
	}
	e := endOf(s, err, o, now)
	if logged {
		message := "session ended"
		if e.Refused {
			message = "session refused"
		}
		log.LogAttrs(context.Background(), slog.LevelInfo, message, endAttrs(&e)...)
	}
	if e.Refused {
		s.server.refused.add(e)
	}
	if s.server.opts.Ended != nil {
		s.server.opts.Ended(e)
	}
}

// endOf returns the record of a session's end.
func endOf(s *session, err error, o outcome, now time.Time) record.End {
	e := record.End{Session: described(s), Time: now, Reason: o.reason, Refused: !s.stage.connected}
	e.Seconds = now.Sub(s.began).Seconds()
	e.FailedAddresses = s.dialled.failed
	e.Held = s.server.held(err, now)
	if s.udp != nil {
		e.UDP = datagrams(s.udp.Stats())
	}
	if err != nil && o.reason != "done" {
		e.Error = err.Error()
	}
	return e
}

// isCheck reports whether a session that ended with err was a health check: a
// connection that was closed before it was a client, see awaitClient, or a balancer's
// own, which sent at most a greeting. One that is held open until a deadline ends it is
// no check.
func (s *session) isCheck(err error) bool {
	return !s.isClient && (errors.Is(err, errNoGreeting) || errors.Is(err, errClientClosed) || errors.Is(err, decide.ErrMethod))
}

// reportConnected logs that the session is connected, if one of its rules has log:
// connect. With BIND, the rule that passed the peer counts as well.
func (s *session) reportConnected() {
	log := s.server.opts.Logger
	wanted := s.clientRule.Log.Connect || s.socksRule.Log.Connect || s.awaited != nil && s.awaited.rule.Log.Connect
	if !wanted || !log.Enabled(context.Background(), slog.LevelInfo) {
		return
	}
	r := described(s)
	log.LogAttrs(context.Background(), slog.LevelInfo, "session connected", sessionAttrs(&r, "", s.dialled.failed)...)
}

// described returns all that is known about a session. Only its own goroutine may ask.
func described(s *session) record.Session {
	v := seen{s, s.gen, s.stage}
	r := v.identity()
	addClientRule(&r, s.clientRule)
	addRule(&r, s.socksRule)
	v.addRequest(&r)
	v.addFarEnd(&r)
	r.Pool, r.LimitKey = poolOf(s.clientRule, s.socksRule), s.limitKey
	r.WouldRefuse = v.wouldRefuse()
	if s.grant != nil && !s.grant.Confirmed() {
		r.Confirmed = new(bool) // false: admitted without the store
	}
	return r
}

// sessionAttrs returns the keys of a record that all lines about a session share. Those
// that do not apply are left out. Escaping what the client chose is the log handler's
// part.
func sessionAttrs(r *record.Session, reason, failed string) []slog.Attr {
	attrs := make([]slog.Attr, 0, 24)
	text := func(key, value string) {
		if value != "" {
			attrs = append(attrs, slog.String(key, value))
		}
	}
	text("session", r.ID)
	text("generation", r.Generation)
	text("reason", reason)
	text("client", r.Client.String())
	text("client_rule", r.ClientRule)
	text("client_rule_name", r.ClientRuleName)
	text("client_rule_at", r.ClientRuleAt)
	text("rule", r.Rule)
	text("rule_name", r.RuleName)
	text("rule_at", r.RuleAt)
	text("pool", r.Pool)
	text("limit_key", r.LimitKey)
	text("would_refuse", r.WouldRefuse)
	text("user", r.User)
	if r.SOCKS != 0 {
		attrs = append(attrs, slog.Int("socks", r.SOCKS))
	}
	text("command", r.Command)
	text("target", r.Target)
	if r.Confirmed != nil {
		attrs = append(attrs, slog.Bool("confirmed", *r.Confirmed))
	}
	address := func(key string, a netip.AddrPort) {
		if a.IsValid() {
			text(key, a.String())
		}
	}
	address("dialled", r.Dialled)
	address("bound", r.Bound)
	address("peer", r.Peer)
	text("failed_addresses", failed)
	return attrs
}

// endAttrs returns the keys of the last line about a session.
func endAttrs(e *record.End) []slog.Attr {
	attrs := sessionAttrs(&e.Session, e.Reason, e.FailedAddresses)
	if !e.Refused {
		attrs = append(attrs, slog.Int64("bytes_up", e.BytesUp), slog.Int64("bytes_down", e.BytesDown))
	}
	if e.UDP != nil {
		attrs = append(attrs, udpAttrs(e.UDP)...)
	}
	attrs = append(attrs, slog.Float64("seconds", e.Seconds))
	if e.Error != "" {
		attrs = append(attrs, slog.String("error", e.Error))
	}
	return attrs
}

// datagrams returns the record of an association.
func datagrams(u udp.Stats) *record.UDP {
	r := &record.UDP{UDPRelay: u.Advertised, UDPClient: u.Client, UDPClientMoves: u.Moves, DatagramsUp: u.Up, DatagramsDown: u.Down}
	for _, d := range u.Dropped {
		if r.Dropped == nil {
			r.Dropped = make(map[string]int64)
		}
		r.Dropped[d.Reason] = d.N
	}
	return r
}

// udpAttrs returns the keys for an association in the last line of its session.
func udpAttrs(u *record.UDP) []slog.Attr {
	attrs := []slog.Attr{slog.String("udp_relay", u.UDPRelay.String())}
	if u.UDPClient.IsValid() {
		attrs = append(attrs, slog.String("udp_client", u.UDPClient.String()))
	}
	if u.UDPClientMoves > 0 {
		attrs = append(attrs, slog.Int64("udp_client_moves", u.UDPClientMoves))
	}
	attrs = append(attrs, slog.Int64("datagrams_up", u.DatagramsUp), slog.Int64("datagrams_down", u.DatagramsDown))
	var dropped []any
	for _, reason := range slices.Sorted(maps.Keys(u.Dropped)) {
		dropped = append(dropped, slog.Int64(reason, u.Dropped[reason]))
	}
	if len(dropped) > 0 {
		attrs = append(attrs, slog.Group("dropped", dropped...))
	}
	return attrs
}

// maxDescribed bounds the addresses in one line, because a name may have many.
const maxDescribed = 8

// describe lists the addresses that failed, each with the reason.
func describe(failures []race.Failure) string {
	var b strings.Builder
	for i, f := range failures {
		if i == maxDescribed {
			fmt.Fprintf(&b, ", and %d more", len(failures)-i)
			break
		}
		if i > 0 {
			b.WriteString(", ")
		}
		reason := "slower"
		if !errors.Is(f.Err, race.ErrSlower) {
			reason = outcomeOf(f.Err).reason
		}
		fmt.Fprintf(&b, "%v %s", f.Addr, reason)
	}
	return b.String()
}
