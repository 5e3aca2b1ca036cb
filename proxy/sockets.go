package proxy

import "io"

// hold makes c the session's: it is closed when the session ends or is cut.
func (s *session) hold(c io.Closer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		_ = c.Close()
		return
	}
	s.sockets = append(s.sockets, c)
}

// closer is something else to be done when the sockets are closed.
type closer func()

// Close never fails.
func (c closer) Close() error { c(); return nil }

// closeSockets closes the client's connection and what the session holds, and
// so wakes whatever is blocked. Twice is fine.
func (s *session) closeSockets() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return
	}
	s.closed = true
	if s.idleTimer != nil {
		s.idleTimer.Stop()
	}
	_ = s.client.Close()
	for _, c := range s.sockets {
		_ = c.Close()
	}
}
