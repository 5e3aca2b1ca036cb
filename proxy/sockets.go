package proxy

import (
	"io"
	"sync"
)

// sockets are what is closed when a session ends or is cut. They are safe for
// concurrent use.
type sockets struct {
	mu     sync.Mutex
	open   []io.Closer
	closed bool
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
