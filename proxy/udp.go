package proxy

import (
	"cmp"
	"context"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"usher/proxy/selfaddr"
	"usher/proxy/socks"
)

// associate fulfils UDP ASSOCIATE. The association lives as long as the
// client's connection, which carries nothing but its end.
func (s *session) associate(ctx context.Context) (relay func() error, err error) {
	if s.request.Version != socks.V5 {
		return nil, fmt.Errorf("%w: UDP is in SOCKS 5 only", errCommand)
	}
	a, told, err := s.openAssociation(ctx)
	if err != nil {
		return nil, err
	}
	if err := s.succeed(socks.AddrOf(told)); err != nil {
		return nil, err
	}
	return func() error { return a.relay(ctx, s.socksRule.Timeouts.IOUDP) }, nil
}

// openAssociation judges the request and opens the socket that faces the
// client; told is the address that the client is to send to.
func (s *session) openAssociation(ctx context.Context) (a *association, told netip.AddrPort, err error) {
	defer s.watch(true)()
	client := s.expectedClient()
	if err := s.judgeAssociation(ctx, client); err != nil {
		return nil, told, err
	}
	if err := s.move(ctx); err != nil {
		return nil, told, err
	}
	bound, toldAddr := frontAddress(s.server.opts.UDPAdvertise, s.from.Addr(), addrPort(s.client.LocalAddr()).Addr())
	front, err := listenUDPIn(s.zoned(bound), cmp.Or(s.socksRule.UDPPorts, s.server.opts.UDPPorts), &s.server.fronts, s.valid)
	if err != nil {
		return nil, told, fmt.Errorf("%w: %w", errUDPSocket, err)
	}
	if bound.IsUnspecified() { // answers have to come from where the client sends to
		if err := front.noteArrival(); err != nil {
			front.close()
			return nil, told, fmt.Errorf("%w: %w", errUDPSocket, err)
		}
	}
	told = netip.AddrPortFrom(toldAddr, front.local.Port())
	a = newAssociation(s, client, front, told)
	s.udp = a
	s.sockets.hold(a)
	return a, told, nil
}

// judgeAssociation asks the rules about the request for an association, see
// decide.Session.Associate.
func (s *session) judgeAssociation(ctx context.Context, client udpClient) (err error) {
	ctx, cancel := connecting(ctx, time.Now(), s.gen.policy.Rules.Settings.Timeouts.Connect)
	defer cancel()
	var source netip.AddrPort
	if client.isComplete() {
		source = netip.AddrPortFrom(client.addr, client.port)
	}
	d := s.decision()
	s.socksRule, err = d.Associate(source, s.isHidden(), s.names(ctx))
	return err
}

// frontAddress returns the address of the socket that faces a client, and the
// one that the client is told: the first advertised one of the client's family,
// else local, on which its connection came in, as in Dante. An advertised
// address that is not this machine's is translated on its way here, to which of
// ours we cannot know. Loopback is every machine's: it is ours if the client
// came over it, and else perhaps that of a container's host.
func frontAddress(advertised []netip.Addr, from, local netip.Addr) (bound, told netip.Addr) {
	for _, a := range advertised {
		switch {
		case a.Is4() != from.Is4():
		case selfaddr.IsLocal(a) && (!a.IsLoopback() || local.IsLoopback()):
			return a, a
		case a.Is4():
			return netip.IPv4Unspecified(), a
		default:
			return netip.IPv6Unspecified(), a
		}
	}
	return local, local
}

// udpClient is from where an association takes datagrams.
type udpClient struct {
	addr netip.Addr // the zero Addr: anywhere
	port uint16     // 0: any
}

func (c udpClient) isComplete() bool { return c.addr.IsValid() && c.port != 0 }

func (c udpClient) allows(from netip.AddrPort) bool {
	return (!c.addr.IsValid() || c.addr == from.Addr()) && (c.port == 0 || c.port == from.Port())
}

// expectedClient returns from where the client's datagrams will come: the
// address of its connection, by the PROXY header if there is one, and the port
// that it announced. Another address that it announces is ignored together
// with its port, as an address translator changes both.
//
// Only a client whom a balancer hides, one of Options.UDPRelayFrom, is taken
// at its word, if that is an address with its port; if it is half of that or
// nothing, the first datagram that the rules pass says who it is.
func (s *session) expectedClient() udpClient {
	asked := s.request.Addr
	announced := udpClient{addr: asked.IP.Unmap(), port: asked.Port}
	if announced.addr.IsUnspecified() {
		announced.addr = netip.Addr{}
	}
	if asked.Name != "" {
		announced = udpClient{}
	}
	if s.isHidden() {
		if !announced.isComplete() {
			return udpClient{}
		}
		return announced
	}
	if announced.addr.IsValid() && announced.addr != s.from.Addr() {
		return udpClient{addr: s.from.Addr()}
	}
	return udpClient{addr: s.from.Addr(), port: announced.port}
}

// isHidden reports whether the client's connection is a balancer's that says
// nothing about the client.
func (s *session) isHidden() bool {
	return s.from == addrPort(s.client.RemoteAddr()) &&
		slices.ContainsFunc(s.server.opts.UDPRelayFrom, func(p netip.Prefix) bool { return p.Contains(s.from.Addr()) })
}
