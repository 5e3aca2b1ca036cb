package proxy

import (
	"bytes"
	"net"

	"usher/proxy/relay"
	"usher/proxy/rules"
)

// relayTo returns the relay between the client and its target or peer. It frees what
// only the opening of the session has needed.
func (s *session) relayTo(target *net.TCPConn, t rules.Timeouts) func() error {
	s.sockets.dropContext()
	early := bytes.Clone(s.ahead.unread())
	s.opening = nil
	return relay.New(s.client, target, relay.Options{
		Idle: t.IO, FinWait: t.FinWait, MayWrite: s.valid, Early: early, Pipes: s.server.pipes,
		Up: &s.up, Down: &s.down, Moved: &s.moved,
	}).Run
}
