package proxy

import (
	"cmp"
	"context"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"usher/proxy/socks"
	"usher/proxy/udp"
)

// associate fulfils UDP ASSOCIATE. The association lives as long as the
// client's connection, which carries nothing but its end.
func (s *session) associate(ctx context.Context) (relay func() error, err error) {
	if s.request.Version != socks.V5 {
		return nil, fmt.Errorf("%w: UDP is in SOCKS 5 only", errCommand)
	}
	if s.udp, err = s.openAssociation(ctx); err != nil {
		return nil, err
	}
	s.sockets.closeOnEnd(s.udp)
	if err := s.succeed(socks.AddrOf(s.udp.Advertised())); err != nil {
		return nil, err
	}
	return func() error { return s.udp.Run(ctx, s.socksRule.Timeouts.IOUDP) }, nil
}

// openAssociation judges the request and opens the association.
func (s *session) openAssociation(ctx context.Context) (*udp.Association, error) {
	defer s.watch(true)()
	client, err := s.expectedClient()
	if err != nil {
		return nil, err
	}
	if err := s.judgeAssociation(ctx, client); err != nil {
		return nil, err
	}
	if err := s.admitRequest(ctx); err != nil {
		return nil, err
	}
	o := udp.Options{
		Judge: s.decision(), Names: s.server.names, Metrics: s.server.opts.Metrics.udp,
		Control: s.client, Client: client, Follow: s.server.opts.UDPFollow,
		Advertise: s.server.opts.UDPAdvertise, Ports: cmp.Or(s.socksRule.UDPPorts, s.server.opts.UDPPorts),
		Heard: &s.server.clientSockets, MayWrite: s.valid, Up: &s.up, Down: &s.down, Moved: &s.moved,
	}
	o.Judge.Machine = s.server.udp
	return udp.Open(o)
}

// judgeAssociation asks the rules about the request for an association, see
// decide.Session.Associate.
func (s *session) judgeAssociation(ctx context.Context, client udp.Client) (err error) {
	ctx, cancel := connecting(ctx, time.Now(), s.gen.policy.Rules.Settings.Timeouts.Connect)
	defer cancel()
	var source netip.AddrPort
	if client.Complete() {
		source = netip.AddrPortFrom(client.Addr, client.Port)
	}
	d := s.decision()
	s.socksRule, err = d.Associate(source, s.isHidden(), s.names(ctx))
	return err
}

// expectedClient returns from where the client's datagrams will come: the
// address of its connection (that of the PROXY header, if there is one), and the
// port that it announced. If it announced another address, both this address and
// the port are ignored, because an address translator changes both.
//
// A client behind one of Options.UDPRelayFrom is different: its connection has the
// address of the balancer. The announced address counts if it has a port. Otherwise the
// first datagram that the rules pass fixes the client's address, but only from
// Options.UDPRelayClients, because a stranger who sends to all ports may be faster than
// the client. The error is errUDPAnnounced if there are no such networks.
func (s *session) expectedClient() (udp.Client, error) {
	asked := s.request.Addr
	announced := udp.Client{Addr: asked.IP.Unmap(), Port: asked.Port}
	if announced.Addr.IsUnspecified() {
		announced.Addr = netip.Addr{}
	}
	if asked.Name != "" {
		announced = udp.Client{}
	}
	switch within := s.server.opts.UDPRelayClients; {
	case s.isHidden() && announced.Complete():
		return announced, nil
	case s.isHidden() && len(within) == 0:
		return udp.Client{}, errUDPAnnounced
	case s.isHidden():
		return udp.Client{Within: within}, nil
	case announced.Addr.IsValid() && announced.Addr != s.from.Addr():
		return udp.Client{Addr: s.from.Addr()}, nil
	}
	return udp.Client{Addr: s.from.Addr(), Port: announced.Port}, nil
}

// isHidden reports whether the client's connection is a balancer's that says
// nothing about the client.
func (s *session) isHidden() bool {
	return s.from == addrPort(s.client.RemoteAddr()) &&
		slices.ContainsFunc(s.server.opts.UDPRelayFrom, func(p netip.Prefix) bool { return p.Contains(s.from.Addr()) })
}
