package rules

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// coverage finds, for a rule, earlier rules that match everything that it matches.
// Its indexes also have host names and groups, unlike those for queries: a query needs
// the addresses of a host name, but two rules can be compared by the names.
type coverage struct {
	clients, requests, replies *index

	methods []Method        // all methods that clients can negotiate
	leaving Families        // the families of the targets that can be reached
	left    *int            // how many more comparisons are allowed; at 0 the search ends
	stop    <-chan struct{} // closed when the caller no longer waits for the result
}

// mostComparisons bounds the work of Lint to about a second for most files. An index
// finds the candidates for most rules by one condition. If ten thousand rules differ
// only in several conditions together, all pairs would have to be compared.
const mostComparisons = 5_000_000

func (s *Set) coverage(ctx context.Context, comparisons int) coverage {
	with := func(target, user bool) func(*Rule) [][]key {
		return func(r *Rule) [][]key {
			list := conditionsOf(target, user)(r)
			if to := &r.cond.to; to.kind == hostAddress {
				list = append(list, []key{{what: keyDomain, text: to.name}})
			}
			if len(r.cond.groups) > 0 && user {
				var keys []key
				for _, name := range groupNames(r) {
					keys = append(keys, key{what: keyUser, text: name})
				}
				list = append(list, keys)
			}
			return list
		}
	}
	c := coverage{
		clients:  newIndex(s.Client, with(true, false)),
		requests: newIndex(s.Socks, with(true, true)),
		replies:  newIndex(s.Socks, with(true, false)),
		methods:  s.Settings.Methods,
		leaving:  s.leaving,
		left:     &comparisons,
		stop:     ctx.Done(),
	}
	if len(c.methods) == 0 {
		c.methods = []Method{None, Username} // the server chooses when it starts
	}
	return c
}

// groupNames returns the keys of a rule's groups in the index of users. User names
// have no colon, so a key that begins with a colon is a group.
func groupNames(r *Rule) (names []string) {
	for _, name := range r.cond.groups {
		names = append(names, ":"+name)
	}
	return names
}

// lint warns of rules that never match, because one earlier rule covers them, or two
// earlier rules do, one for each address family. It does not find rules that several
// others cover in another way.
func (c coverage) lint(list []*Rule) (found []Diagnostic) {
	for _, r := range list {
		if !r.Client && (r.cond.commands == 0 || r.cond.versions&allVersions == 0) {
			continue // the parser has warned
		}
		by := c.by(r, r)
		switch {
		case by == nil:
		case takeAssociations(by, r):
			found = append(found, r.warning("this rule never matches: "+first(by)+" everything first", c.instead(r, by)))
		default:
			found = append(found, r.warning("this rule only matches requests for UDP associations: "+first(by)+" everything else first", c.instead(r, by)))
		}
	}
	return shown(found)
}

// first returns "s1 (line 3) matches", or "s1 (line 3), s2 (line 4) match".
func first(by []*Rule) string {
	var words []string
	for _, r := range by {
		words = append(words, fmt.Sprintf("%s (line %d)", r.ID(), r.Pos.Line))
	}
	verb := " matches"
	if len(by) > 1 {
		verb = " match"
	}
	return strings.Join(words, ", ") + verb
}

// instead returns the remedy for r, which the rules in by cover. Removing r changes
// nothing. Moving r before them is right if it is an exception. But if r covers one of
// them, that rule would never match after the move: if r blocks everybody, nobody could
// get in any more.
func (c coverage) instead(r *Rule, by []*Rule) string {
	if slices.ContainsFunc(by, func(earlier *Rule) bool { return c.covers(r, earlier) }) {
		return "remove it, or correct it if it is meant for something else"
	}
	these := "that rule"
	if len(by) > 1 {
		these = "those rules"
	}
	return "remove it, or move it before " + these + " if it is meant as an exception"
}

// families together contain all addresses. They do not contain all names.
var families = []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("::/0")}

// by returns rules before end that together cover r: whatever r matches, one of them
// matches. They are of the same kind as r (client-rules or socks-rules). It returns nil
// if it finds none. It ignores requests for UDP associations, see takeAssociations.
func (c coverage) by(r, end *Rule) (all []*Rule) {
	if one := c.one(r, end); one != nil {
		return []*Rule{one}
	}
	part := *r // r, restricted to the addresses of one family
	var half *address
	switch {
	case r.cond.from.kind == anyAddress:
		half = &part.cond.from.address
	case r.Client && r.cond.to.kind == anyAddress: // in a socks-rule, it also matches names
		half = &part.cond.to.address
	default:
		return nil
	}
	for _, family := range families {
		*half = address{kind: prefixAddress, prefix: family}
		by := c.by(&part, end)
		if by == nil {
			return nil
		}
		all = append(all, by...)
	}
	slices.SortFunc(all, func(a, b *Rule) int { return a.Number - b.Number })
	return slices.Compact(all)
}

// one returns a single rule before end that covers r, or nil. The index may not find
// end itself: no query finds a rule with an interface that has no addresses.
func (c coverage) one(r, end *Rule) *Rule {
	x := c.requests
	switch {
	case r.Client:
		x = c.clients
	case r.cond.commands&^replyCommands == 0:
		x = c.replies
	}
	// A rule that covers r matches every query that r matches, so one query finds it.
	q := r.example(x)
	lists := x.candidates(nil, &q)
	if found := x.users[x.rarestUser(groupNames(r))]; len(found) > 0 {
		lists = append(lists, found)
	}
	earlier, lists := x.next(lists)
	for ; earlier != nil && earlier.Number < end.Number && c.mayCompare(); earlier, lists = x.next(lists) {
		if c.covers(earlier, r) {
			return earlier
		}
	}
	return nil
}

