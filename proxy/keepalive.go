package proxy

import (
	"context"
	"net"

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
	if wanted := keepAliveOf(k); wanted != s.keptAlive {
		s.keptAlive = wanted
		s.client.SetKeepAliveConfig(wanted) //nolint:errcheck // it fails on a closed connection only
	}
}

// Listen opens a TCP listener for Serve. Its connections are watched by
// keep-alive as those to targets are.
func Listen(ctx context.Context, address string) (net.Listener, error) {
	config := listenConfig
	return config.Listen(ctx, "tcp", address)
}
