// Package fair divides scarce resources among the sources of clients, so that one
// source cannot take everything. A source is an IPv4 address or an IPv6 /64.
package fair

import "net/netip"

// SourceOf returns the network within which one client can choose its address: the IPv4
// address, or the IPv6 /64.
func SourceOf(client netip.Addr) netip.Prefix {
	bits := 32
	if client = client.Unmap().WithZone(""); client.Is6() {
		bits = 64
	}
	return netip.PrefixFrom(client, bits).Masked()
}
