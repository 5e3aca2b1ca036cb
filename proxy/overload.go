package proxy

import (
	"cmp"
	"errors"
	"log/slog"
	"math"
	"net"
	"syscall"
	"time"

	"usher/proxy/fair"
	"usher/proxy/race"
	"usher/proxy/socks"
)

// shedTime is how long shed waits for a client that it can close. The system reports a
// lack of descriptors even if no client waits.
const shedTime = 5 * time.Millisecond

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
// The error is errSessions, errConnecting or errSource.
func (s *Server) takePlaces(sess *session) (connected func(), err error) {
	before, after := placesOf(sess.request)
	share, err := s.places.Take(fair.SourceOf(sess.from.Addr()), before)
	switch {
	case errors.Is(err, fair.ErrWaiting):
		return nil, errConnecting
	case errors.Is(err, fair.ErrShare):
		return nil, errSource
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
