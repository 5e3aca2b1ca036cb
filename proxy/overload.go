package proxy

import (
	"errors"
	"log/slog"
	"math/rand/v2"
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

// negotiators are the sessions whose clients have not made their request yet.
type negotiators struct {
	max int // 0: any number

	mu  sync.Mutex
	all []*session // each knows its place, see session.negotiatingIndex
}

// enter takes s in. If there is no room it returns another session, which is
// out, and to be ended. Any of them: were newcomers refused, or those who wait
// longest put out, a few silent clients could keep everybody away, or a rush
// nobody would survive. Drawn by lot, those who are quick mostly stay.
func (n *negotiators) enter(s *session) (out *session) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.max > 0 && len(n.all) >= n.max {
		out = n.all[rand.IntN(len(n.all))]
		n.remove(out)
	}
	n.all = append(n.all, s)
	s.negotiatingIndex = len(n.all)
	return out
}

// leave takes s out, if it is still in.
func (n *negotiators) leave(s *session) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if s.negotiatingIndex > 0 {
		n.remove(s)
	}
}

// remove lets the last one take the place of s. n.mu is held.
func (n *negotiators) remove(s *session) {
	last := len(n.all) - 1
	n.all[s.negotiatingIndex-1], n.all[last].negotiatingIndex = n.all[last], s.negotiatingIndex
	n.all[last] = nil
	n.all, s.negotiatingIndex = n.all[:last], 0
}

// turnAway counts clients for whom there was no room, and mentions them once
// a minute, by reason.
func (s *Server) turnAway(reason, why string) {
	s.opts.Metrics.turnedAway.WithLabelValues(reason).Inc()
	told, _ := s.turnedAway.LoadOrStore(reason, new(seldom))
	if told.(*seldom).now() {
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
	discardPending(client) // unread, a greeting would make the close a reset
	_ = client.Close()
	s.turnAway("descriptors", "out of descriptors")
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
