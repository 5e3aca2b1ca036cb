package proxy

import (
	"errors"
	"io"
	"net"
	"net/netip"
	"syscall"

	"golang.org/x/sys/unix"

	"usher/proxy/header"
)

// awaitByte waits for a byte from c, and leaves it unread. The error is io.EOF if
// the peer has ended its direction.
func awaitByte(c *net.TCPConn) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	var n int
	var failed error
	err = raw.Read(func(fd uintptr) (done bool) {
		var b [1]byte
		n, failed = retry(func() (int, error) {
			n, _, err := unix.Recvfrom(int(fd), b[:], unix.MSG_PEEK|unix.MSG_DONTWAIT)
			return n, err
		})
		return !errors.Is(failed, syscall.EAGAIN)
	})
	switch {
	case err != nil:
		return err
	case failed == nil && n == 0:
		return io.EOF
	}
	return failed
}

// maxDiscard bounds how much discardPending reads, in bytes.
const maxDiscard = 256 << 10

// discardPending reads and drops what has arrived from c, without waiting for more.
func discardPending(c *net.TCPConn) {
	raw, err := c.SyscallConn()
	if err != nil {
		return
	}
	// An error means that c is closed.
	_ = raw.Control(func(fd uintptr) {
		var b [4096]byte
		for range maxDiscard / len(b) {
			n, err := syscall.Read(int(fd), b[:])
			if n <= 0 || err != nil {
				return
			}
		}
	})
}

// retry repeats a system call as long as signals interrupt it (EINTR).
func retry(call func() (int, error)) (int, error) {
	for {
		n, err := call()
		if !errors.Is(err, syscall.EINTR) {
			return max(n, 0), err
		}
	}
}

// addrPort returns a TCP address in the form that rules use: IPv4 in four bytes, and no
// zone.
func addrPort(a net.Addr) netip.AddrPort {
	tcp, ok := a.(*net.TCPAddr)
	if !ok {
		return netip.AddrPort{}
	}
	ap := tcp.AddrPort()
	return netip.AddrPortFrom(ap.Addr().Unmap().WithZone(""), ap.Port())
}

// aheadSize is how much a readAhead reads at a time, in bytes: most messages of a client
// that negotiates are shorter.
const aheadSize = 64

// readAhead reads more from the client's connection than it is asked for, so that a
// message takes one system call. It is for the negotiation, and must be used from the end
// of the PROXY header on. Data that follow the request may be in it when the negotiation
// is over.
type readAhead struct {
	conn       *net.TCPConn
	buffer     [aheadSize]byte
	from, till uint8 // buffer[from:till] is unread
}

// unread returns what was read from the connection, and nobody has asked for yet.
func (a *readAhead) unread() []byte { return a.buffer[a.from:a.till] }

// Read is that of the connection, but for what was read ahead.
func (a *readAhead) Read(b []byte) (n int, err error) {
	if err := a.fill(); err != nil {
		return 0, err
	}
	n = copy(b, a.unread())
	a.from += uint8(n)
	return n, nil
}

// fill waits for bytes, unless there are unread ones.
func (a *readAhead) fill() error {
	if a.from < a.till {
		return nil
	}
	n, err := a.conn.Read(a.buffer[:])
	a.from, a.till = 0, uint8(n)
	return err
}

// awaitByte waits for a byte, and leaves it unread: see awaitByte.
func (a *readAhead) awaitByte() error {
	if a.from < a.till {
		return nil
	}
	return awaitByte(a.conn)
}

// peek returns the first bytes that the client has sent: read, which somebody has taken
// already, and those that have arrived since, which stay unread. It does not wait for
// more, because balancers send their header in one piece.
func (a *readAhead) peek(read []byte) []byte {
	raw, err := a.conn.SyscallConn()
	if err != nil {
		return read
	}
	var begins [header.PeekLen]byte
	n := copy(begins[:], read)
	n += copy(begins[n:], a.unread())
	_ = raw.Control(func(fd uintptr) { // an error means that c is closed
		more, _, err := unix.Recvfrom(int(fd), begins[n:], unix.MSG_PEEK|unix.MSG_DONTWAIT)
		if err == nil {
			n += more
		}
	})
	return begins[:n]
}
