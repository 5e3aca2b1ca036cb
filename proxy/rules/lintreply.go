package rules

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// lintEntrances warns of client-rules that pass and whose to: holds none of the
// internal: addresses. In a client-rule to: is the address that the client
// connected to, which is easily taken for the target.
func (s *Set) lintEntrances() (found []Diagnostic) {
	if len(s.Settings.Internal) == 0 {
		return nil // the environment says where to listen
	}
	for _, r := range s.Client {
		if r.Pass && !slices.ContainsFunc(s.Settings.Internal, r.cond.to.mayHoldListener) {
			found = append(found, r.warning("nobody gets in by this rule, unless USHER_LISTEN or a PROXY header gives another address: "+
				"to: "+r.cond.to.String()+" holds no internal: address, and in a client-rule it is the address that clients connect to",
				"write an internal: address in to:, and the targets in to: of a socks-rule"))
		}
	}
	return shown(found)
}

// mayHoldListener reports whether clients that connect to a listener may have
// connected to an address in e.
func (e *endpoint) mayHoldListener(l Endpoint) bool {
	switch {
	case l.Port != 0 && !e.ports.has(l.Port):
		return false
	case e.kind == builtinAddress && !l.Addr.IsUnspecified() && l.Interface == "":
		return e.hasAddr(l.Addr, nil)
	case l.Interface != "" || e.kind != prefixAddress && e.kind != interfaceAddress:
		return true // what it has, or what the name resolves to, is not known for good
	case l.Addr.IsUnspecified():
		return e.kind == interfaceAddress || e.prefix.Addr().Is4() == l.Addr.Is4()
	case e.kind == interfaceAddress:
		return slices.Contains(e.addrs, l.Addr)
	}
	return e.prefix.Contains(l.Addr)
}

// elsewhere are addresses that stand for any target: rules seldom name them, and
// they are not special.
var elsewhere = []netip.Addr{netip.MustParseAddr("223.255.255.7"), netip.MustParseAddr("2fff:ffff::7")}

// lintAnswers warns, once, of a rule that passes UDP associations or BIND where no rule
// passes the answers: a rule without command: seems to pass them, but for an answer,
// from: is the peer and to: is the client. It asks for one client and one peer of the
// rule.
func (s *Set) lintAnswers(c coverage) []Diagnostic {
	for _, r := range s.Socks {
		if !r.Pass || r.cond.versions&allVersions == 0 {
			continue
		}
		var what, requests, replies []string
		if r.cond.commands.has(UDPAssociate) && !s.answered(r, UDPReply, &r.cond.to) {
			what, requests, replies = append(what, "UDP"), append(requests, UDPAssociate.String()), append(replies, UDPReply.String())
		}
		// For BIND, to: is the address that is bound. A rule that lists targets
		// passes none.
		if anybody := (endpoint{address: address{kind: anyAddress}}); r.cond.commands.has(Bind) && r.cond.to.isWhole() && !s.answered(r, BindReply, &anybody) {
			what, requests, replies = append(what, "BIND"), append(requests, Bind.String()), append(replies, BindReply.String())
		}
		if len(what) == 0 || c.by(r, r) != nil {
			continue
		}
		without := "write command: connect here"
		if !r.cond.commands.has(Connect) { // it must not begin to pass connections
			without = "remove " + strings.Join(requests, " and ") + " here"
		}
		return []Diagnostic{r.warning(fmt.Sprintf("this rule passes requests for %s, but no rule passes the answers (%s): in a rule for answers, from: is the peer and to: is the client",
			strings.Join(what, " and "), strings.Join(replies, ", ")),
			fmt.Sprintf("add a rule with command: %s for them, or %s", strings.Join(replies, " "), without))}
	}
	return nil
}

// isWhole reports whether e is all of a family, or more, with the ports that the
// system chooses.
func (e *endpoint) isWhole() bool {
	return (e.kind == anyAddress || e.kind == prefixAddress && e.prefix.Bits() == 0) && e.ports.has(chosenPort)
}

// chosenPort stands for any port that the system chooses.
const chosenPort = 49152

// answered reports whether a rule passes a reply to a client of r from one of
// its peers. If it cannot tell, it reports true.
func (s *Set) answered(r *Rule, reply Command, peers *endpoint) bool {
	for _, away := range elsewhere {
		from, okFrom := peers.sample(away)
		to, okTo := r.cond.from.sample(away)
		if !okFrom || !okTo || !s.leaving.Has(from) {
			continue
		}
		v := s.MatchSocks(Query{From: netip.AddrPortFrom(from, peers.first()), To: Target{Addr: to, Port: chosenPort}, Command: reply, Version: r.version()})
		if !v.Pass() {
			return false
		}
	}
	return true
}

// version returns a SOCKS version that the rule matches.
func (r *Rule) version() Version {
	if r.cond.versions&socks5 != 0 {
		return SOCKS5
	}
	return SOCKS4
}

// sample returns an address in a: away itself if a is every address, else the
// first one; ok is false if none is known, or none of a's family.
func (a *address) sample(away netip.Addr) (ip netip.Addr, ok bool) {
	switch {
	case a.kind == anyAddress:
		return away, true
	case a.kind == prefixAddress && a.prefix.Bits() == 0:
		return away, a.prefix.Addr().Is4() == away.Is4()
	case a.kind == prefixAddress:
		return a.prefix.Addr(), a.prefix.Addr().Is4() == away.Is4()
	}
	return netip.Addr{}, false
}
