package decide

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"usher/proxy/rules"
)

// extension is the peer that Dante's own extension of BIND announces
// (extension: bind). It would accept many peers, which Usher does not.
var extension = netip.AddrFrom4([4]byte{255, 255, 255, 255})

// Client asks the client-rules about a connection. The error is ErrBlocked or
// that of names.
func (s *Session) Client(names *Names) (rules.Verdict, error) {
	q := rules.Query{From: s.From, To: rules.Target{Addr: s.To.Addr(), Port: s.To.Port()}, Lookup: names.forRule}
	var v rules.Verdict
	if s.Trace == nil {
		v = s.Policy.Rules.MatchClient(q)
	} else {
		var steps []rules.Step
		v, steps = s.Policy.Rules.ExplainClient(q)
		s.Trace(steps)
	}
	return settle(v, names)
}

// Connect decides about CONNECT. The verdict has the rule that decides, and,
// if it passes, the addresses that may be connected to in their order. The
// error is ErrTarget, ErrUnresolved, ErrBlocked, ErrBlockedName or that of names.
func (s *Session) Connect(target rules.Target, names *Names) (v rules.Verdict, err error) {
	if err := checkTarget(target); err != nil {
		return v, err
	}
	q := s.query(rules.Connect)
	q.To = target
	if v, err = s.named(q, target); err != nil {
		return v, err
	}
	if q.Addrs, err = names.of(target); err != nil {
		return v, err
	}
	v, err = s.socks(q, names)
	return v, byName(target, err)
}

// Bind decides about BIND on a request for a peer, an unspecified one for
// anybody. Rules judge the address at which the peer is awaited: reserve binds a
// socket to it, with a port of the system's choice if at has port 0 or if that
// port is taken, and returns where it is bound. The port that the client asks for
// counts only if anybody may come to it, it is not privileged, and the rule that
// passes it names ports.
//
// It returns the addresses of which the peer must have one, see BindReply, and
// the rule that decides. The error is ErrTarget, ErrUnresolved, ErrNoExternal,
// ErrNoRoute, ErrBlocked, ErrBlockedName, or that of Machine.Toward, reserve or
// names.
func (s *Session) Bind(peer rules.Target, names *Names, reserve func(at netip.AddrPort) (netip.AddrPort, error)) (expected []netip.Addr, r *rules.Rule, err error) {
	if v, err := s.named(s.query(rules.Bind), peer); err != nil {
		return nil, v.Rule, err
	}
	if expected, err = names.of(peer); err != nil {
		return nil, nil, err
	}
	at, err := s.bindAddress(s.zoned(expected[0]))
	if err != nil {
		return expected, nil, err
	}
	var port uint16
	if expected[0].IsUnspecified() && peer.Port >= 1024 {
		if port, err = s.askedPort(at, peer.Port, names); err != nil {
			return expected, nil, err
		}
	}
	bound, err := reserve(netip.AddrPortFrom(at, port))
	if err != nil {
		return expected, nil, err
	}
	v, err := s.bindAt(bound, names)
	return expected, v.Rule, byName(peer, err)
}

// askedPort returns the port that the client asks for if the rule that passes it
// names ports, else 0. Otherwise a client could take a port at which somebody else
// is expected, such as a local service that is not up.
func (s *Session) askedPort(at netip.Addr, port uint16, names *Names) (uint16, error) {
	v, err := s.bindAt(netip.AddrPortFrom(at, port), names)
	switch {
	case err == nil && v.Rule.NamesPorts():
		return port, nil
	case err == nil, errors.Is(err, ErrBlocked):
		return 0, nil
	}
	return 0, err
}

// bindAt asks the socks-rules about the address at which the peer of BIND is awaited.
func (s *Session) bindAt(at netip.AddrPort, names *Names) (rules.Verdict, error) {
	q := s.query(rules.Bind)
	q.To = rules.Target{Addr: at.Addr().WithZone(""), Port: at.Port()}
	return s.socks(q, names)
}

// BindAt decides again about BIND whose peer is awaited at an address, or has come there.
// It returns the rule that decides. The error is ErrBlocked or that of names.
func (s *Session) BindAt(at netip.AddrPort, names *Names) (*rules.Rule, error) {
	v, err := s.bindAt(at, names)
	return v.Rule, err
}

