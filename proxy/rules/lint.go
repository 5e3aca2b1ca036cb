package rules

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"usher/store/limit"
)

// Lint returns dangers and warnings about rules that are correct one by one, but
// together probably mean something else than intended. They are in no order, and
// incomplete if ctx ends.
func (s *Set) Lint(ctx context.Context) []Diagnostic { return s.lint(ctx, mostComparisons) }

// lint is Lint with a bound on comparisons: once for lintReach, which matters most,
// and once for the rest.
func (s *Set) lint(ctx context.Context, comparisons int) []Diagnostic {
	c := s.coverage(ctx, comparisons)
	forReach := c.afresh(comparisons)
	reach := s.lintReach(forReach)
	found := slices.Concat(c.lint(s.Client), c.lint(s.Socks))
	inheritance := s.lintInheritance(c)
	// Without all comparisons, rules that are dead may have been taken for live ones.
	if *forReach.left == 0 {
		reach = nil
	}
	if *c.left == 0 {
		inheritance = nil
	}
	if *c.left == 0 || *forReach.left == 0 {
		first := slices.Concat(s.Client, s.Socks)[0]
		found = append(found, first.warning("too many rules overlap to compare them all, so warnings may be missing",
			"merge some of these rules, or check parts of the file separately"))
	}
	return slices.Concat(found, reach, inheritance, s.lintStrangers(), s.lintNames(), s.lintEntrances(), s.lintAnswers(c))
}

func (r *Rule) warning(message, remedy string) Diagnostic {
	return Diagnostic{Pos: r.Pos, Severity: Warning, Message: message, Remedy: remedy}
}

// shownOfKind is how many findings of a kind are reported one by one. Generated
// lists may have thousands.
const shownOfKind = 10

// shown returns the first findings of a kind, the last of which counts the rest.
func shown(found []Diagnostic) []Diagnostic {
	more := len(found) - shownOfKind
	if more <= 0 {
		return found
	}
	found = found[:shownOfKind]
	found[shownOfKind-1].Message += fmt.Sprintf("; %d more rules after it are like this", more)
	return found
}

// lintStrangers warns of socks-rules that pass clients which no client-rule lets in.
func (s *Set) lintStrangers() (found []Diagnostic) {
	in := newSources(passing(s.Client))
	if in.any == nil {
		return nil // the parser has warned
	}
	for _, r := range s.Socks {
		if r.Pass && r.requested() && in.shared(&r.cond.from.address) == nil {
			found = append(found, r.warning("this rule matches no request, because no client-rule passes a client of its from:",
				"correct from:, or add a client-rule that passes these clients"))
		}
	}
	return shown(found)
}

// passing returns the rules that pass.
func passing(list []*Rule) []*Rule { return only(list, func(r *Rule) bool { return r.Pass }) }

// only returns the rules for which keep holds, in a new slice.
func only(list []*Rule, keep func(*Rule) bool) []*Rule {
	return slices.DeleteFunc(slices.Clone(list), func(r *Rule) bool { return !keep(r) })
}

// requested reports whether requests, not only replies, can match a socks-rule.
func (r *Rule) requested() bool {
	return r.cond.commands&^replyCommands != 0 && r.cond.versions&allVersions != 0
}

// lintInheritance warns of client-rules whose limit counts the sessions of some
// socks-rules to their end, and not those of others. It does not warn of a rate,
// because a rate counts only beginnings. Nor does it warn if every socks-rule inherits
// the limit.
func (s *Set) lintInheritance(c coverage) (found []Diagnostic) {
	live := only(s.Socks, func(r *Rule) bool { return r.Pass && c.by(r, r) == nil })
	byPool := map[string]holders{}
	for _, r := range s.Client {
		if !r.Session.Inheritable || r.Session.Max == limit.None && r.Session.KeyMax == 0 || c.by(r, r) != nil {
			continue
		}
		h, known := byPool[r.Session.Pool]
		if !known {
			h = c.holders(live, r.Session.Pool)
			byPool[r.Session.Pool] = h
		}
		from := &r.cond.from.address
		socks, which := h.leave.shared(from), "sessions by"
		if socks == nil && h.bind.shared(from) != nil {
			socks, which = h.leaveLater.shared(from), "BIND sessions whose peer comes by"
		}
		switch {
		case socks == nil:
		case h.stay.shared(from) != nil:
			found = append(found, r.warning(fmt.Sprintf("the limit of this rule counts sessions to their end, but not %s %s (line %d), "+
				"which has a limit of its own", which, socks.ID(), socks.Pos.Line),
				"write session.inheritable: no if you mean negotiation only, or remove the limit of "+socks.ID()+" to count its sessions here"))
		default:
			found = append(found, r.warning(fmt.Sprintf("the limit of this rule counts clients until Usher has read their request, and no session: "+
				"every socks-rule that passes these clients has a limit of its own, such as %s (line %d)", socks.ID(), socks.Pos.Line),
				"write session.inheritable: no if you mean this, or remove the limit of a socks-rule to count its sessions here"))
		}
	}
	return shown(found)
}

