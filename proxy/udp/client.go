package udp

import (
	"net/netip"
	"slices"
	"sync/atomic"
)

// Client is where an association takes datagrams from.
type Client struct {
	Addr netip.Addr // the zero Addr: anywhere in Within
	Port uint16     // 0: any
	// Within are the networks of which one holds the client, if Addr does not say it.
	Within []netip.Prefix
}

// Complete reports whether exactly one address and port is meant.
func (c Client) Complete() bool { return c.Addr.IsValid() && c.Port != 0 }

func (c Client) allows(from netip.AddrPort) bool {
	if c.Port != 0 && c.Port != from.Port() {
		return false
	}
	if c.Addr.IsValid() {
		return c.Addr == from.Addr()
	}
	return slices.ContainsFunc(c.Within, func(n netip.Prefix) bool { return n.Contains(from.Addr()) })
}

// sender is the client's socket: any that is expected, until the rules have passed
// a datagram of one. From then on it is that one for good. It is safe for
// concurrent use.
type sender struct {
	expected Client
	known    atomic.Pointer[origin] // nil until then
}

// mayBe reports whether the client may be at from.
func (s *sender) mayBe(from netip.AddrPort) bool {
	if known := s.known.Load(); known != nil {
		return known.from == from
	}
	return s.expected.allows(from)
}

// settle makes o the client's socket, unless there is one already, and reports
// whether it is o. The rules have passed a datagram from there.
func (s *sender) settle(o origin) bool {
	if s.known.Load() == nil {
		first := new(origin)
		*first = o
		s.known.CompareAndSwap(nil, first)
	}
	return s.known.Load().from == o.from
}
