package proxy

import (
	"context"
	"io"
	"sync"
)

// sockets are what is closed when a session ends or is cut. They are safe for
// concurrent use.
type sockets struct {
	mu     sync.Mutex // held while they are closed, which may wait
	open   []io.Closer
	closed bool

	cutting sync.Mutex              // never held for long
	reason  error                   // of the first cut; nil: there was none
	cancel  context.CancelCauseFunc // of the context of begin; nil: it has been dropped
}

// begin adds the client's connection, and returns a context for opening the
// session, which a cut ends. It is called first.
func (s *sockets) begin(client io.Closer) context.Context {
	ctx, cancel := context.WithCancelCause(context.Background())
	s.open, s.cancel = append(make([]io.Closer, 0, 3), client), cancel // and its places, and a target
	return ctx
}

// dropContext ends the context of begin without a cut. What waits from here on
// waits for sockets, and an idle session does without the memory of a context.
func (s *sockets) dropContext() {
	s.cutting.Lock()
	defer s.cutting.Unlock()
	s.cancel(nil)
	s.cancel = nil
}

// cut ends the session from outside, for a reason of which the first one counts.
// It waits for nothing: the sockets are closed in a goroutine of their own, as a
// close waits for calls in progress, and one of those may be the caller.
func (s *sockets) cut(reason error) {
	s.cutting.Lock()
	defer s.cutting.Unlock()
	if s.reason != nil {
		return
	}
	s.reason = reason
	if s.cancel != nil {
		s.cancel(reason)
	}
	go s.close()
}

// cause returns the reason of the cut, or err if there was none.
func (s *sockets) cause(err error) error {
	s.cutting.Lock()
	defer s.cutting.Unlock()
	if s.reason != nil {
		return s.reason
	}
	return err
}

// closeOnEnd adds c. If the sockets are closed already, so is c.
func (s *sockets) closeOnEnd(c io.Closer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		_ = c.Close()
		return
	}
	s.open = append(s.open, c)
}

// close closes all, in the order in which they came, and so wakes whatever is
// blocked on them. Twice is fine.
func (s *sockets) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return
	}
	s.closed = true
	for _, c := range s.open {
		_ = c.Close()
	}
}

// closer is something else to be done when the sockets are closed.
type closer func()

// Close never fails.
func (c closer) Close() error { c(); return nil }
