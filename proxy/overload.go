package proxy

import (
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"usher/proxy/fair"
)

// shedTime is how long shed waits for a client to close. The system reports a
// lack of descriptors even if no client is waiting.
const shedTime = 5 * time.Millisecond

// negotiators are the sessions whose clients have not made their request yet.
type negotiators struct {
	max int // 0: any number

	mu  sync.Mutex
	all fair.Crowd[*session]
}

// enter adds s. If there is no room it removes another session and returns it,
// for the caller to end. fair.Crowd.Victim says which one that is.
func (n *negotiators) enter(s *session, source netip.Prefix) (evicted *session) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.max > 0 && n.all.Len() >= n.max {
		victim := n.all.Victim(source)
		n.all.Remove(victim)
		evicted = victim.Value
	}
	s.negotiating = n.all.Add(source, s)
	return evicted
}

// identified counts s for its client's source. Until its PROXY header was read,
// it counted for the balancer.
func (n *negotiators) identified(s *session) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.all.Move(s.negotiating, fair.SourceOf(s.from.Addr()))
}

// leave removes s, if it is still there.
func (n *negotiators) leave(s *session) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.all.Remove(s.negotiating)
	s.negotiating = nil
}

// turnAway counts a client for whom there was no room. Each reason is logged once
// a minute.
func (s *Server) turnAway(reason, why string) {
	s.opts.Metrics.turnedAway.WithLabelValues(reason).Inc()
	line, _ := s.turnedAway.LoadOrStore(reason, new(logEvery))
	if line.(*logEvery).due() {
		s.opts.Logger.Warn("clients are turned away", slog.String("reason", reason), slog.String("error", why))
	}
}

func outOfDescriptors(err error) bool {
	return errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE)
}

// shed accepts the client that has waited longest, with the spare descriptor, and
// closes it, so that the client can try another replica at once. It reports false
// if that fails or no client waits.
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

// spare is a descriptor that is kept for when the process has no other. One
// goroutine may use it at a time.
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

// give frees the descriptor for another use. If it reports true, take must follow.
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

// logEvery limits a log line to one a minute. The zero value is ready for use.
type logEvery struct{ last atomic.Int64 }

// due reports whether the line may be logged now.
func (l *logEvery) due() bool {
	now, last := time.Now().UnixNano(), l.last.Load()
	return (last == 0 || now-last >= int64(time.Minute)) && l.last.CompareAndSwap(last, now)
}
