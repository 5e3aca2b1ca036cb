package udp

import (
	"errors"
	"net/netip"
	"syscall"

	"golang.org/x/sys/unix"
)

// askArrival makes the system report the local address of each datagram that arrives at
// a UDP socket. own is the address of the socket. size is the number of bytes that a
// report takes.
func askArrival(c syscall.RawConn, own netip.Addr) (size int, err error) {
	if own.Is4() {
		return unix.CmsgSpace(unix.SizeofInet4Pktinfo), setInt(c, unix.IPPROTO_IP, unix.IP_PKTINFO)
	}
	return unix.CmsgSpace(unix.SizeofInet6Pktinfo), setInt(c, unix.IPPROTO_IPV6, unix.IPV6_RECVPKTINFO)
}

// arrival returns the local address from the control message of a datagram (ip(7), RFC
// 3542 section 6), or the zero Addr. A link-local address does not count, because it
// has no zone.
func arrival(control []byte) netip.Addr {
	if len(control) == 0 { // it arrived before askArrival
		return netip.Addr{}
	}
	h, data, _, err := unix.ParseOneSocketControlMessage(control)
	switch {
	case err != nil:
	case h.Level == unix.IPPROTO_IP && h.Type == unix.IP_PKTINFO && len(data) >= unix.SizeofInet4Pktinfo:
		return netip.AddrFrom4([4]byte(data[4:8])) // ipi_spec_dst
	case h.Level == unix.IPPROTO_IPV6 && h.Type == unix.IPV6_PKTINFO && len(data) >= unix.SizeofInet6Pktinfo:
		if a := netip.AddrFrom16([16]byte(data[:16])); !a.IsLinkLocalUnicast() {
			return a
		}
	}
	return netip.Addr{}
}

// sendFrom returns the control message with which a datagram leaves from one of our
// addresses. It returns nil for the zero Addr.
func sendFrom(source netip.Addr) []byte {
	switch {
	case !source.IsValid():
		return nil
	case source.Is4():
		return unix.PktInfo4(&unix.Inet4Pktinfo{Spec_dst: source.As4()})
	}
	return unix.PktInfo6(&unix.Inet6Pktinfo{Addr: source.As16()})
}

// setInt sets an option of a socket to 1.
func setInt(c syscall.RawConn, level, name int) error {
	var failed error
	err := c.Control(func(fd uintptr) { failed = unix.SetsockoptInt(int(fd), level, name, 1) })
	return errors.Join(err, failed)
}
