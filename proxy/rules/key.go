package rules

import (
	"net/netip"
	"strings"
)

// defaultKeyIPv6 is the prefix length of the smallest network that a customer gets (RFC
// 6177). If single addresses counted, one client would have 2^64 keys.
const defaultKeyIPv6 = 64

// Key returns the key under which r counts a session: "from=" and the client's address
// or network, or "user=" and the name; "" if r counts by no key. Replicas with the same
// digest make the same keys.
func (s *Set) Key(r *Rule, client netip.Addr, user string) string {
	switch r.Session.Key {
	case KeyFrom:
		return "from=" + s.keyFrom(plain(client))
	case KeyUser:
		return "user=" + user
	}
	return ""
}

// keyFrom returns an IPv4 address as it is and the network of an IPv6 address.
func (s *Set) keyFrom(client netip.Addr) string {
	bits := s.Settings.KeyIPv6
	if !client.Is6() || bits == client.BitLen() {
		return client.String()
	}
	return netip.PrefixFrom(client, bits).Masked().String()
}

// printKey writes session.state.key.ipv6 if it is not the default.
func (s *Settings) printKey(b *strings.Builder) {
	if s.KeyIPv6 != defaultKeyIPv6 {
		number(b, "", "session.state.key.ipv6", int64(s.KeyIPv6))
	}
}