// BindReply decides about the peer that has connected to the address of BIND.
// expected is what Bind returned; nil stands for anybody. It returns the rule
// that decides. The error is ErrPeer, ErrBlocked or that of names.
func (s *Session) BindReply(peer netip.AddrPort, expected []netip.Addr, names *Names) (*rules.Rule, error) {
	if len(expected) > 0 && !expected[0].IsUnspecified() && !slices.Contains(expected, peer.Addr()) {
		return nil, fmt.Errorf("%w: %v", ErrPeer, peer)
	}
	q := s.query(rules.BindReply)
	q.From, q.To = peer, rules.Target{Addr: s.From.Addr(), Port: s.From.Port()}
	v, err := s.socks(q, names)
	if errors.Is(err, ErrBlocked) {
		err = fmt.Errorf("%w: the peer %v", err, peer)
	}
	return v.Rule, err
}

// Associate decides about the request for an association. source is the
// address from which the client announced that its datagrams come, invalid if
// it announced no complete address. Both source and the address of the connection must
// pass, and the session is charged to the rule that passes the connection, as
// in Dante. If a balancer hides the client, its connection says nothing about
// the client: source alone is judged if there is one.
//
// It returns the rule that decides. The error is ErrBlocked or that of names.
func (s *Session) Associate(source netip.AddrPort, hidden bool, names *Names) (*rules.Rule, error) {
	q := s.query(rules.UDPAssociate)
	if source.IsValid() {
		q.From = source
		if v, err := s.socks(q, names); err != nil || hidden {
			return v.Rule, err
		}
		q.From = s.From
	}
	v, err := s.socks(q, names)
	return v.Rule, err
}

// Datagram decides about a datagram from the client to a target. Verdict and
// errors are those of Connect. But if names cannot tell yet whether the target's
// name has an address, the error is that of names.
func (s *Session) Datagram(from netip.AddrPort, target rules.Target, names *Names) (v rules.Verdict, err error) {
	if err := checkTarget(target); err != nil {
		return v, err
	}
	q := s.query(rules.UDPAssociate)
	q.From, q.To = from, target
	if v, err = s.named(q, target); err != nil {
		return v, err
	}
	if q.Addrs, err = names.of(target); err != nil {
		return v, cmp.Or(names.lookup.Missing(), err)
	}
	return s.socks(q, names)
}

// UDPReply decides about a datagram from a peer to the client. It returns the
// rule that decides. The error is ErrBlocked or that of names.
func (s *Session) UDPReply(peer, client netip.AddrPort, names *Names) (*rules.Rule, error) {
	q := s.query(rules.UDPReply)
	q.From, q.To = peer, rules.Target{Addr: client.Addr(), Port: client.Port()}
	names.only[0] = client.Addr()
	q.Addrs = names.only[:]
	v, err := s.socks(q, names)
	return v.Rule, err
}

// named returns ErrBlocked if a target is a name and no rule could pass the request
// at any of its addresses. The name is not looked up then.
func (s *Session) named(q rules.Query, target rules.Target) (v rules.Verdict, err error) {
	if target.Name == "" {
		return v, nil
	}
	var could bool
	if v.Rule, could = s.Policy.Rules.CouldPass(q); could {
		return v, nil
	}
	if s.Trace != nil {
		_, _, steps := s.Policy.Rules.ExplainCouldPass(q)
		s.Trace(steps)
	}
	return v, ErrBlocked
}

// byName returns ErrBlockedName for a target that is blocked after its name was
// looked up, else err.
func byName(target rules.Target, err error) error {
	if target.Name != "" && errors.Is(err, ErrBlocked) {
		return ErrBlockedName
	}
	return err
}

// query returns what all questions to the socks-rules have in common.
func (s *Session) query(command rules.Command) rules.Query {
	return rules.Query{From: s.From, Command: command, Version: s.Version, Method: s.Method, User: s.User, InGroup: s.InGroup}
}

// socks asks the socks-rules.
func (s *Session) socks(q rules.Query, names *Names) (rules.Verdict, error) {
	q.Lookup = names.forRule
	if s.Trace == nil {
		return settle(s.Policy.Rules.MatchSocks(q), names)
	}
	v, steps := s.Policy.Rules.ExplainSocks(q)
	s.Trace(steps)
	return settle(v, names)
}

// settle returns a verdict and ErrBlocked if it does not pass, or no verdict
// if names were missing.
func settle(v rules.Verdict, names *Names) (rules.Verdict, error) {
	if err := names.lookup.Missing(); err != nil {
		return rules.Verdict{}, err
	}
	if !v.Pass() {
		return v, ErrBlocked
	}
	return v, nil
}

// checkTarget returns ErrTarget if nothing can be sent to a target: it has no
// port, or an unspecified address, which the system would take for itself.
func checkTarget(t rules.Target) error {
	if t.Port == 0 || t.Addr.IsUnspecified() {
		return ErrTarget
	}
	return nil
}
