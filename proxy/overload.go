package proxy

import (
	"cmp"
	"errors"
	"log/slog"
	"math"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"usher/proxy/fair"
	"usher/proxy/race"
	"usher/proxy/socks"
)

// shedTime is how long shed waits for a client that it can close. The system reports a
// lack of descriptors even if no client waits.
const shedTime = 5 * time.Millisecond

// negotiators are the sessions whose clients have not made their request yet.
type negotiators struct {
	mu  sync.Mutex
	all fair.Crowd[*session]
}

// enter adds s. If there are then more than most, it removes other sessions and returns
// them. The caller must end them. fair.Crowd.Victim chooses them.
func (n *negotiators) enter(s *session, source netip.Prefix, most int) (evicted []*session) {
	n.mu.Lock()
	defer n.mu.Unlock()
	evicted = n.remove(most-1, source)
	s.negotiating = n.all.Add(source, s)
	return evicted
}

// shrink removes sessions until there are at most most, and returns them. The caller must
// end them.
func (n *negotiators) shrink(most int) (evicted []*session) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.remove(most, netip.Prefix{})
}

// remove does what shrink does, before a session of newcomer is added. n.mu is held.
func (n *negotiators) remove(most int, newcomer netip.Prefix) (evicted []*session) {
	for n.all.Len() > max(most, 0) {
		victim := n.all.Victim(newcomer)
		n.all.Remove(victim)
		evicted = append(evicted, victim.Value)
	}
	return evicted
}

// identified counts s for the source of its client. Before its PROXY header was read, it
// counted for the balancer.
func (n *negotiators) identified(s *session) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.all.SetSource(s.negotiating, fair.SourceOf(s.from.Addr()))
}

// leave removes s, if it is still there.
func (n *negotiators) leave(s *session) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.all.Remove(s.negotiating)
	s.negotiating = nil
}

// evict ends sessions that negotiate. It closes their sockets at once: the next
// client may need the descriptor before the session has ended.
func (s *Server) evict(sessions []*session) {
	for _, sess := range sessions {
		sess.sockets.cut(errEvicted)
		sess.sockets.close()
		s.turnAway("negotiating", errEvicted.Error())
	}
}

// MinNegotiating returns how many clients can negotiate when all places are taken. Each
// of them needs a descriptor.
func MinNegotiating(maxSessions int) int { return min(max(maxSessions/32, 1), 32) }

// mayNegotiate returns how many clients may negotiate now. A free place allows two of
// them, because it stands for two descriptors.
func (s *Server) mayNegotiate() int {
	most := cmp.Or(s.opts.MaxNegotiating, math.MaxInt)
	if s.opts.MaxSessions > 0 {
		most = min(most, MinNegotiating(s.opts.MaxSessions)+2*s.places.Free())
	}
	return most
}

// takePlaces takes the places of a session that has made its request, until its
// sockets are closed. connected must be called when it is connected or about to end.
// The error is errSessions or errConnecting.
func (s *Server) takePlaces(sess *session) (connected func(), err error) {
	before, after := placesOf(sess.request)
	share, err := s.places.Take(fair.SourceOf(sess.from.Addr()), before)
	switch {
	case errors.Is(err, fair.ErrShare):
		return nil, errConnecting
	case err != nil:
		return nil, errSessions
	}
	sess.sockets.closeOnEnd(share)
	s.evict(s.negotiators.shrink(s.mayNegotiate()))
	return func() { share.Settle(after) }, nil
}

// placesOf returns how many places a request takes before and after its session is
// connected. A place stands for two descriptors, such as those of a client and of a
// target.
func placesOf(r socks.Request) (before, after int) {
	switch {
	case r.Command == socks.Bind: // while it accepts: client, bound socket, listener, peer
		return 2, 1
	case r.Command == socks.UDPAssociate: // client, client-facing socket, an upstream for each family
		return 2, 2
	case r.Addr.Name != "": // client, and race.MaxAttempts sockets
		return (1 + race.MaxAttempts + 1) / 2, 1
	}
	return 1, 1
}

// turnAway counts a client that the server closes because it has no room. It logs each
// reason at most once a minute.
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

// shed uses the spare descriptor to accept the client that has waited longest, and closes
// its connection. The client can then try another replica at once. shed reports false if
// it fails or if no client waits.
func (s *Server) shed(ln net.Listener) bool {
	l, ok := ln.(interface {
		SetDeadline(t time.Time) error
		AcceptTCP() (*net.TCPConn, error)
	})
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

// spare is a reserved descriptor, for the time when the process has no other. One
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

// give frees the descriptor for another use. If it reports true, the caller must call
// take.
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

// take gets the descriptor back. If this fails, the next give tries again.
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

// logEvery limits a log line to one in a minute. The zero value is ready for use.
type logEvery struct{ last atomic.Int64 }

// due reports whether the line may be logged now.
func (l *logEvery) due() bool {
	now, last := time.Now().UnixNano(), l.last.Load()
	return (last == 0 || now-last >= int64(time.Minute)) && l.last.CompareAndSwap(last, now)
}
