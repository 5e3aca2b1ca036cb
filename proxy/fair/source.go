// Package fair divides scarce resources among the sources of clients, so that one
// source cannot take everything. A source is an IPv4 address or an IPv6 /64.
package fair

import "net/netip"

// SourceOf returns the network from which one client can be expected to choose
// its addresses: an IPv4 address, or a /64 of IPv6.
func SourceOf(client netip.Addr) netip.Prefix {
	bits := 32
	if client = client.Unmap().WithZone(""); client.Is6() {
		bits = 64
	}
	return netip.PrefixFrom(client, bits).Masked()
}
