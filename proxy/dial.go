package proxy

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	"usher/proxy/rules"
)

// Resolver resolves names; *net.Resolver does. network is "ip".
type Resolver interface {
	LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error)
}

// minAttempt is the least time that one of several addresses gets, so that
// the first ones of a long list have a chance.
const minAttempt = 2 * time.Second

// keepAlive finds peers that vanished: after two minutes of silence a dead
// session gives its slot back, and one that is half closed for good, too.
var keepAlive = net.KeepAliveConfig{Enable: true, Idle: 60 * time.Second, Interval: 15 * time.Second, Count: 4}

// resolve returns the target as the rules see it, and its addresses in the
// resolver's order. A numeric target, even one sent as a name, is its own
// address and never asks a resolver.
func (s *session) resolve(ctx context.Context) (rules.Target, []netip.Addr, error) {
	asked := s.request.Addr
	ip := asked.IP
	if asked.Name != "" {
		if parsed, err := netip.ParseAddr(asked.Name); err == nil {
			ip = parsed.WithZone("")
		}
	}
	ip = ip.Unmap()
	target := rules.Target{Addr: ip, Port: asked.Port}
	switch {
	case asked.Port == 0 || ip.IsUnspecified(): // the system would take 0.0.0.0 for itself
		return target, nil, errTarget
	case ip.IsValid():
		return target, []netip.Addr{ip}, nil
	}
	target.Name = strings.TrimSuffix(asked.Name, ".")
	if limit := s.gen.policy.Rules.Settings.Timeouts.Connect; limit > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, limit)
		defer cancel()
	}
	addrs, err := s.server.lookup(ctx, asked.Name)
	switch {
	case err != nil:
		return target, nil, fmt.Errorf("%w: %w", errUnresolved, err)
	case len(addrs) == 0:
		return target, nil, errUnresolved
	}
	return target, addrs, nil
}

// lookup resolves a name once. Addresses that mean "this machine" by being
// unspecified are left out.
func (s *Server) lookup(ctx context.Context, name string) ([]netip.Addr, error) {
	found, err := s.opts.Resolver.LookupNetIP(ctx, "ip", name)
	if err != nil {
		return nil, err
	}
	addrs := make([]netip.Addr, 0, len(found))
	for _, a := range found {
		if a = a.Unmap().WithZone(""); !a.IsUnspecified() && !slices.Contains(addrs, a) {
			addrs = append(addrs, a)
		}
	}
	return addrs, nil
}

// lookup returns the function by which rules resolve names of their own.
func (s *session) lookup(ctx context.Context) func(string) []netip.Addr {
	return func(name string) []netip.Addr {
		addrs, err := s.server.lookup(ctx, name)
		if err != nil {
			return nil // a rule whose name does not resolve matches no address
		}
		return addrs
	}
}

// dial connects to the first of addrs that answers, within timeout.connect
// for all of them. The error is the last one's.
func (s *session) dial(ctx context.Context, addrs []netip.Addr, port uint16) (*net.TCPConn, error) {
	if limit := s.socksRule.Timeouts.Connect; limit > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, limit, errConnectTime)
		defer cancel()
	}
	err := errUnresolved // unless there is an address, which the rules see to
	for i, a := range addrs {
		to := netip.AddrPortFrom(a, port)
		var target *net.TCPConn
		if target, err = s.dialOne(ctx, to, len(addrs)-i); err == nil {
			s.dialled = to
			return target, nil
		}
		if cause := context.Cause(ctx); cause != nil {
			return nil, cause
		}
	}
	return nil, err
}

// dialOne connects to one address; left is how many there are to try, with it.
func (s *session) dialOne(ctx context.Context, to netip.AddrPort, left int) (*net.TCPConn, error) {
	if s.server.ownAddress(to) {
		return nil, errSelf
	}
	from, err := s.gen.policy.external(to.Addr())
	if err != nil {
		return nil, err
	}
	if end, ok := ctx.Deadline(); ok && left > 1 {
		share := max(time.Until(end)/time.Duration(left), minAttempt)
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, share)
		defer cancel()
	}
	d := net.Dialer{KeepAliveConfig: keepAlive}
	return d.DialTCP(ctx, "tcp", from, to)
}

// external returns the address to connect from, the zero one if the system
// chooses.
func (p *Policy) external(to netip.Addr) (netip.AddrPort, error) {
	for _, a := range p.External {
		if a = a.Unmap(); a.Is4() == to.Is4() {
			return netip.AddrPortFrom(a, 0), nil
		}
	}
	if len(p.External) > 0 {
		return netip.AddrPort{}, fmt.Errorf("%w: %v", errNoExternal, to)
	}
	return netip.AddrPort{}, nil
}
