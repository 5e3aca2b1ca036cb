package proxy

import (
	"context"
	"net"
	"net/netip"

	"usher/proxy/decide"
	"usher/proxy/rules"
)

// decision returns what is known of s so far, in the form that package decide
// takes.
func (s *session) decision() decide.Session {
	d := decide.Session{
		Policy: s.gen.decide, Machine: s.server.tcp,
		From: s.from, To: s.to, Local: s.accepted(),
		Version: rules.Version(s.request.Version), Method: s.method, User: s.user, InGroup: s.inGroup,
	}
	if local, ok := s.client.LocalAddr().(*net.TCPAddr); ok {
		d.Zone = local.Zone
	}
	return d
}

// names returns what looks names up for a decision, until ctx ends.
func (s *session) names(ctx context.Context) *decide.Names {
	n := &sessionNames{session: s, ctx: ctx}
	return n.Init(n)
}

// sessionNames looks names up for one decision about a session.
type sessionNames struct {
	decide.Names
	session *session
	ctx     context.Context // it lives as long as one decision
}

// Addrs implements decide.Lookup.
func (n *sessionNames) Addrs(name string) ([]netip.Addr, error) {
	return n.session.server.names.Lookup(n.ctx, n.session.from.Addr(), name)
}

// Missing implements decide.Lookup.
func (n *sessionNames) Missing() error { return context.Cause(n.ctx) }

// clientNames looks names up for the client-rules, within the deadline of the
// negotiation. Most sessions need none, so the wait begins with the first one.
type clientNames struct {
	sessionNames
	stop func() // nil: no name was looked up yet
}

// Addrs implements decide.Lookup.
func (n *clientNames) Addrs(name string) ([]netip.Addr, error) {
	if n.stop == nil {
		n.session.negotiateWithin(n.session.gen.policy.Rules.Settings.Timeouts.Negotiate)
		n.ctx, n.stop = n.session.waiting(n.ctx)
	}
	return n.sessionNames.Addrs(name)
}

// Missing implements decide.Lookup.
func (n *clientNames) Missing() error {
	if n.stop == nil {
		return nil
	}
	return n.sessionNames.Missing()
}

// end ends the wait.
func (n *clientNames) end() {
	if n.stop != nil {
		n.stop()
	}
}

// inGroup reports whether the client is in a group. Rules ask it only about a
// user whose password was checked.
func (s *session) inGroup(group string) bool { return s.gen.policy.Groups.In(group, s.user) }

// accepted returns the address of this machine that the client's connection
// came in on.
func (s *session) accepted() netip.Addr { return addrPort(s.client.LocalAddr()).Addr() }
