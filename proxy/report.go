package proxy

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"time"

	"usher/proxy/decide"
	"usher/proxy/race"
	"usher/proxy/rules"
	"usher/proxy/udp"
)

// report counts the session and writes one log line about its end. It always
// writes it, so log: disconnect and log: error in a rule change nothing.
func (s *session) report(err error) {
	o := outcomeOf(err)
	log := s.server.opts.Logger
	if s.isCheck(err) {
		s.server.opts.Metrics.checks.Inc()
		log.LogAttrs(context.Background(), slog.LevelDebug, "health check",
			slog.String("client", s.from.String()), slog.String("reason", o.reason))
		return
	}
	took := time.Since(s.began)
	s.server.opts.Metrics.finish(s, o, took)
	if !log.Enabled(context.Background(), slog.LevelInfo) {
		return
	}
	message := "session refused"
	if s.granted {
		message = "session ended"
	}
	attrs := s.attrs(o.reason)
	if s.granted {
		attrs = append(attrs, slog.Int64("bytes_up", s.up.Load()), slog.Int64("bytes_down", s.down.Load()))
	}
	if s.udp != nil {
		attrs = append(attrs, udpAttrs(s.udp.Stats())...)
	}
	attrs = append(attrs, slog.Float64("seconds", took.Seconds()))
	if err != nil && o.reason != "done" {
		attrs = append(attrs, slog.String("error", err.Error()))
	}
	log.LogAttrs(context.Background(), slog.LevelInfo, message, attrs...)
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
	log.LogAttrs(context.Background(), slog.LevelInfo, "session connected", s.attrs("")...)
}

// attrs are the keys that a session's lines share, as far as they are known;
// those that do not apply are left out. Strings that the client chose are
// bounded by the protocol (255 bytes); escaping them is the log handler's part.
func (s *session) attrs(reason string) []slog.Attr {
	attrs := make([]slog.Attr, 0, 23)
	text := func(key, value string) {
		if value != "" {
			attrs = append(attrs, slog.String(key, value))
		}
	}
	text("session", s.server.sessionID(s.id))
	text("generation", s.server.table.label(s.gen))
	text("reason", reason)
	text("client", s.from.String())
	text("client_rule", id(s.clientRule))
	text("client_rule_name", name(s.clientRule))
	text("client_rule_at", at(s.clientRule))
	text("rule", id(s.socksRule))
	text("rule_name", name(s.socksRule))
	text("rule_at", at(s.socksRule))
	text("pool", poolOf(s.clientRule, s.socksRule))
	text("limit_key", s.limitKey)
	text("user", s.user)
	if s.request.Version != 0 {
		attrs = append(attrs, slog.Int("socks", int(s.request.Version)))
		if s.request.Command != 0 {
			text("command", commandName(s.request.Command))
		}
		if a := s.request.Addr; a.Name != "" || a.IP.IsValid() {
			text("target", a.String())
		}
	}
	if s.grant != nil && !s.grant.Confirmed() {
		attrs = append(attrs, slog.Bool("confirmed", false)) // admitted without the store
	}
	address := func(key string, a netip.AddrPort) {
		if a.IsValid() {
			text(key, a.String())
		}
	}
	address("dialled", s.dialled.at)
	if s.awaited != nil {
		address("bound", s.awaited.at)
		address("peer", s.awaited.peer)
	}
	text("failed_addresses", describe(s.dialled.failures))
	return attrs
}

// poolOf returns the pool of the limit that a session asked last, "" if there is none.
// Each rule is nil if none matched yet.
func poolOf(client, request *rules.Rule) string {
	switch {
	case request != nil && (client == nil || !decide.Inherits(client, request)):
		return request.Session.Pool
	case client != nil:
		return client.Session.Pool
	}
	return ""
}

// udpAttrs returns the keys for an association in the last line of its session.
func udpAttrs(u udp.Stats) []slog.Attr {
	attrs := []slog.Attr{slog.String("udp_relay", u.Advertised.String())}
	if u.Client.IsValid() {
		attrs = append(attrs, slog.String("udp_client", u.Client.String()))
	}
	if u.Moves > 0 {
		attrs = append(attrs, slog.Int64("udp_client_moves", u.Moves))
	}
	attrs = append(attrs, slog.Int64("datagrams_up", u.Up), slog.Int64("datagrams_down", u.Down))
	var dropped []any
	for _, d := range u.Dropped {
		dropped = append(dropped, slog.Int64(d.Reason, d.N))
	}
	if len(dropped) > 0 {
		attrs = append(attrs, slog.Group("dropped", dropped...))
	}
	return attrs
}

// name returns rule.name of a rule, "" if it has none.
func name(r *rules.Rule) string {
	if r == nil {
		return ""
	}
	return r.Name
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
