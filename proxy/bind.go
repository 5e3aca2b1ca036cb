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
	expected, bound, err := s.bindForPeer(ctx)
	if err != nil {
		return nil, err
	}
	defer bound.Close()
	if err := s.admitRequest(ctx); err != nil { // the slot comes before the listener
		return nil, err
	}
	peer, err := s.awaitPeer(bound)
	if err != nil {
		return nil, err
	}
	if err := s.judgePeer(ctx, expected); err != nil {
		return nil, err
	}
	return peer, peer.SetKeepAliveConfig(keepAliveOf(s.awaited.rule.KeepAlives.External))
}

// bindForPeer asks the rules about the request, and returns the addresses from which
// the peer may connect (an unspecified one is any) and a socket for it. The socket is
// bound but does not listen yet, because the rules judge its address.
// timeout.connect limits all lookups of names together.
func (s *session) bindForPeer(ctx context.Context) (expected []netip.Addr, bound *os.File, err error) {
	ctx, cancel := connecting(ctx, time.Now(), s.gen.policy.Rules.Settings.Timeouts.Connect)
	defer cancel()
	bind := func(at netip.AddrPort) (_ netip.AddrPort, err error) {
		bound, err = s.bindNear(at)
		return s.awaited.at, err
	}
	d := s.decision()
	expected, s.socksRule, err = d.Bind(decide.Target(s.request.Addr), s.names(ctx), bind)
	if err != nil && bound != nil {
		bound.Close()
	}
	return expected, bound, err
}

// awaitPeer listens, sends the first reply, and accepts one connection. No client
// may connect to this socket through this server: the peer would then seem to be
// the server itself. Server.awaiting has the address until the session ends, so
// that attempt also notices a connection that it began before.
func (s *session) awaitPeer(bound *os.File) (*net.TCPConn, error) {
	s.server.awaiting.Add(s.awaited.at)
	s.sockets.closeOnEnd(closer(func() { s.server.awaiting.Remove(s.awaited.at) }))
	ln, err := sockopt.ListenOne(bound)
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
	return s.admitRequest(ctx)
}

// bindNear binds a socket to at, or to another port of its address if that one is
// taken or 0. It sets s.awaited.at.
func (s *session) bindNear(at netip.AddrPort) (*os.File, error) {
	if at.Port() != 0 {
		if bound, err := s.bindTo(at); err == nil {
			return bound, nil
		}
	}
	return s.bindTo(netip.AddrPortFrom(at.Addr(), 0))
}

// bindTo binds a socket to a, and sets s.awaited.at.
func (s *session) bindTo(a netip.AddrPort) (*os.File, error) {
	bound, port, err := sockopt.Bind(a)
	if err != nil {
		return nil, err
	}
	s.awaited.at = netip.AddrPortFrom(a.Addr().WithZone(""), port)
	return bound, nil
}
