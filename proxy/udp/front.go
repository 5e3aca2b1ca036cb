package udp

import (
	"net/netip"

	"usher/proxy/selfaddr"
)

// openFront opens the socket that faces the client, and returns the advertised address.
func openFront(o Options) (front *socket, told netip.AddrPort, err error) {
	bound, advertised := frontAddress(o.Advertise, o.Judge.From.Addr(), o.Judge.Local)
	at := bound
	if at.Is6() && at.IsLinkLocalUnicast() {
		at = at.WithZone(o.Judge.Zone)
	}
	front, err = listenIn(at, o.Ports, o.Heard, o.MayWrite)
	if err != nil {
		return nil, told, err
	}
	if bound.IsUnspecified() { // answers have to come from where the client sends to
		if err := front.noteArrival(); err != nil {
			front.close()
			return nil, told, err
		}
	}
	return front, netip.AddrPortFrom(advertised, front.local.Port()), nil
}

// frontAddress returns the address of the socket that faces a client, and the address
// that the client is told. This is the first of addresses that has the client's family,
// or else local, where its connection arrived, as in Dante. If it is not an address of
// this machine, somebody translates it, and we cannot know to which of ours. So the
// socket is bound to all. Every machine has the loopback address: it is ours only if
// the client connected over loopback. Otherwise it may be that of a container's host.
func frontAddress(addresses []netip.Addr, from, local netip.Addr) (bound, advertised netip.Addr) {
	for _, a := range addresses {
		switch {
		case a.Is4() != from.Is4():
		case selfaddr.IsLocal(a) && (!a.IsLoopback() || local.IsLoopback()):
			return a, a
		default:
			return unspecified(a), a
		}
	}
	return local, local
}
