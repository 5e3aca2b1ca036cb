package proxy

import (
	"context"
	"io"
	"net"
	"net/netip"
	"sync"

	"usher/proxy/fair"
	"usher/proxy/sockopt"
)

// sockets are closed when a session ends or is cut. They are safe for concurrent use.
type sockets struct {
	mu   sync.Mutex  // held while they are closed, which may wait
	open []io.Closer // nil: they are closed

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

// dropContext ends the context of begin without a cut. From here on the session waits
// only for sockets. An idle session then needs no memory for a context.
func (s *sockets) dropContext() {
	s.cutting.Lock()
	defer s.cutting.Unlock()
	s.cancel(nil)
	s.cancel = nil
}

// cut ends the session from outside. If there are several cuts, the reason of the first
// one counts. cut does not block: another goroutine closes the sockets, because a close
// waits for calls in progress, and the caller may be one of them. What the kernel has
// still to send is dropped if it is much.
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
	go func() {
		s.mu.Lock()
		s.each(sockopt.ForgetMuch)
		s.mu.Unlock()
		s.close()
	}()
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

// closeOnEnd adds c. If the sockets are closed already, it closes c at once.
func (s *sockets) closeOnEnd(c io.Closer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.open == nil {
		_ = c.Close()
		return
	}
	s.open = append(s.open, c)
}

// eachTCP calls f for each TCP connection, and returns the source that holds places for
// the session; invalid: none does. It does nothing while the sockets are closed.
func (s *sockets) eachTCP(f func(*net.TCPConn)) (source netip.Prefix) {
	if !s.mu.TryLock() {
		return netip.Prefix{}
	}
	defer s.mu.Unlock()
	return s.each(f)
}

// each does what eachTCP does. s.mu is held.
func (s *sockets) each(f func(*net.TCPConn)) (source netip.Prefix) {
	for _, c := range s.open {
		switch c := c.(type) {
		case *net.TCPConn:
			f(c)
		case *fair.Share:
			source = c.Source()
		}
	}
	return source
}

// close closes all sockets in the order in which they were added. Calls that are
// blocked on them return. A second close has no effect.
func (s *sockets) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.open {
		_ = c.Close()
	}
	s.open = nil
}

// closer is a function that is called when the sockets are closed.
type closer func()

// Close never fails.
func (c closer) Close() error { c(); return nil }
