package proxy

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"time"

	"usher/proxy/rules"
	"usher/proxy/socks"
)

// minAttempt is the least time that one of several addresses gets, so that
// the first ones of a long list have a chance.
const minAttempt = 2 * time.Second

// resolve returns the target of CONNECT as the rules see it, and its addresses
// in the resolver's order.
func (s *session) resolve(ctx context.Context) (rules.Target, []netip.Addr, error) {
	target := rules.Target{Port: s.request.Addr.Port}
	target.Addr, _ = literal(s.request.Addr)
	if err := CheckTarget(target); err != nil {
		return target, nil, err
	}
	name, addrs, err := s.addresses(ctx)
	target.Name = name
	return target, addrs, err
}

// addresses returns those of the request, at least one. An address, even one
// sent as a name, never asks a resolver, and has no name here.
func (s *session) addresses(ctx context.Context) (name string, addrs []netip.Addr, err error) {
	asked := s.request.Addr
	if ip, ok := literal(asked); ok {
		return "", []netip.Addr{ip}, nil
	}
	addrs, err = s.server.names.Lookup(ctx, asked.Name)
	switch {
	case err != nil:
		return "", nil, fmt.Errorf("%w: %w", errUnresolved, err)
	case len(addrs) == 0:
		return "", nil, errUnresolved
	}
	return strings.TrimSuffix(asked.Name, "."), addrs, nil
}

// literal returns the address that a client asks for, even as a name; ok is
// false if it is a name indeed.
func literal(asked socks.Addr) (ip netip.Addr, ok bool) {
	if asked.Name == "" {
		return asked.IP.Unmap(), true
	}
	ip, err := netip.ParseAddr(asked.Name)
	return ip.WithZone("").Unmap(), err == nil
}

// lookup returns the function by which rules resolve names of their own.
func (s *session) lookup(ctx context.Context) func(string) []netip.Addr {
	return func(name string) []netip.Addr {
		addrs, err := s.server.names.Lookup(ctx, name)
		if err != nil {
			return nil // a rule whose name does not resolve matches no address
		}
		return addrs
	}
}

// dial connects to the first of addrs that answers. The error is the last
// one's, unless a host has answered and refused: that says more than that
// another one could not be reached.
func (s *session) dial(ctx context.Context, addrs []netip.Addr, port uint16) (*net.TCPConn, error) {
	err := errUnresolved // unless there is an address, which the rules see to
	for i, a := range addrs {
		to := netip.AddrPortFrom(a, port)
		target, failed := s.dialOne(ctx, to, len(addrs)-i)
		if failed == nil {
			s.dialled = to
			return target, nil
		}
		if cause := context.Cause(ctx); cause != nil {
			return nil, cause
		}
		if outcomeOf(err).code != socks.ConnectionRefused {
			err = failed
		}
	}
	return nil, err
}

// dialOne connects to one address; left is how many there are to try, with it.
func (s *session) dialOne(ctx context.Context, to netip.AddrPort, left int) (*net.TCPConn, error) {
	if s.server.ownAddress(to) || s.server.awaiting.has(to) {
		return nil, errSelf
	}
	from, err := s.external(to.Addr())
	if err != nil {
		return nil, err
	}
	if end, ok := ctx.Deadline(); ok && left > 1 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, share(time.Until(end), left))
		defer cancel()
	}
	// KeepAlive is what a configuration that is off leaves to the dialer.
	d := net.Dialer{KeepAlive: -1, KeepAliveConfig: keepAliveOf(s.socksRule.KeepAlives.External), Control: urgentInline}
	if from.IsValid() { // never bind for nothing: each such socket would have a port of its own, and there are few
		d.LocalAddr, d.Control = net.TCPAddrFromAddrPort(from), choosePortLate
	}
	conn, err := d.DialContext(ctx, "tcp", to.String())
	if err != nil {
		return nil, err
	}
	if s.server.awaiting.has(to) { // since we began to connect
		_ = conn.Close()
		return nil, errSelf
	}
	return conn.(*net.TCPConn), nil
}

// share returns what one address gets of the time for left of them.
func share(all time.Duration, left int) time.Duration {
	return max(all/time.Duration(left), minAttempt)
}

// external returns the address to connect to an address from, see Policy.Source.
func (s *session) external(to netip.Addr) (netip.AddrPort, error) {
	return s.gen.policy.Source(to, s.accepted())
}

// accepted returns the address of this machine that the client's connection
// came in on.
func (s *session) accepted() netip.Addr { return addrPort(s.client.LocalAddr()).Addr() }

// zoned returns a with the zone that the client's connection came in by, if a
// is link-local: else the system could not tell on which interface it is.
// Nothing else here knows zones, neither SOCKS nor the rules.
func (s *session) zoned(a netip.Addr) netip.Addr {
	if local, ok := s.client.LocalAddr().(*net.TCPAddr); ok && a.Is6() && a.IsLinkLocalUnicast() {
		return a.WithZone(local.Zone)
	}
	return a
}
