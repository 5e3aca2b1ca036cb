package proxy

import (
	"context"
	"net"

	"usher/proxy/rules"
	"usher/proxy/sockopt"
)

// keepAliveOf returns what net makes of a rule's keep-alive.
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
	return sockopt.Listen(ctx, address, keepAliveOf(rules.DefaultKeepAlive))
}
