package proxy

import (
	"context"
	"errors"
	"strings"

	"usher/limiter"
	"usher/proxy/decide"
	"usher/proxy/rules"
)

// admitClient takes a slot of the client-rule's limit, and gives back what the session
// has. A session that the same rule of unchanged rules has let in before keeps its slot
// and is not counted again. The error is errOutdated if newer rules are in force, also if
// they came while it waited.
func (s *session) admitClient(ctx context.Context) error {
	if !s.server.table.setStage(s, s.clientRule, 0) {
		return errOutdated
	}
	s.negotiateWithin(s.clientRule.Timeouts.Negotiate)
	s.keepClientAlive(s.clientRule.KeepAlives.Internal)
	a, digest, rule := &s.admitted, s.gen.digest, s.clientRule.ID()
	again := a.digest == digest && a.rule == rule
	if !again || !a.slot {
		if err := s.takeClientSlot(ctx); err != nil {
			return err
		}
	}
	if !again {
		a.digest, a.rule = digest, rule
		if !s.grant.Kept() { // in a pool, the rules before have judged it
			a.client = s.server.judge(s, s.clientRule)
		}
		s.server.opts.Metrics.countAdmission(s.clientRule, "negotiate", s.grant, s.clientRule)
	}
	s.server.table.letIn(s, a.client)
	s.endOnLostLease()
	return nil
}

// takeClientSlot does the part of admitClient that asks the limiter.
func (s *session) takeClientSlot(ctx context.Context) error {
	s.admitted.slot = false
	limit := s.limit(s.clientRule)
	if limit != (limiter.Limit{}) {
		var stop func()
		ctx, stop = s.waiting(ctx)
		defer stop()
	}
	err := s.grant.Move(ctx, limit)
	if limit != (limiter.Limit{}) && s.server.table.outdated(s) {
		s.grant.Undo() // in a pool, the session would keep the slot, which older rules have given
		return errOutdated
	}
	if err != nil {
		return causeOf(ctx, s.nameLimit(s.clientRule, err))
	}
	s.admitted.slot = true
	return nil
}

// judge returns what the limit of r would have done to a session, if it did not only
// report, and counts it. The session has just got its slot of r.
func (s *Server) judge(one *session, r *rules.Rule) verdict {
	v := verdictOf(one.grant.WouldRefuse())
	if v != 0 {
		s.table.countReport(one, r)
		s.opts.Metrics.wouldRefuse.WithLabelValues(r.Label()).Inc()
	}
	return v
}

// admitRequest takes a slot of the socks-rule's limit and returns the client-rule's.
// If the socks-rule has no limit of its own, the session keeps the client-rule's slot
// to its end, unless the client-rule says otherwise. The error is errOutdated if newer
// rules are in force, also if they came while it waited.
func (s *session) admitRequest(ctx context.Context) error {
	inherits := decide.Inherits(s.clientRule, s.socksRule)
	if !inherits {
		s.admitted.slot = false
		if err := s.grant.Move(ctx, s.limit(s.socksRule)); err != nil {
			if s.server.table.outdated(s) {
				return errOutdated
			}
			return causeOf(ctx, s.nameLimit(s.socksRule, err))
		}
	}
	if !s.server.table.setStage(s, s.socksRule, s.request.Command) {
		if !inherits {
			s.grant.Undo() // as in admitClient
		}
		return errOutdated
	}
	if !inherits {
		s.server.table.setRequestVerdict(s, s.server.judge(s, s.socksRule))
	}
	s.endOnLostLease()
	s.keepClientAliveBy(s.socksRule)
	holds := s.socksRule
	if inherits {
		holds = s.clientRule
	}
	s.server.opts.Metrics.countAdmission(s.socksRule, commandName(s.request.Command), s.grant, holds)
	return nil
}

// limit returns the limit by which the session counts if r admits it. It keeps the key
// for the log.
func (s *session) limit(r *rules.Rule) limiter.Limit {
	limit := s.gen.limit(r, s.from.Addr(), s.user)
	s.limitKey = limit.Key
	return limit
}

// limitReachedError is the error of a session that a limit refuses. Its text names the
// limit as the rule file does, and for whom it counts, because status shows only the
// total.
type limitReachedError struct {
	text    string
	counter string // of the limiter
	key     string // "": it counts no keys
	limit   *limiter.LimitError
	error
}

func (e limitReachedError) Error() string { return e.text }
func (e limitReachedError) Unwrap() error { return e.error }

// nameLimit adds the limit of r, which was asked last, to the text of err, if a limit
// caused it.
func (s *session) nameLimit(r *rules.Rule, err error) error {
	key := s.limitKey
	var by *limiter.LimitError
	if !errors.As(err, &by) {
		return err
	}
	text := limitText(r, !errors.Is(err, limiter.ErrFull), by.ByKey, errors.Is(err, limiter.ErrKeys), key)
	return limitReachedError{text: text, counter: Counter(s.gen.digest, r), key: key, limit: by, error: err}
}

// limitText names a limit of r: a rate or a maximum, for the key or for all. tooMany says
// that the rate counts too many keys already.
func limitText(r *rules.Rule, rate, byKey, tooMany bool, key string) string {
	text := r.LimitText(rate, byKey)
	if byKey {
		text += " for " + keyText(key)
	}
	if tooMany {
		text += ": too many other addresses or users are counted (USHER_THROTTLE_KEYS, or maxmemory of Redis)"
	}
	return text
}

// keyText returns the key of a limit in words.
func keyText(key string) string {
	kind, value, _ := strings.Cut(key, "=")
	switch {
	case kind == "from":
		return value
	case value == "":
		return "clients without a user name"
	}
	return "user " + value
}

// endOnLostLease ends the session when the lease on its current slot is lost, in strict mode.
func (s *session) endOnLostLease() {
	if s.server.opts.Limiter.Strict() {
		s.valid = s.grant.Valid
		s.grant.WhenLost(func() { s.sockets.cut(errLeaseLost) })
	}
}

// leased returns errLeaseLost if another session may have been given this slot. It
// is asked right before each write to the client. Relays ask valid themselves.
func (s *session) leased() error {
	if s.valid != nil && !s.valid() {
		return errLeaseLost
	}
	return nil
}
