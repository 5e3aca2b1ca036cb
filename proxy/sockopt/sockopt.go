// Package sockopt opens TCP sockets with the options that a SOCKS proxy needs:
// keep-alive that accepted connections inherit, urgent data that stay in the
// stream, and ports that are chosen late. It knows no session and no rule.
package sockopt

import (
	"context"
	"net"
	"net/netip"
)

// Listen opens a TCP listener whose connections have the keep-alive k and keep
// urgent data in their stream. 0.0.0.0 is every IPv4 address and no IPv6 address,
// :: every IPv6 address and no IPv4 address. No host, as in :1080, is both.
func Listen(ctx context.Context, address string, k net.KeepAliveConfig) (net.Listener, error) {
	config := listenConfig(k)
	return config.Listen(ctx, networkOf(address), address)
}

// networkOf returns the network for an address to listen at. With "tcp" for
// all, 0.0.0.0 and :: would mean the same.
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

// Dialer returns a dialer that connects from an address, whose port is 0, and
// with the keep-alive k. The zero AddrPort leaves the address to the system.
func Dialer(from netip.AddrPort, k net.KeepAliveConfig) net.Dialer {
	// KeepAlive is what a configuration that is off leaves to the dialer.
	d := net.Dialer{KeepAlive: -1, KeepAliveConfig: k, Control: urgentInline}
	if from.IsValid() { // never bind without need: each such socket has a port of its own, and there are few
		d.LocalAddr, d.Control = net.TCPAddrFromAddrPort(from), choosePortLate
	}
	return d
}
