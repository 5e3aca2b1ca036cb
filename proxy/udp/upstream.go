package udp

import (
	"context"
	"net"
	"net/netip"
)

// upstreamFor returns the socket towards targets of the family of to. The first target
// of a family decides from which address all targets of that family are reached.
func (a *Association) upstreamFor(ctx context.Context, to netip.Addr) (*socket, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.closed {
		return nil, net.ErrClosed
	}
	if u := a.upstream[to.Is4()]; u != nil {
		return u, nil
	}
	from, err := a.o.Judge.Source(to)
	if err != nil {
		return nil, err
	}
	if !from.IsValid() {
		from = netip.AddrPortFrom(unspecified(to), 0)
	}
	u, err := listen(from, a.o.MayWrite)
	if err != nil {
		return nil, err
	}
	a.upstream[to.Is4()] = u
	a.running.Go(func() { a.fail(a.readTargets(ctx, u)) })
	return u, nil
}

// unspecified returns the address of a's family that stands for all of ours.
func unspecified(a netip.Addr) netip.Addr {
	if a.Is4() {
		return netip.IPv4Unspecified()
	}
	return netip.IPv6Unspecified()
}
