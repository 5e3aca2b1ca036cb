package proxy

import (
	"context"
	"time"
)

// setDeadline sets the absolute deadline of reads and writes on client. The zero time
// means none.
func (s *session) setDeadline(t time.Time) {
	if t == s.deadline {
		return
	}
	s.deadline = t
	s.client.SetDeadline(t) //nolint:errcheck // it fails on a closed connection only
}

// negotiateWithin sets the deadline of the negotiation. 0 means none. Behind the
// request there is none any more.
func (s *session) negotiateWithin(limit time.Duration) {
	if limit == 0 || s.requested {
		s.setDeadline(time.Time{})
		return
	}
	s.setDeadline(s.began.Add(limit))
}

// waiting returns a context for a wait on something other than the client, such as
// the store or a resolver. The context ends with the negotiation's deadline. If the
// client closes during the wait, the session ends.
func (s *session) waiting(ctx context.Context) (_ context.Context, stop func()) {
	unwatch := s.watch(true)
	cancel := func() {}
	if !s.deadline.IsZero() {
		ctx, cancel = context.WithDeadlineCause(ctx, s.deadline, errNegotiationTimeout)
	}
	return ctx, func() { cancel(); unwatch() }
}

// connecting returns a context that ends when timeout.connect is over, counted from
// began. 0 means never.
func connecting(ctx context.Context, began time.Time, limit time.Duration) (context.Context, context.CancelFunc) {
	if limit == 0 {
		return context.WithCancel(ctx)
	}
	return context.WithDeadlineCause(ctx, began.Add(limit), errConnectTime)
}

// causeOf returns why ctx ended, or err if it did not.
func causeOf(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	return err
}
