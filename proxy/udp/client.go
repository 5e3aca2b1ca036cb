package udp

import (
	"net/netip"
	"slices"
	"sync/atomic"
	"time"
)

// Client says whose datagrams an association accepts.
type Client struct {
	Addr netip.Addr // the zero Addr: anywhere in Within
	Port uint16     // 0: any
	// Within are networks. The client is in one of them, if Addr is not given.
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

// sender is the client's socket. Until the rules have passed a datagram, it may be any
// expected one. From then on, it is the one that sent this datagram. If a NAT gives the
// client another port, sender changes, see mayHaveMoved. It is safe for concurrent use.
type sender struct {
	expected Client
	follow   time.Duration         // how long the port must have been silent; 0: it never follows
	known    atomic.Pointer[known] // nil until the rules have passed a datagram
	moves    atomic.Int64          // how often it has followed
}

// known is a socket of the client that the rules have passed.
type known struct {
	origin
	heard atomic.Int64 // when its last datagram came, by clock
}

// mayBe reports whether the client may be at from, where a datagram came from now.
func (s *sender) mayBe(from netip.AddrPort) bool {
	client := s.known.Load()
	switch {
	case client == nil:
		return s.expected.allows(from)
	case client.from != from:
		return s.mayHaveMoved(from, client)
	case s.follow != 0:
		client.heard.Store(int64(clock()))
	}
	return true
}

// mayHaveMoved reports whether a client may have another port now. It has the address
// of the client's connection, the client announced no port, and the old port has been
// silent. A client whose connection does not show its address never changes its port:
// only the source of its datagrams shows who it is, and a source can be forged.
func (s *sender) mayHaveMoved(from netip.AddrPort, client *known) bool {
	return s.follow != 0 && s.expected.Addr == from.Addr() && s.expected.Port == 0 &&
		clock()-time.Duration(client.heard.Load()) >= s.follow
}

// settle makes o the client's socket if there is none or the client may have moved,
// and reports whether o is the client's socket. The rules have passed a datagram from
// there.
func (s *sender) settle(o origin) bool {
	client := s.known.Load()
	if client == nil || client.from != o.from && s.mayHaveMoved(o.from, client) {
		next := &known{origin: o}
		next.heard.Store(int64(clock()))
		if s.known.CompareAndSwap(client, next) {
			if client != nil {
				s.moves.Add(1)
			}
			return true
		}
		client = s.known.Load()
	}
	return client.from == o.from
}