// mayCompare reports whether one more comparison is allowed, and counts it.
func (c coverage) mayCompare() bool {
	select {
	case <-c.stop:
		*c.left = 0
	default:
	}
	if *c.left == 0 {
		return false
	}
	*c.left--
	return true
}

// afresh returns a coverage of the same rules with a new bound on comparisons.
func (c coverage) afresh(comparisons int) coverage {
	c.left = &comparisons
	return c
}

// example returns a query that r matches, with those fields that the index x uses.
func (r *Rule) example(x *index) (q Query) {
	addr := func(a *address) netip.Addr {
		switch {
		case a.kind == prefixAddress:
			return a.prefix.Addr()
		case len(a.addrs) > 0:
			return a.addrs[0]
		case len(a.networks) > 0:
			return a.networks[0].Addr()
		}
		return netip.Addr{}
	}
	c := &r.cond
	q.From = netip.AddrPortFrom(addr(&c.from.address), c.from.first())
	q.To = Target{Addr: addr(&c.to.address), Port: c.to.first()}
	if c.to.kind == hostAddress || c.to.kind == suffixAddress {
		q.To.Name = c.to.name
	}
	if len(c.users) > 0 {
		q.User, q.Method = x.rarestUser(c.users), Username
	}
	return q
}

// rarestUser returns the name under which x has the fewest rules, or "" if there are
// no names.
func (x *index) rarestUser(names []string) string {
	if len(names) == 0 {
		return ""
	}
	return slices.MinFunc(names, func(a, b string) int { return len(x.users[a]) - len(x.users[b]) })
}

// covers reports whether earlier matches everything that r matches. It ignores requests
// for UDP associations. It compares users last, because their lists may be long.
func (c coverage) covers(earlier, r *Rule) bool {
	a, b := &earlier.cond, &r.cond
	return b.commands&^a.commands == 0 && b.versions&^a.versions&allVersions == 0 &&
		a.from.covers(&b.from) && a.to.covers(&b.to) &&
		(b.commands&^replyCommands == 0 || c.coversUsers(earlier, r))
}

func (c coverage) coversUsers(earlier, r *Rule) bool {
	within := func(all, part []string) bool {
		return len(all) == 0 || len(part) > 0 && !slices.ContainsFunc(part, func(name string) bool {
			_, found := slices.BinarySearch(all, name)
			return !found
		})
	}
	methods := r.Methods
	switch {
	case len(methods) > 0:
	case len(r.cond.users)+len(r.cond.groups) > 0:
		methods = []Method{Username}
	default:
		methods = c.methods
	}
	covered := len(earlier.Methods) == 0 ||
		!slices.ContainsFunc(methods, func(m Method) bool { return !slices.Contains(earlier.Methods, m) })
	return covered && within(earlier.cond.users, r.cond.users) && within(earlier.cond.groups, r.cond.groups)
}

// takeAssociations reports whether the rules in by, which cover r, also match the
// requests for UDP associations that r would match.
func takeAssociations(by []*Rule, r *Rule) bool {
	leaves := func(r *Rule) bool {
		return !r.cond.commands.has(UDPAssociate) || !r.Pass && !r.cond.everything
	}
	return r.Client || leaves(r) || !slices.ContainsFunc(by, leaves)
}

func (e *endpoint) covers(f *endpoint) bool {
	return e.ports.covers(f.ports) && e.address.covers(&f.address)
}

// shared returns what e and f have in common. some is false if they have nothing in
// common. If that is unknown, as for host names, it returns e.
func (e *endpoint) shared(f *endpoint) (both endpoint, some bool) {
	both = *e
	if e.ports.covers(f.ports) {
		both.ports = f.ports
	}
	if e.address.covers(&f.address) {
		both.address = f.address
		return both, true
	}
	disjoint := e.kind == prefixAddress && f.kind == prefixAddress && !f.address.covers(&e.address)
	return both, !disjoint
}

// first returns the lowest port in s.
func (s ports) first() uint16 {
	switch {
	case !s.not:
		return s.lo
	case s.lo > 0:
		return 0
	}
	return s.hi + 1
}

func (s ports) covers(t ports) bool {
	switch {
	case !s.restricted:
		return true
	case !t.restricted:
		return false
	case s.not && t.not:
		return s.lo == t.lo && s.hi == t.hi
	case s.not:
		return t.hi < s.lo || t.lo > s.hi
	}
	return !t.not && s.lo <= t.lo && t.hi <= s.hi
}

// covers reports whether every address and every name in b is in a.
func (a *address) covers(b *address) bool {
	switch a.kind {
	case anyAddress:
		return true
	case prefixAddress:
		return b.kind == prefixAddress && within(b.prefix, a.prefix)
	case builtinAddress:
		if b.kind == prefixAddress {
			return slices.ContainsFunc(a.networks, func(n netip.Prefix) bool { return within(b.prefix, n) })
		}
	case suffixAddress:
		return b.kind == suffixAddress && a.hasName(b.name)
	}
	return a.kind == b.kind && a.name == b.name // the same name has the same addresses, and so has the same interface
}

// within reports whether every address of inner is in outer.
func within(inner, outer netip.Prefix) bool {
	return outer.Bits() <= inner.Bits() && outer.Contains(inner.Addr())
}