// holders are the clients whose sessions keep the slot of a client-rule, and those
// whose sessions leave it for one of a socks-rule.
type holders struct {
	leave, stay      sources
	leaveLater, bind sources // a BIND session that stays may leave when its peer comes
}

// holders sorts socks-rules by what they mean for client-rules that are in a pool, or in
// none: "". Rules of the pool have the same slots.
func (c coverage) holders(list []*Rule, pool string) holders {
	leaves := func(r *Rule) bool { return r.Session.Limited && (pool == "" || r.Session.Pool != pool) }
	others := only(list, leaves)
	staying := only(list, func(r *Rule) bool { return r.requested() && !leaves(r) })
	return holders{
		leave: newSources(only(others, (*Rule).requested)), stay: newSources(staying),
		leaveLater: newSources(c.limitedReplies(others)),
		bind:       newSources(only(staying, func(r *Rule) bool { return r.cond.commands.has(Bind) })),
	}
}

// limitedReplies returns the rules that take BIND sessions over when their peer
// comes. In such a rule the client is in to:, so each is returned with to: in place
// of from:. A rule that also matches requests has targets in to:. Then 0/0, a name
// or a port tells nothing about clients, but a network may hold some.
func (c coverage) limitedReplies(list []*Rule) (replies []*Rule) {
	for _, r := range list {
		reply := *r
		reply.cond.commands &= 1 << BindReply
		if !r.Session.Limited || reply.cond.commands == 0 || r.cond.versions&allVersions == 0 ||
			r.requested() && !r.cond.to.isNetwork() || c.by(&reply, r) != nil {
			continue
		}
		reply.cond.from = r.cond.to
		replies = append(replies, &reply)
	}
	return replies
}

// isNetwork reports whether e is a part of a family, at all ports.
func (e *endpoint) isNetwork() bool {
	return e.kind == prefixAddress && e.prefix.Bits() > 0 && !e.restricted
}

// inside are the networks of the proxy's own machine and its link, which clients
// elsewhere can reach only through the proxy, and single addresses in them that
// deserve a name of their own.
var inside = []struct {
	address
	is string
}{
	{network("127.0.0.0/8"), "this machine at 127.0.0.0/8"},
	{network("::1/128"), "this machine at ::1"},
	{network("169.254.0.0/16"), "link-local addresses"},
	{network("fe80::/10"), "link-local addresses"},
	{network("169.254.169.254/32"), "a cloud's metadata at 169.254.169.254"},
	{network("fd00:ec2::254/128"), "a cloud's metadata at fd00:ec2::254"},
}

func network(s string) address {
	return address{kind: prefixAddress, prefix: netip.MustParsePrefix(s)}
}

// lintReach warns, once, of the first rule that lets clients reach the networks of
// inside without naming them.
func (s *Set) lintReach(c coverage) []Diagnostic {
	// Clients of this machine are inside already.
	elsewhere := only(s.Client, func(r *Rule) bool { return r.Pass && !r.cond.from.loopback() && c.by(r, r) == nil })
	for _, r := range s.Socks {
		if !r.Pass || r.cond.from.loopback() {
			continue
		}
		reached := c.reached(r, Connect, elsewhere)
		datagrams := slices.DeleteFunc(c.reached(r, UDPAssociate, elsewhere), func(name string) bool { return slices.Contains(reached, name) })
		if len(datagrams) > 0 {
			reached = append(reached, "over UDP "+strings.Join(datagrams, ", "))
		}
		if len(reached) > 0 {
			d := r.warning("this rule lets clients reach "+strings.Join(reached, ", "),
				`put rules before it that block these networks, docs/security.md has them under "Blocking private targets"`)
			d.Severity = Danger
			return []Diagnostic{d}
		}
	}
	return nil
}

