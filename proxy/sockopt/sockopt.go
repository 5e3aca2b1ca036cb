// Package sockopt opens TCP sockets with the options that a SOCKS proxy needs:
// keep-alive that accepted connections inherit, urgent data that stays in the stream,
// and local ports that the system chooses only when it connects. It knows no session and
// no rule.
package sockopt

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
)

// Listen opens a TCP listener whose connections have the keep-alive k and keep urgent
// data in their stream. 0.0.0.0 is every IPv4 address and no IPv6 address, :: every
// IPv6 address and no IPv4 address. Without a host, as in :1080, it is both.
func Listen(ctx context.Context, address string, k net.KeepAliveConfig) (net.Listener, error) {
	config := listenConfig(k)
	return config.Listen(ctx, networkOf(address), address)
}

// Adopted is a TCP listener that another process opened. Its connections are like
// those of Listen.
type Adopted struct {
	*net.TCPListener
	keepAlive net.KeepAliveConfig
}

// Adopt returns a listener for a listening TCP socket. The file stays open and can
// be closed.
func Adopt(socket *os.File, k net.KeepAliveConfig) (*Adopted, error) {
	ln, err := net.FileListener(socket)
	if err != nil {
		return nil, err
	}
	tcp, ok := ln.(*net.TCPListener)
	if !ok {
		return nil, errors.Join(fmt.Errorf("%v is not a TCP socket", ln.Addr()), ln.Close())
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		return nil, errors.Join(err, tcp.Close())
	}
	_ = urgentInline("", "", raw) // Multipath TCP knows no urgent data
	return &Adopted{tcp, k}, nil
}

// Accept returns the next connection, with the keep-alive of Adopt. On a listener that
// it did not open, package net would set its own.
func (a *Adopted) Accept() (net.Conn, error) {
	conn, err := a.AcceptTCP()
	if err != nil {
		return nil, err
	}
	_ = conn.SetKeepAliveConfig(a.keepAlive) // it fails on a connection that has ended
	return conn, nil
}

// networkOf returns the network for a listener's address. With "tcp" for all, 0.0.0.0
// and :: would mean the same.
func networkOf(address string) string {
	literal, err := netip.ParseAddrPort(address)
	switch {
	case err != nil: // a name, or none
		return "tcp"
	case literal.Addr().Unmap().Is4():
		return "tcp4"
	}
	return "tcp6"
}

// Dialer returns a dialer that connects from an address, whose port is 0, and without
// keep-alive. The zero AddrPort leaves the address to the system.
func Dialer(from netip.AddrPort) net.Dialer {
	d := net.Dialer{KeepAlive: -1, Control: urgentInline}
	if from.IsValid() { // bind only if needed: each bound socket takes a port, and there are few
		d.LocalAddr, d.Control = net.TCPAddrFromAddrPort(from), choosePortLate
	}
	return d
}
