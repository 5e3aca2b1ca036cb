package selfaddr

import (
	"encoding/binary"
	"net/netip"
	"os"

	"golang.org/x/sys/unix"
)

// isRoutedHere reports whether packets to a stay on this machine. This is true for more
// than the addresses of its interfaces: whole networks can be routed to the machine
// itself, such as 127.0.0.0/8.
func isRoutedHere(a netip.Addr) bool {
	answer, err := askRoute(a)
	if err != nil {
		return true // refusing is better than a loop
	}
	isRoute := answer.Header.Type == unix.RTM_NEWROUTE // otherwise there is no route to a
	return isRoute && (answer.Route.Type == unix.RTN_LOCAL || answer.Route.Type == unix.RTN_ANYCAST)
}

// routeMessage is the beginning of a message about a route (rtnetlink(7)). Its
// attributes follow.
type routeMessage struct {
	Header unix.NlMsghdr
	Route  unix.RtMsg
}

// askRoute asks the system for the route to an address. It sends no packet, and the
// answer arrives at once.
func askRoute(to netip.Addr) (answer routeMessage, err error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	if err != nil {
		return answer, os.NewSyscallError("socket", err)
	}
	defer unix.Close(fd)
	if err := unix.Sendto(fd, routeQuestion(to), 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return answer, os.NewSyscallError("sendto", err)
	}
	b := make([]byte, 4096)
	n, _, err := unix.Recvfrom(fd, b, unix.MSG_DONTWAIT)
	if err != nil {
		return answer, os.NewSyscallError("recvfrom", err)
	}
	_, err = binary.Decode(b[:n], binary.NativeEndian, &answer)
	return answer, err
}

func routeQuestion(to netip.Addr) []byte {
	family := byte(unix.AF_INET)
	if to.Is6() {
		family = unix.AF_INET6
	}
	address := to.AsSlice()
	attribute := unix.RtAttr{Type: unix.RTA_DST, Len: uint16(unix.SizeofRtAttr + len(address))}
	question := routeMessage{
		Header: unix.NlMsghdr{
			Len:  uint32(unix.SizeofNlMsghdr+unix.SizeofRtMsg) + uint32(attribute.Len),
			Type: unix.RTM_GETROUTE, Flags: unix.NLM_F_REQUEST,
		},
		Route: unix.RtMsg{Family: family, Dst_len: uint8(to.BitLen())},
	}
	// It does not fail, because all values have a fixed size.
	b, _ := binary.Append(nil, binary.NativeEndian, question)
	b, _ = binary.Append(b, binary.NativeEndian, attribute)
	return append(b, address...)
}