// reached returns the names of the networks of inside that clients can reach by r
// with a command, if one of the client-rules in lets them in. A rule that names a
// part of inside does so on purpose and reaches none. Nor is a family without an
// external: address reached.
func (c coverage) reached(r *Rule, command Command, in []*Rule) (names []string) {
	to := &r.cond.to.address
	named := false
	for i := range inside {
		named = named || inside[i].covers(to)
	}
	if named || !r.cond.commands.has(command) || r.cond.versions&allVersions == 0 {
		return nil
	}
	for i := range inside {
		if !c.leaving.Has(inside[i].prefix.Addr()) {
			continue
		}
		part := *r // r, for this network alone
		part.cond.to.address = inside[i].address
		part.cond.commands = 1 << command
		if to.covers(&inside[i].address) && !slices.Contains(names, inside[i].is) && c.matches(part, r, in) {
			names = append(names, inside[i].is)
		}
	}
	return names
}

// matches reports whether part may match a client that one of the client-rules in
// lets in, although the rules before end come first.
func (c coverage) matches(part Rule, end *Rule, in []*Rule) bool {
	if c.by(&part, end) != nil {
		return false // for no client at all
	}
	from := part.cond.from
	for _, client := range in {
		if !c.mayCompare() {
			return false
		}
		var some bool
		if part.cond.from, some = from.shared(&client.cond.from); some && c.by(&part, end) == nil {
			return true
		}
	}
	return false
}

// loopback reports whether only clients of this machine have the address.
func (a *address) loopback() bool {
	switch a.kind {
	case prefixAddress:
		return a.prefix.Addr().IsLoopback() && (a.prefix.Addr().Is6() || a.prefix.Bits() >= 8)
	case interfaceAddress:
		return !slices.ContainsFunc(a.addrs, func(ip netip.Addr) bool { return !ip.IsLoopback() })
	}
	return a.kind == hostAddress && a.name == "localhost"
}

// OpenToAll returns the client-rule that, together with those before it, lets in
// every address of a family without a login, if socks-rules pass such clients. It
// returns nil if there is none, if there is too much to compare, or if ctx ends.
// methods returns the methods that clients of a client-rule may negotiate.
func (s *Set) OpenToAll(ctx context.Context, methods func(*Rule) []Method) *Rule {
	c := s.coverage(ctx, mostComparisons)
	onward := prefixCover{}
	for _, r := range s.Socks {
		nameless := *r // r, for clients that did not log in
		nameless.Methods = []Method{None}
		named := len(r.cond.users)+len(r.cond.groups) > 0 || len(r.Methods) > 0 && !slices.Contains(r.Methods, None)
		if r.Pass && r.requested() && !named && c.by(&nameless, r) == nil {
			onward.add(&r.cond.from.address)
		}
	}
	in := prefixCover{}
	for _, r := range s.Client {
		if !r.Pass || !slices.Contains(methods(r), None) || c.by(r, r) != nil {
			continue
		}
		in.add(&r.cond.from.address)
		if *c.left > 0 && slices.ContainsFunc(families, func(all netip.Prefix) bool { return in[all] && onward[all] }) {
			return r
		}
	}
	return nil
}

// prefixCover collects networks. It holds each network that was added, and each whose two
// halves it holds. So it holds the /0 of a family if the networks together cover it.
type prefixCover map[netip.Prefix]bool

func (w prefixCover) add(a *address) {
	switch a.kind {
	case anyAddress:
		for _, family := range families {
			w[family] = true
		}
	case prefixAddress:
		w.addNetwork(a.prefix)
	case builtinAddress:
		for _, n := range a.networks {
			w.addNetwork(n)
		}
	}
}

func (w prefixCover) addNetwork(p netip.Prefix) {
	for ; !w[p]; p = netip.PrefixFrom(p.Addr(), p.Bits()-1).Masked() {
		w[p] = true
		if p.Bits() == 0 || !w[sibling(p)] {
			return
		}
	}
}

// sibling returns the network that makes the next larger one with p.
func sibling(p netip.Prefix) netip.Prefix {
	b := p.Addr().AsSlice()
	last := p.Bits() - 1
	b[last/8] ^= 1 << (7 - last%8)
	other, _ := netip.AddrFromSlice(b)
	return netip.PrefixFrom(other, p.Bits())
}
