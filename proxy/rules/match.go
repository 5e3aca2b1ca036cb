package rules

import (
	"net/netip"
	"slices"
	"strings"
)

// commandSet holds 1<<Command for each command.
type commandSet uint8

const (
	tcpCommands   commandSet = 1<<Connect | 1<<Bind | 1<<BindReply
	udpCommands   commandSet = 1<<UDPAssociate | 1<<UDPReply
	replyCommands commandSet = 1<<BindReply | 1<<UDPReply
	allCommands              = tcpCommands | udpCommands
)

func (s commandSet) has(c Command) bool { return s&(1<<c) != 0 }

// versionSet holds what proxyprotocol: names.
type versionSet uint8

const (
	socks4 versionSet = 1 << iota
	socks5
	otherProxy // http and upnp, which no client here speaks

	allVersions = socks4 | socks5
)

func (s versionSet) has(v Version) bool {
	return v == SOCKS4 && s&socks4 != 0 || v == SOCKS5 && s&socks5 != 0
}

// condition is all that a query must fulfil to match a rule.
type condition struct {
	from, to endpoint
	commands commandSet // 0 in a client-rule
	versions versionSet // 0 in a client-rule
	users    []string   // sorted; empty: any
	groups   []string   // sorted; empty: any
}

// MatchClient returns the client-rule that first matches a connection: q.From
// is the client, q.To the local address it was accepted on; the rest of q but
// Lookup is not asked. Verdict.Addrs is empty. Safe for concurrent use, as all of Set is.
func (s *Set) MatchClient(q Query) Verdict {
	q = q.plain()
	for _, r := range s.Client {
		to := &r.cond.to
		if r.cond.fromMatches(&q) && to.ports.has(q.To.Port) && to.hasAddr(q.To.Addr, &q) {
			return Verdict{Rule: r}
		}
	}
	return Verdict{}
}

// MatchSocks returns the socks-rule that first matches a request.
//
// For a rule that passes, Verdict.Addrs are the addresses that may be dialled,
// in resolver order: the target itself if it is an address, and of a name those
// inside the rule's to: (all, if that is 0/0, the same name, or its .domain; only
// the shared ones, if it is another name). They may share the memory of q.Addrs.
//
// What From and To are depends on the command, as in Dante: for BindReply and
// UDPReply, From is the peer and To the client, and neither user nor method is
// asked. UDPAssociate with a zero To is the request itself: a rule that passes
// matches whatever its to: is, one that blocks only with to: 0/0 and no port.
// With a To it is one datagram.
func (s *Set) MatchSocks(q Query) Verdict {
	q = q.plain()
	for _, r := range s.Socks {
		if addrs, ok := r.matches(&q); ok {
			if !r.Pass {
				addrs = nil
			}
			return Verdict{Rule: r, Addrs: addrs}
		}
	}
	return Verdict{}
}

// MethodsFor returns the methods, in order of preference, that a client which
// matched a client-rule may negotiate: the rule's, else the server's, else none alone.
// SOCKS4 counts as the method None.
func (s *Set) MethodsFor(client *Rule) []Method {
	switch {
	case client != nil && len(client.Methods) > 0:
		return client.Methods
	case len(s.Settings.Methods) > 0:
		return s.Settings.Methods
	}
	return []Method{None}
}

// plain returns the query with its addresses in the form that rules have.
func (q Query) plain() Query {
	q.From = netip.AddrPortFrom(plain(q.From.Addr()), q.From.Port())
	q.To.Addr = plain(q.To.Addr)
	q.To.Name = strings.TrimSuffix(q.To.Name, ".")
	if slices.ContainsFunc(q.Addrs, func(a netip.Addr) bool { return a != plain(a) }) {
		addrs := make([]netip.Addr, len(q.Addrs))
		for i, a := range q.Addrs {
			addrs[i] = plain(a)
		}
		q.Addrs = addrs
	}
	return q
}

