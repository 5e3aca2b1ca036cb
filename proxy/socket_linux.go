package proxy

import (
	"net"
	"net/netip"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// listenConfig sets keep-alive on the listener, from which connections inherit
// it: net would make four calls for each. Urgent data stay where they are in the
// stream: they are relayed as any other, instead of being lost.
var listenConfig = net.ListenConfig{KeepAlive: -1, Control: func(_, _ string, c syscall.RawConn) error {
	return setInts(c, []option{
		{unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1},
		{unix.SOL_SOCKET, unix.SO_OOBINLINE, 1},
		{unix.IPPROTO_TCP, unix.TCP_KEEPIDLE, int(keepAlive.Idle / time.Second)},
		{unix.IPPROTO_TCP, unix.TCP_KEEPINTVL, int(keepAlive.Interval / time.Second)},
		{unix.IPPROTO_TCP, unix.TCP_KEEPCNT, keepAlive.Count},
	})
}}

// urgentInline keeps urgent data in the stream of a socket that is to connect,
// see listenConfig.
func urgentInline(_, _ string, c syscall.RawConn) error {
	return setInts(c, []option{{unix.SOL_SOCKET, unix.SO_OOBINLINE, 1}})
}

// choosePortLate does so, and leaves the port of a socket that is bound to an
// address to connect, which may share it among targets; bind would need one of
// its own.
func choosePortLate(_, _ string, c syscall.RawConn) error {
	return setInts(c, []option{
		{unix.SOL_SOCKET, unix.SO_OOBINLINE, 1},
		{unix.IPPROTO_IP, unix.IP_BIND_ADDRESS_NO_PORT, 1},
	})
}

// askArrival lets a UDP socket that is bound to own say with each datagram
// where it arrived, and returns how many bytes that takes.
func askArrival(c syscall.RawConn, own netip.Addr) (size int, err error) {
	if own.Is4() {
		return unix.CmsgSpace(unix.SizeofInet4Pktinfo), setInts(c, []option{{unix.IPPROTO_IP, unix.IP_PKTINFO, 1}})
	}
	return unix.CmsgSpace(unix.SizeofInet6Pktinfo), setInts(c, []option{{unix.IPPROTO_IPV6, unix.IPV6_RECVPKTINFO, 1}})
}

// arrival returns the address in what came with a datagram (ip(7), RFC 3542
// section 6), or the zero Addr. A link-local one is none without its zone.
func arrival(control []byte) netip.Addr {
	if len(control) == 0 { // it came before it was asked for
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

// sendFrom returns what to send with a datagram so that it leaves from an
// address of ours; nothing for the zero Addr.
func sendFrom(source netip.Addr) []byte {
	switch {
	case !source.IsValid():
		return nil
	case source.Is4():
		return unix.PktInfo4(&unix.Inet4Pktinfo{Spec_dst: source.As4()})
	}
	return unix.PktInfo6(&unix.Inet6Pktinfo{Addr: source.As16()})
}

type option struct{ level, name, value int }

func setInts(c syscall.RawConn, options []option) error {
	var failed error
	err := c.Control(func(fd uintptr) {
		for _, o := range options {
			if failed == nil {
				failed = unix.SetsockoptInt(int(fd), o.level, o.name, o.value)
			}
		}
	})
	if err != nil {
		return err
	}
	return failed
}
