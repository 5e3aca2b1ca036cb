// Package selfaddr tells which addresses are this machine's own, and which of the
// proxy's sockets a connection to them would reach. A proxy must not connect to itself:
// the connection would come from its own address, so rules could not see the client.
package selfaddr

import (
	"net"
	"net/netip"
	"slices"
)

// Reaches reports whether a connection or a datagram to an address arrives at
// a socket bound to one of own. The unspecified addresses 0.0.0.0 and :: in own
// are all addresses of their family.
func Reaches(own []netip.AddrPort, to netip.AddrPort) bool {
	return slices.ContainsFunc(own, func(o netip.AddrPort) bool { return o.Port() == to.Port() && reaches(to.Addr(), o.Addr()) })
}

// reaches compares addresses without ports. It asks the system each time. It is called
// only for ports that are ours.
func reaches(to, own netip.Addr) bool {
	to, own = to.Unmap().WithZone(""), own.Unmap()
	return own == to || own.IsUnspecified() && own.Is4() == to.Is4() && (IsLocal(to) || isRoutedHere(to))
}

// IsLocal reports whether an address is one of this machine's interfaces, or one that
// every machine has (loopback, unspecified). It reports true if the system does not
// tell, because refusing is better than a loop.
func IsLocal(a netip.Addr) bool {
	if a.IsLoopback() || a.IsUnspecified() {
		return true
	}
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return true
	}
	return slices.ContainsFunc(addrs, func(i net.Addr) bool {
		prefix, err := netip.ParsePrefix(i.String())
		return err == nil && prefix.Addr().Unmap() == a
	})
}

// Toward returns the address from which the system would connect to another
// one. It sends nothing: connecting a UDP socket only looks up the route.
func Toward(to netip.Addr) (netip.Addr, error) {
	route, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(netip.AddrPortFrom(to, 9)))
	if err != nil {
		return netip.Addr{}, err
	}
	defer route.Close()
	return route.LocalAddr().(*net.UDPAddr).AddrPort().Addr().Unmap().WithZone(""), nil
}
