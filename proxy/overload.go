package proxy

import (
	"errors"
	"log/slog"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// shedTime is how long a client is waited for that is to be closed at once.
// Without descriptors the system reports that even if nobody is there.
const shedTime = 5 * time.Millisecond

// mayNegotiate takes a place among the clients that have not made their
// request yet, if there is one. session.receive gives it back.
func (s *Server) mayNegotiate() bool {
	if n := s.negotiating.Add(1); s.opts.MaxNegotiating == 0 || n <= int64(s.opts.MaxNegotiating) {
		return true
	}
	s.negotiating.Add(-1)
	return false
}

// turnAway closes a client for whom there is no room, politely if its greeting
// is here already: unread, it would make the close a reset. Those clients are
// counted, and mentioned once a minute.
func (s *Server) turnAway(client *net.TCPConn, reason, why string) {
	s.opts.Metrics.turnedAway.WithLabelValues(reason).Inc()
	discardPending(client)
	_ = client.Close()
	if s.turnedAway.now() {
		s.opts.Logger.Warn("clients are turned away", slog.String("reason", reason), slog.String("error", why))
	}
}

func outOfDescriptors(err error) bool {
	return errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE)
}

// shed closes the client that has waited longest for a descriptor, by means of
// the spare one: it learns at once that it has to look elsewhere. It reports
// false if that does not work, or nobody waits.
func (s *Server) shed(ln net.Listener) bool {
	l, ok := ln.(*net.TCPListener)
	if !ok || !s.spare.give() {
		return false
	}
	defer s.spare.take()
	if err := l.SetDeadline(time.Now().Add(shedTime)); err != nil {
		return false
	}
	defer l.SetDeadline(time.Time{}) //nolint:errcheck // it fails on a closed listener only
	client, err := l.AcceptTCP()
	if err != nil {
		return false
	}
	s.turnAway(client, "descriptors", "out of descriptors")
	return true
}

// spare is a descriptor kept for the time when there is none. One goroutine
// may use it at a time.
type spare struct {
	mu     sync.Mutex
	file   *os.File // nil: used, or it could not be had again
	closed bool
}

func newSpare() *spare {
	s := new(spare)
	s.open()
	return s
}

func (s *spare) open() {
	if file, err := os.Open(os.DevNull); err == nil {
		s.file = file
	}
}

// give frees the descriptor for something else. Unless it reports false, take
// must follow.
func (s *spare) give() bool {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return false
	}
	if s.file == nil { // somebody else was quicker; perhaps now
		s.open()
	}
	if s.file == nil {
		s.mu.Unlock()
		return false
	}
	_ = s.file.Close()
	s.file = nil
	return true
}

// take gets the descriptor back, now or the next time that it is needed.
func (s *spare) take() {
	s.open()
	s.mu.Unlock()
}

func (s *spare) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	if s.file != nil {
		_ = s.file.Close()
		s.file = nil
	}
}

// seldom tells when something may be said again: once a minute. The zero value
// is ready for use.
type seldom struct{ last atomic.Int64 }

func (s *seldom) now() bool {
	now, last := time.Now().UnixNano(), s.last.Load()
	return (last == 0 || now-last >= int64(time.Minute)) && s.last.CompareAndSwap(last, now)
}
