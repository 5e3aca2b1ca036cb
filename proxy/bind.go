package proxy

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"time"

	"usher/proxy/decide"
	"usher/proxy/sockopt"
	"usher/proxy/socks"
)

// bind fulfils BIND (RFC 1928 section 6): it awaits the one connection that
// the client's peer is going to make, as an FTP server does for active FTP.
// The first reply gives the address to connect to, the second one the peer's.
func (s *session) bind(ctx context.Context) (relay func() error, err error) {
	peer, err := s.acceptPeer(ctx)
	if err != nil {
		return nil, err
	}
	if err := s.succeed(socks.AddrOf(s.awaited.peer)); err != nil {
		return nil, err
	}
	return s.relayTo(peer, s.awaited.rule.Timeouts), nil
}

// acceptPeer returns the connection of the peer, which the rules let in.
func (s *session) acceptPeer(ctx context.Context) (*net.TCPConn, error) {
	defer s.watch(false)() // nothing may be sent before there is a peer
	s.awaited = new(awaited)
	expected, place, err := s.place(ctx)
	if err != nil {
		return nil, err
	}
	defer place.Close()
	if err := s.move(ctx); err != nil { // the slot comes before the listener
		return nil, err
	}
	peer, err := s.awaitPeer(place)
	if err != nil {
		return nil, err
	}
	if err := s.judgePeer(ctx, expected); err != nil {
		return nil, err
	}
	return peer, peer.SetKeepAliveConfig(keepAliveOf(s.awaited.rule.KeepAlives.External))
}

// place returns the addresses from which the peer may connect (an unspecified one
// is any), and the socket to wait on, which is bound and which the rules have
// passed. timeout.connect limits all lookups of names together.
func (s *session) place(ctx context.Context) (expected []netip.Addr, place *os.File, err error) {
	ctx, cancel := connecting(ctx, time.Now(), s.gen.policy.Rules.Settings.Timeouts.Connect)
	defer cancel()
	d := s.decision()
	expected, s.socksRule, err = d.Bind(decide.Target(s.request.Addr), s.names(ctx), func(at netip.AddrPort) (_ netip.AddrPort, err error) {
		place, err = s.reserve(at)
		return s.awaited.at, err
	})
	if err != nil && place != nil {
		place.Close()
	}
	return expected, place, err
}

// awaitPeer listens, sends the first reply, and accepts one connection. No client
// may connect to this socket through this server: the peer would then seem to be
// the server itself. Server.awaiting has the address until the session ends, so
// that dialOne also notices a connection that was begun before.
func (s *session) awaitPeer(place *os.File) (*net.TCPConn, error) {
	s.server.awaiting.Add(s.awaited.at)
	s.sockets.closeOnEnd(closer(func() { s.server.awaiting.Remove(s.awaited.at) }))
	ln, err := sockopt.ListenOne(place)
	if err != nil {
		return nil, err
	}
	s.sockets.closeOnEnd(ln)
	defer ln.Close() // one peer, no more
	if err := s.reply(socks.AddrOf(s.awaited.at)); err != nil {
		return nil, err
	}
	if err := ln.SetDeadline(time.Now().Add(s.server.opts.BindTimeout)); err != nil {
		return nil, err
	}
	peer, err := ln.AcceptTCP()
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		return nil, errBindTime
	case err != nil:
		return nil, err
	}
	s.sockets.closeOnEnd(peer)
	s.awaited.peer = addrPort(peer.RemoteAddr())
	return peer, nil
}

// judgePeer asks the rules about the peer. If the rule that lets the peer in has a
// limit, the session moves to that limit. Otherwise it keeps the slot that it has.
// In both cases, that rule decides about keep-alive.
func (s *session) judgePeer(ctx context.Context, expected []netip.Addr) error {
	naming, cancel := connecting(ctx, time.Now(), s.socksRule.Timeouts.Connect)
	defer cancel()
	d := s.decision()
	r, err := d.BindReply(s.awaited.peer, expected, s.names(naming))
	if err != nil {
		if errors.Is(err, decide.ErrBlocked) {
			s.socksRule = r
		}
		return err
	}
	s.awaited.rule = r
	s.keepClientAliveBy(r)
	if !decide.TakesOver(s.socksRule, r) {
		return nil
	}
	s.socksRule = r
	return s.move(ctx)
}

// reserve binds a socket that does not listen yet, and sets s.awaited.at. If the
// port of at is taken, the system chooses another one.
func (s *session) reserve(at netip.AddrPort) (*os.File, error) {
	if at.Port() != 0 {
		if place, err := s.bindTo(at); err == nil {
			return place, nil
		}
	}
	return s.bindTo(netip.AddrPortFrom(at.Addr(), 0))
}

// bindTo binds a socket to a, and sets s.awaited.at.
func (s *session) bindTo(a netip.AddrPort) (*os.File, error) {
	place, port, err := sockopt.Bind(a)
	if err != nil {
		return nil, err
	}
	s.awaited.at = netip.AddrPortFrom(a.Addr().WithZone(""), port)
	return place, nil
}
