package proxy

import (
	"context"
	"net"
	"os"

	"usher/proxy/rules"
	"usher/proxy/sockopt"
)

// keepAliveOf returns a rule's keep-alive in the form of package net.
func keepAliveOf(k rules.KeepAlive) net.KeepAliveConfig {
	return net.KeepAliveConfig{Enable: k.On, Idle: k.Idle, Interval: k.Interval, Count: k.Count}
}

// keepClientAlive sets keep-alive on the client's connection.
func (s *session) keepClientAlive(k rules.KeepAlive) {
	if k != s.keptAlive {
		s.keptAlive = k
		s.client.SetKeepAliveConfig(keepAliveOf(k)) //nolint:errcheck // it fails on a closed connection only
	}
}

// keepClientAliveBy applies a later rule. Options that r does not set stay as
// earlier rules have set them.
func (s *session) keepClientAliveBy(r *rules.Rule) {
	s.keepClientAlive(r.KeepAlives.Internal.Over(s.keptAlive))
}

// Listen opens a TCP listener for Serve. 0.0.0.0 is every IPv4 address and no IPv6
// address, :: every IPv6 address and no IPv4 address, as in Dante. Without a host, as
// in :1080, it is both. Its connections have the default keep-alive.
func Listen(ctx context.Context, address string) (net.Listener, error) {
	return sockopt.Listen(ctx, address, keepAliveOf(rules.DefaultKeepAlive))
}

// Adopt returns a listener for Serve from a listening TCP socket that another process
// opened. The file stays open and can be closed.
func Adopt(socket *os.File) (net.Listener, error) {
	ln, err := sockopt.Adopt(socket, keepAliveOf(rules.DefaultKeepAlive))
	if err != nil {
		return nil, err
	}
	return ln, nil
}
