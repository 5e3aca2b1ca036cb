package selfaddr

import (
	"net"
	"net/netip"
	"syscall"

	"golang.org/x/sys/unix"
)

// OfListener returns the addresses at which a TCP listener accepts connections,
// in the form that Reaches takes: 0.0.0.0 stands for every IPv4 address, :: for
// every IPv6 address. A listener at [::] of both families has both.
func OfListener(ln net.Listener) []netip.AddrPort {
	tcp, ok := ln.Addr().(*net.TCPAddr)
	if !ok {
		return []netip.AddrPort{{}}
	}
	at := tcp.AddrPort()
	at = netip.AddrPortFrom(at.Addr().Unmap().WithZone(""), at.Port())
	if at.Addr() == netip.IPv6Unspecified() && !isIPv6Only(ln) {
		return []netip.AddrPort{netip.AddrPortFrom(netip.IPv4Unspecified(), at.Port()), at}
	}
	return []netip.AddrPort{at}
}

// OfAddresses returns what OfListener would return for listeners at these addresses,
// without opening them. It leaves out addresses whose port the system chooses.
func OfAddresses(addrs []string) (found []netip.AddrPort) {
	for _, a := range addrs {
		tcp, err := net.ResolveTCPAddr("tcp", a)
		if err != nil || tcp.Port == 0 {
			continue
		}
		at := netip.AddrPortFrom(tcp.AddrPort().Addr().Unmap(), uint16(tcp.Port))
		if !at.Addr().IsValid() { // :1080
			found = append(found, netip.AddrPortFrom(netip.IPv4Unspecified(), at.Port()))
			at = netip.AddrPortFrom(netip.IPv6Unspecified(), at.Port())
		}
		found = append(found, at)
	}
	return found
}

// isIPv6Only reports whether a listener at [::] is known to accept no IPv4 connections.
func isIPv6Only(ln net.Listener) bool {
	socket, ok := ln.(syscall.Conn)
	if !ok {
		return false
	}
	raw, err := socket.SyscallConn()
	if err != nil {
		return false
	}
	only := 0
	err = raw.Control(func(fd uintptr) {
		if v, err := unix.GetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_V6ONLY); err == nil {
			only = v
		}
	})
	return err == nil && only != 0
}
