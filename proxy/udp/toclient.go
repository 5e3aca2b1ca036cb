package udp

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/netip"

	"usher/proxy/decide"
	"usher/proxy/socks"
)

// readTargets reads what arrives at an upstream socket, from targets or others.
func (a *Association) readTargets(ctx context.Context, upstream *socket) error {
	names := cachedOnly(a.o.Names)
	// A datagram that is too long for the rest of the buffer is cut off here. It
	// would be too long with its header, too, so the system refuses to send it.
	err := upstream.each(socks.MaxUDPHeaderIP, func(b []byte, o origin) { a.count(a.fromTarget(ctx, names, b, o.from)) })
	return fmt.Errorf("%w: %w", ErrTarget, err)
}

// fromTarget relays a datagram from an upstream socket to the client. b has room for
// the header before the datagram.
func (a *Association) fromTarget(ctx context.Context, names *nameLookup, b []byte, from netip.AddrPort) outcome {
	if a.o.Judge.Policy.Rules.Settings.ConnectDst && !a.peers.has(from) {
		return dropUnsolicited
	}
	result := a.toClient(names, b, from)
	if result == needsName {
		b := bytes.Clone(b) // the buffer is for the next datagram
		return a.whenNamed(ctx, func(names *nameLookup) outcome { return a.toClient(names, b, from) })
	}
	return result
}

// toClient judges a datagram of a peer and sends it to the client.
func (a *Association) toClient(names *nameLookup, b []byte, from netip.AddrPort) outcome {
	client := a.client.known.Load() // not nil: the client's first datagram has opened the socket
	names.unknown = false
	_, err := a.o.Judge.UDPReply(from, client.from, &names.Names)
	switch {
	case errors.Is(err, decide.ErrBlocked):
		return dropReplyBlocked
	case err != nil:
		return outcomeOf(err)
	}
	a.peers.heard(from)
	start := socks.MaxUDPHeaderIP - socks.UDPHeaderLen(from.Addr())
	if _, err := socks.AppendUDPHeader(b[start:start], socks.AddrOf(from)); err != nil {
		return dropMalformed // cannot be: an address is not too long
	}
	result := a.write(a.front, b[start:], client.from, client.at)
	if result == relayed {
		a.down.add(len(b) - socks.MaxUDPHeaderIP)
	}
	return result
}
