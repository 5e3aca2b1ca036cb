package udp

import (
	"errors"
	"net/netip"
	"sync"
	"sync/atomic"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// batchSize is how many datagrams one system call takes at most.
const batchSize = 4

// noBatches says that the system has refused to read in batches.
var noBatches atomic.Bool

// each calls handle for each datagram that arrives, until the socket is closed or
// broken.
func (u *socket) each(headroom int, handle handler) error {
	if !noBatches.Load() {
		if err := u.inBatches(headroom, handle); !refused(err) {
			return err
		}
	}
	return u.oneByOne(headroom, handle)
}

// refused reports whether the system call itself failed, as it does where a seccomp
// filter or an emulator does not allow it. Then the socket is read one by one. Systems
// return different errors, so refused remembers every error for all sockets, but for a
// shortage of memory, which passes.
func refused(err error) bool {
	var number syscall.Errno
	if !errors.As(err, &number) {
		return false
	}
	if number != unix.ENOMEM && number != unix.ENOBUFS {
		noBatches.Store(true)
	}
	return true
}

// inBatches reads with each system call as many datagrams as have arrived, up to
// batchSize.
//
// It does so within one call of Read. A new call of Read would first need a system call
// that finds nothing before it may wait.
func (u *socket) inBatches(headroom int, handle handler) error {
	var failed error
	err := u.raw.Read(func(fd uintptr) (broken bool) {
		failed = u.drain(int(fd), headroom, handle)
		return failed != nil
	})
	return errors.Join(err, failed)
}

// drain reads until the socket is empty.
func (u *socket) drain(fd, headroom int, handle handler) error {
	b := batches.Get().(*batch)
	defer batches.Put(b)
	for {
		n, err := b.receive(fd, headroom, len(u.info))
		if errors.Is(err, unix.EAGAIN) {
			return nil
		}
		if err != nil {
			return err
		}
		for i := range n {
			handle(b.buffers[i][:headroom+int(b.headers[i].size)], b.origin(i))
		}
		if n < batchSize { // no more have come
			return nil
		}
	}
}

// batch is what recvmmsg(2) fills: headers point to the other arrays.
type batch struct {
	headers [batchSize]header
	parts   [batchSize]unix.Iovec
	names   [batchSize]unix.RawSockaddrInet6 // has room for an IPv4 address, too
	infos   [batchSize][64]byte              // of where a datagram arrived
	buffers [batchSize][maxDatagram]byte
}

// header is struct mmsghdr.
type header struct {
	unix.Msghdr
	size uint32 // of the datagram
}

// batches are shared by all associations: a socket that waits holds none.
var batches = sync.Pool{New: func() any { return new(batch) }}

// receive takes datagrams without waiting, and returns how many, at least one.
func (b *batch) receive(fd, headroom, infoSize int) (n int, err error) {
	for i := range b.headers {
		b.parts[i].Base = &b.buffers[i][headroom]
		b.parts[i].SetLen(maxDatagram - headroom)
		h := &b.headers[i].Msghdr
		h.Iov = &b.parts[i]
		h.SetIovlen(1)
		h.Name = (*byte)(unsafe.Pointer(&b.names[i]))
		h.Namelen = uint32(unsafe.Sizeof(b.names[i]))
		h.Control = &b.infos[i][0]
		h.SetControllen(infoSize)
	}
	for {
		n, _, errno := unix.Syscall6(unix.SYS_RECVMMSG, uintptr(fd), uintptr(unsafe.Pointer(&b.headers)), batchSize, unix.MSG_DONTWAIT, 0, 0)
		switch errno {
		case 0:
			return int(n), nil
		case unix.EINTR:
		default:
			return 0, errno
		}
	}
}

// origin returns where a datagram came from, and where it arrived.
func (b *batch) origin(i int) origin {
	name := &b.names[i]
	addr := netip.AddrFrom16(name.Addr)
	if name.Family == unix.AF_INET {
		addr = netip.AddrFrom4((*unix.RawSockaddrInet4)(unsafe.Pointer(name)).Addr)
	}
	port := (*[2]byte)(unsafe.Pointer(&name.Port)) // in network byte order
	return origin{
		netip.AddrPortFrom(addr, uint16(port[0])<<8|uint16(port[1])),
		arrival(b.infos[i][:b.headers[i].Controllen]),
	}
}
