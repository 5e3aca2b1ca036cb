package replicas

import (
	"net"
	"net/netip"
	"strconv"
)

// Advertise decides where other replicas reach the admin listener.
type Advertise struct {
	// Wanted is USHER_ADMIN_ADVERTISE. "" lets the rest decide.
	Wanted    string
	Listeners []net.Addr // of the admin listener
}

// address returns where others reach this replica, or why they do not. local is the
// address from which the store is reached.
func (a Advertise) address(local net.Addr) (address, why string) {
	if a.Wanted != "" {
		return a.Wanted, ""
	}
	if len(a.Listeners) == 0 {
		return "", "it has no admin listener (USHER_ADMIN_LISTEN=off)"
	}
	from, near := origin(local)
	for _, ln := range a.Listeners {
		tcp, ok := ln.(*net.TCPAddr)
		if !ok {
			continue
		}
		at := tcp.AddrPort()
		ip := at.Addr().Unmap()
		switch {
		case ip.IsUnspecified():
			if from.Is4() || ip.Is6() { // [::] is both families
				return net.JoinHostPort(from.String(), strconv.Itoa(int(at.Port()))), ""
			}
		case !ip.IsLoopback() || near:
			return netip.AddrPortFrom(ip, at.Port()).String(), ""
		}
	}
	return "", "its admin listener is not reached from other machines; set USHER_ADMIN_LISTEN or USHER_ADMIN_ADVERTISE there"
}

// origin returns the address of this machine in local, and whether the store is on this
// machine, too.
func origin(local net.Addr) (from netip.Addr, near bool) {
	tcp, ok := local.(*net.TCPAddr)
	if !ok { // a unix socket
		return netip.AddrFrom4([4]byte{127, 0, 0, 1}), true
	}
	from = tcp.AddrPort().Addr().Unmap()
	return from, from.IsLoopback()
}
