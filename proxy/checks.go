package proxy

import (
	"fmt"
	"net"
	"net/netip"
	"slices"

	"usher/proxy/rules"
)

// CheckTarget returns why nothing is sent to a target, whatever the rules say:
// it has no port, or its address is an unspecified one, which the system would
// take for itself.
func CheckTarget(t rules.Target) error {
	if t.Port == 0 || t.Addr.IsUnspecified() {
		return errTarget
	}
	return nil
}

// CheckResolved returns why nothing is sent to a name: addrs, what it resolves
// to, is empty.
func CheckResolved(addrs []netip.Addr) error {
	if len(addrs) == 0 {
		return errUnresolved
	}
	return nil
}

// CheckDatagram returns why no datagram is sent to an address: no answer could
// come from a multicast one.
func CheckDatagram(to netip.Addr) error {
	if to.IsMulticast() {
		return errTarget
	}
	return nil
}

// CheckOwn returns why nothing is sent to an address: it would arrive at one of
// own, the listeners of this server, as BoundTo tells them.
func CheckOwn(to netip.AddrPort, own []netip.AddrPort) error {
	if slices.ContainsFunc(own, func(o netip.AddrPort) bool { return o.Port() == to.Port() && reaches(to.Addr(), o.Addr()) }) {
		return errSelf
	}
	return nil
}

// Source returns the address to connect to an address from, with port 0; the
// zero AddrPort if the system chooses. It is the first of p.External that has
// the family of to, or by external.rotation: same-same accepted, the one that
// the client was accepted on, and route the one that the system would choose.
// It is an error if none has the family, or if what the rotation says is not
// among those that have it.
func (p *Policy) Source(to, accepted netip.Addr) (netip.AddrPort, error) {
	if len(p.External) == 0 {
		return netip.AddrPort{}, nil
	}
	var ours []netip.Addr
	for _, a := range p.External {
		if a = a.Unmap(); a.Is4() == to.Is4() {
			ours = append(ours, a)
		}
	}
	if len(ours) == 0 {
		return netip.AddrPort{}, fmt.Errorf("%w: %v", errNoExternal, to)
	}
	switch rotation := p.Rules.Settings.Rotation; {
	case rotation == rules.RotationSameSame:
		if !slices.Contains(ours, accepted) {
			return netip.AddrPort{}, fmt.Errorf("%w for %v: the client was accepted on %v", errNoRoute, to, accepted)
		}
		return netip.AddrPortFrom(accepted, 0), nil
	case rotation == rules.RotationRoute && !to.IsUnspecified():
		from, err := routeFrom(to)
		if err == nil && !slices.Contains(ours, from) {
			err = fmt.Errorf("%w for %v: the route begins at %v", errNoRoute, to, from)
		}
		return netip.AddrPortFrom(from, 0), err
	}
	return netip.AddrPortFrom(ours[0], 0), nil
}

// routeFrom returns the address from which the system would connect to an
// address. Connecting a UDP socket sends nothing; it asks for the route.
func routeFrom(to netip.Addr) (netip.Addr, error) {
	route, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(netip.AddrPortFrom(to, 9)))
	if err != nil {
		return netip.Addr{}, err
	}
	defer route.Close()
	return route.LocalAddr().(*net.UDPAddr).AddrPort().Addr().Unmap().WithZone(""), nil
}

// BindPlace returns where BIND awaits a peer, on a request for peer and port
// that came in at the address accepted; an unspecified peer is anybody. The
// address is the external: one of the peer's family; without one, that from
// which the system would connect to the peer; and if the peer is not known,
// accepted. The port is 0 if the system chooses. The one asked for is taken if
// anybody may come to it, and it is not privileged; whether it is free is not
// known. It is an error if peer stands for Dante's own extension of BIND.
func (p *Policy) BindPlace(peer netip.Addr, port uint16, accepted netip.Addr) (netip.AddrPort, error) {
	if peer == extensionAddr {
		return netip.AddrPort{}, errTarget
	}
	if !peer.IsUnspecified() || port < 1024 {
		port = 0
	}
	from, err := p.Source(peer, accepted)
	switch {
	case err != nil:
		return netip.AddrPort{}, err
	case from.IsValid():
		return netip.AddrPortFrom(from.Addr(), port), nil
	case peer.IsUnspecified():
		return netip.AddrPortFrom(accepted, port), nil
	}
	local, err := routeFrom(peer)
	return netip.AddrPortFrom(local, port), err
}

// Refusal returns what a client is told of an error of the functions above, in
// the numbers of RFC 1928 section 6, and the reason that is logged.
func Refusal(err error) (reply int, reason string) {
	o := outcomeOf(err)
	return int(o.code), o.reason
}
