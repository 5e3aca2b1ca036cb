package udp

import (
	"net/netip"

	"usher/proxy/selfaddr"
)

// frontAddress returns the address of the socket that faces a client, and the
// one that the client is told: the first advertised one of the client's family,
// else local, on which its connection came in, as in Dante. An advertised
// address that is not this machine's is translated on its way here, to which of
// ours we cannot know. Loopback is every machine's: it is ours if the client
// came over it, and else perhaps that of a container's host.
func frontAddress(addresses []netip.Addr, from, local netip.Addr) (bound, advertised netip.Addr) {
	for _, a := range addresses {
		switch {
		case a.Is4() != from.Is4():
		case selfaddr.IsLocal(a) && (!a.IsLoopback() || local.IsLoopback()):
			return a, a
		case a.Is4():
			return netip.IPv4Unspecified(), a
		default:
			return netip.IPv6Unspecified(), a
		}
	}
	return local, local
}