// matches asks what is cheap first; names are looked up last.
func (r *Rule) matches(q *Query) ([]netip.Addr, bool) {
	c := &r.cond
	if !c.commands.has(q.Command) || !c.versions.has(q.Version) || !r.admits(q) || !c.fromMatches(q) {
		return nil, false
	}
	if q.Command == UDPAssociate && q.To == (Target{}) {
		return nil, r.Pass || c.to.kind == anyAddress && !c.to.restricted
	}
	return c.to.target(q)
}

// admits asks for method, user and group, which replies do not have.
func (r *Rule) admits(q *Query) bool {
	if replyCommands.has(q.Command) {
		return true
	}
	if len(r.Methods) > 0 && !slices.Contains(r.Methods, q.Method) {
		return false
	}
	c := &r.cond
	if len(c.users)+len(c.groups) == 0 {
		return true
	}
	if q.Method == None {
		return false
	}
	if _, named := slices.BinarySearch(c.users, q.User); len(c.users) > 0 && !named {
		return false
	}
	return len(c.groups) == 0 || q.InGroup != nil && slices.ContainsFunc(c.groups, q.InGroup)
}

func (c *condition) fromMatches(q *Query) bool {
	return c.from.ports.has(q.From.Port()) && c.from.hasAddr(q.From.Addr(), q)
}

func (s ports) has(n uint16) bool {
	return !s.restricted || (s.lo <= n && n <= s.hi) != s.not
}

// target matches q.To and returns the addresses of it that were matched.
func (e *endpoint) target(q *Query) ([]netip.Addr, bool) {
	if !e.ports.has(q.To.Port) {
		return nil, false
	}
	if q.To.Name == "" {
		if !e.hasAddr(q.To.Addr, q) {
			return nil, false
		}
		return []netip.Addr{q.To.Addr}, true
	}
	switch {
	case e.kind == anyAddress, e.hasName(q.To.Name):
		return q.Addrs, true
	case e.kind == suffixAddress:
		return nil, false
	}
	inside := e.among(q.Addrs, q)
	return inside, len(inside) > 0
}

// hasName reports whether a name is that of the rule or below its .domain.
func (a *address) hasName(name string) bool {
	if a.kind == suffixAddress && len(name) > len(a.name) {
		cut := len(name) - len(a.name)
		return name[cut-1] == '.' && strings.EqualFold(name[cut:], a.name)
	}
	return (a.kind == hostAddress || a.kind == suffixAddress) && strings.EqualFold(name, a.name)
}

// among returns the addresses that are inside a. For another host name these
// are the addresses that it shares with the rule's name.
func (a *address) among(addrs []netip.Addr, q *Query) []netip.Addr {
	if a.kind == hostAddress {
		known := a.lookup(q)
		return filter(addrs, func(ip netip.Addr) bool { return slices.Contains(known, ip) })
	}
	return filter(addrs, func(ip netip.Addr) bool { return a.hasAddr(ip, q) })
}

// filter returns the addresses for which keep holds, in a new slice.
func filter(addrs []netip.Addr, keep func(netip.Addr) bool) []netip.Addr {
	var kept []netip.Addr
	for _, ip := range addrs {
		if keep(ip) {
			kept = append(kept, ip)
		}
	}
	return kept
}

// hasAddr reports whether an address is inside a. A .domain holds none:
// addresses are not looked up backwards.
func (a *address) hasAddr(ip netip.Addr, q *Query) bool {
	switch a.kind {
	case anyAddress:
		return true
	case prefixAddress:
		return a.prefix.Contains(ip)
	case interfaceAddress:
		return slices.Contains(a.addrs, ip)
	case hostAddress:
		return slices.Contains(a.lookup(q), ip)
	}
	return false
}

// lookup returns the addresses of the rule's host name.
func (a *address) lookup(q *Query) []netip.Addr {
	if q.Lookup == nil {
		return nil
	}
	var addrs []netip.Addr
	for _, ip := range q.Lookup(a.name) {
		addrs = append(addrs, plain(ip))
	}
	return addrs
}
