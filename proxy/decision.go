package proxy

import (
	"context"
	"net"
	"net/netip"
	"time"

	"usher/proxy/decide"
	"usher/proxy/rules"
)

// decision returns what is known of s so far, in the form that package decide
// takes.
func (s *session) decision() decide.Session { return decisionBy(s, s.gen, s.to) }

// decisionBy does what decision does, for the policy of g. to is what the client dialled.
func decisionBy(s *session, g *generation, to netip.AddrPort) decide.Session {
	groups, user := g.policy.Groups, s.user
	accepted := s.client.LocalAddr() // of this machine
	d := decide.Session{
		Policy: g.decide, Machine: s.server.tcp,
		From: s.from, To: to, Local: addrPort(accepted).Addr(),
		Version: rules.Version(s.request.Version), Method: s.method, User: user,
		InGroup: func(group string) bool { return groups.In(group, user) }, // rules ask it only about a user whose password was checked
	}
	if local, ok := accepted.(*net.TCPAddr); ok {
		d.Zone = local.Zone
	}
	return d
}

// names returns the name lookup of one decision. Its waits end with ctx.
func (s *session) names(ctx context.Context) *decide.Names {
	n := &sessionNames{session: s, ctx: ctx}
	return n.Init(n)
}

// sessionNames looks names up for one decision about a session.
type sessionNames struct {
	decide.Names
	session *session
	ctx     context.Context // in a field, because it lives as long as one decision
}

// Addrs implements decide.Lookup.
func (n *sessionNames) Addrs(name string) ([]netip.Addr, error) {
	return n.session.server.names.Lookup(n.ctx, n.session.from.Addr(), name)
}

// Missing implements decide.Lookup.
func (n *sessionNames) Missing() error { return context.Cause(n.ctx) }

// clientNames looks names up for the client-rules, within the deadline of the
// negotiation, or of timeout.connect behind the request. Most sessions need none, so the wait begins with the first one.
type clientNames struct {
	sessionNames
	stop func() // nil: no name was looked up yet
}

// Addrs implements decide.Lookup.
func (n *clientNames) Addrs(name string) ([]netip.Addr, error) {
	if n.stop == nil {
		t := n.session.gen.policy.Rules.Settings.Timeouts
		n.session.negotiateWithin(t.Negotiate)
		n.ctx, n.stop = n.session.waiting(n.ctx)
		if stop := n.stop; n.session.requested { // newer rules are asked
			ctx, cancel := connecting(n.ctx, time.Now(), t.Connect)
			n.ctx, n.stop = ctx, func() { cancel(); stop() }
		}
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
