package udp

import (
	"bytes"
	"context"
	"fmt"
	"net/netip"

	"usher/proxy/decide"
	"usher/proxy/rules"
	"usher/proxy/socks"
)

// readClient reads what arrives at the front socket, from the client or others.
func (a *Association) readClient(ctx context.Context) error {
	names := cachedOnly(a.o.Names)
	err := a.front.each(0, func(b []byte, o origin) { a.count(a.fromClient(ctx, names, b, o)) })
	return fmt.Errorf("%w: %w", ErrClient, err)
}

// fromClient relays a datagram from the front socket to its target.
func (a *Association) fromClient(ctx context.Context, names *nameLookup, b []byte, o origin) outcome {
	if !a.client.mayBe(o.from) {
		return dropForeign
	}
	d, err := socks.ParseDatagram(b)
	if err != nil {
		return dropMalformed
	}
	if d.Frag != 0 { // RFC 1928: fragments that are not reassembled must be dropped
		return dropFragment
	}
	target := decide.Target(d.Addr)
	result := a.toTarget(ctx, names, o, target, d.Data)
	if result == needsName {
		data := bytes.Clone(d.Data) // the buffer is for the next datagram
		return a.whenNamed(ctx, func(names *nameLookup) outcome { return a.toTarget(ctx, names, o, target, data) })
	}
	return result
}

// toTarget judges a datagram of the client and sends it to one address that the
// rules pass.
func (a *Association) toTarget(ctx context.Context, names *nameLookup, o origin, target rules.Target, data []byte) outcome {
	names.unknown = false
	verdict, err := a.o.Judge.Datagram(o.from, target, &names.Names)
	if err != nil {
		return outcomeOf(err)
	}
	if !a.client.settle(o) {
		return dropForeign
	}
	if len(verdict.Addrs) == 1 {
		return a.send(ctx, netip.AddrPortFrom(verdict.Addrs[0], target.Port), data)
	}
	return a.sendToOne(ctx, verdict.Addrs, target.Port, data)
}

// sendToOne sends a datagram to the address of a name that is in use or tried now, see
// inOrder. If the system cannot send there, it tries the next one.
func (a *Association) sendToOne(ctx context.Context, addrs []netip.Addr, port uint16, data []byte) outcome {
	now, result := clock(), dropUnresolved
	for _, addr := range a.peers.inOrder(addrs, port, now) {
		to := netip.AddrPortFrom(addr, port)
		if result = a.send(ctx, to, data); result == relayed {
			a.peers.tried(to, now)
			break
		}
	}
	return result
}

// send sends a datagram to one address.
func (a *Association) send(ctx context.Context, to netip.AddrPort, data []byte) outcome {
	if err := a.o.Judge.Sendable(rules.UDPAssociate, to); err != nil {
		return outcomeOf(err)
	}
	upstream, err := a.upstreamFor(ctx, to.Addr())
	if err != nil {
		return outcomeOf(err)
	}
	a.peers.add(to) // before its answer can come
	result := a.write(upstream, data, to, netip.Addr{})
	if result == relayed {
		a.up.add(len(data))
	}
	return result
}
