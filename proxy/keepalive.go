package proxy

import (
	"context"
	"net"
	"net/netip"

	"usher/proxy/rules"
)

// keepAlive is what connections have until a rule says otherwise.
var keepAlive = keepAliveOf(rules.DefaultKeepAlive)

func keepAliveOf(k rules.KeepAlive) net.KeepAliveConfig {
	return net.KeepAliveConfig{Enable: k.On, Idle: k.Idle, Interval: k.Interval, Count: k.Count}
}

// keepClientAlive watches the client's connection as the rule says that let it
// in.
func (s *session) keepClientAlive(k rules.KeepAlive) {
	if k != s.keptAlive {
		s.keptAlive = k
		s.client.SetKeepAliveConfig(keepAliveOf(k)) //nolint:errcheck // it fails on a closed connection only
	}
}

// keepClientAliveBy does so for a later rule: what it does not say stays as
// earlier ones said.
func (s *session) keepClientAliveBy(r *rules.Rule) {
	s.keepClientAlive(r.KeepAlives.Internal.Over(s.keptAlive))
}

// Listen opens a TCP listener for Serve. 0.0.0.0 stands for every address of
// IPv4 alone and :: for every one of IPv6 alone, as in Dante; no host, as in
// :1080, for both. Its connections are watched by keep-alive as those to
// targets are.
func Listen(ctx context.Context, address string) (net.Listener, error) {
	config := listenConfig
	return config.Listen(ctx, networkOf(address), address)
}

// networkOf returns the network for an address to listen at. Were it "tcp" for
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
