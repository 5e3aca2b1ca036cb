package udp

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"usher/proxy/rules"
	"usher/proxy/selfaddr"
)

// socket is a socket of a UDP association, of one address family. It is not connected,
// so the kernel reports no ICMP errors to it: a closed port ends no association.
//
// One goroutine may read. Any number may write.
type socket struct {
	conn  *net.UDPConn
	raw   syscall.RawConn
	local netip.AddrPort
	valid func() bool // nil: always; else asked before every system call that writes
	info  []byte      // the reader's, for what comes with a datagram; nil: origins have no at

	writing sync.Mutex // guards the datagram that is written now
	data    []byte
	source  netip.Addr // what control says
	control []byte     // where to send from; nil: the system chooses
	to4     unix.SockaddrInet4
	to6     unix.SockaddrInet6
	err     error
	try     func(fd uintptr) (done bool) // attempt, made once and not for every datagram
}

// listen opens a socket at an address whose port may be 0. It switches broadcasts off,
// which package net switches on.
func listen(at netip.AddrPort, valid func() bool) (*socket, error) {
	network := "udp6"
	if at.Addr().Is4() {
		network = "udp4"
	}
	config := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		var err error
		return errors.Join(c.Control(func(fd uintptr) {
			err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_BROADCAST, 0)
		}), err)
	}}
	packets, err := config.ListenPacket(context.Background(), network, at.String())
	if err != nil {
		return nil, err
	}
	conn := packets.(*net.UDPConn)
	raw, err := conn.SyscallConn()
	if err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	u := &socket{conn: conn, raw: raw, valid: valid, local: conn.LocalAddr().(*net.UDPAddr).AddrPort()}
	u.try = u.attempt
	return u, nil
}

// listenIn opens a socket at one of the ports that is free. It skips ports that are
// ours already, because the system is slow if all ports of a large range are taken. It
// begins at a random port, because a port that was just closed may still get datagrams
// of its last client.
func listenIn(ip netip.Addr, ports rules.PortRange, ours *selfaddr.Set, valid func() bool) (*socket, error) {
	if ports == (rules.PortRange{}) {
		return listen(netip.AddrPortFrom(ip, 0), valid)
	}
	n := int(ports.Hi) - int(ports.Lo) + 1
	first := rand.IntN(n)
	for i := range n {
		at := netip.AddrPortFrom(ip, ports.Lo+uint16((first+i)%n))
		if ours.Has(at) {
			continue
		}
		u, err := listen(at, valid)
		if !errors.Is(err, syscall.EADDRINUSE) {
			return u, err
		}
	}
	return nil, fmt.Errorf("%w: %d to %d at %v", ErrPorts, ports.Lo, ports.Hi, ip)
}

// noteArrival makes each report the local address at which a datagram arrived. It is
// for sockets that are bound to all addresses. Some systems do not report it.
func (u *socket) noteArrival() error {
	size, err := askArrival(u.raw, u.local.Addr())
	if size > 0 {
		u.info = make([]byte, size)
	}
	return err
}

// write sends one datagram, from source if that is one of our addresses. If the system
// takes no more, it waits, and then asks again whether it may still write. The error is
// ErrMayWrite, or the system's.
func (u *socket) write(data []byte, to netip.AddrPort, source netip.Addr) error {
	u.writing.Lock()
	defer u.writing.Unlock()
	u.data, u.err = data, nil
	if u.source != source {
		u.source, u.control = source, sendFrom(source)
	}
	if u.local.Addr().Is4() {
		u.to4 = unix.SockaddrInet4{Port: int(to.Port()), Addr: to.Addr().As4()}
	} else {
		u.to6 = unix.SockaddrInet6{Port: int(to.Port()), Addr: to.Addr().As16()}
	}
	err := u.raw.Write(u.try)
	u.data = nil
	if err != nil {
		return err
	}
	return u.err
}

// attempt sends the datagram, and reports false if the socket takes none for
// now.
func (u *socket) attempt(fd uintptr) (done bool) {
	for {
		if u.valid != nil && !u.valid() {
			u.err = ErrMayWrite
			return true
		}
		u.err = u.sendTo(int(fd))
		if !errors.Is(u.err, unix.EINTR) {
			return !errors.Is(u.err, unix.EAGAIN)
		}
	}
}

func (u *socket) sendTo(fd int) error {
	var to unix.Sockaddr = &u.to6
	if u.local.Addr().Is4() {
		to = &u.to4
	}
	if u.control == nil {
		return unix.Sendto(fd, u.data, 0, to)
	}
	return unix.Sendmsg(fd, u.data, u.control, to, 0)
}

// interrupt ends all calls that wait, and all later ones.
func (u *socket) interrupt() {
	u.conn.SetDeadline(time.Unix(1, 0)) //nolint:errcheck // it fails on a closed socket only
}

// close waits for calls in progress. A second close has no effect.
func (u *socket) close() { _ = u.conn.Close() }
