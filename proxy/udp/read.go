package udp

import (
	"net/netip"
	"sync"

	"golang.org/x/sys/unix"
)

// maxDatagram is the size of a buffer for one datagram and its SOCKS header.
const maxDatagram = 64 << 10

// origin is where a datagram came from.
type origin struct {
	from netip.AddrPort
	at   netip.Addr // to which address of ours; the zero Addr unless noteArrival was called
}

// handler is called for each datagram that arrives at a socket. In b, the datagram
// begins after the headroom. b belongs to the handler until it returns. A handler must
// not close the socket, because the close waits for the handler.
type handler func(b []byte, o origin)

// datagrams are buffers that all associations share. A socket that waits holds none.
var datagrams = sync.Pool{New: func() any { return new([maxDatagram]byte) }}

// oneByOne calls handle for each datagram that arrives, until the socket is closed
// or broken.
func (u *socket) oneByOne(headroom int, handle handler) error {
	for {
		if err := u.raw.Read(readable); err != nil {
			return err
		}
		if err := u.one(headroom, handle); err != nil {
			return err
		}
	}
}

// one reads one datagram.
func (u *socket) one(headroom int, handle handler) error {
	buffer := datagrams.Get().(*[maxDatagram]byte)
	defer datagrams.Put(buffer)
	n, size, _, from, err := u.conn.ReadMsgUDPAddrPort(buffer[headroom:], u.info)
	if err != nil {
		return err
	}
	from = netip.AddrPortFrom(from.Addr().WithZone(""), from.Port()) // the socket's own, if any
	handle(buffer[:headroom+n], origin{from, arrival(u.info[:size])})
	return nil
}

// readable reports whether a read would not wait.
func readable(fd uintptr) bool {
	poll := [1]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	n, err := unix.Poll(poll[:], 0)
	return n > 0 || err != nil // the read will return the error
}
