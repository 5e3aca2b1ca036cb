package rules

import (
	"math"
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

// condition has everything that a query must fulfil to match a rule.
type condition struct {
	from, to endpoint
	commands commandSet // 0 in a client-rule
	versions versionSet // 0 in a client-rule
	users    []string   // sorted; empty: any
	groups   []string   // sorted; empty: any

	everything bool // to: covers every target to which a datagram could be sent
}

// Mismatch is the first condition of a rule that a query does not fulfil.
type Mismatch uint8

const (
	NoMismatch Mismatch = iota // the rule matches
	NotCommand
	NotVersion
	NotMethod
	NotUser
	NotGroup
	NotFromPort
	NotFrom
	NotToPort
	NotTo
	NotLookedUp // unknown: it depends on addresses that were not looked up, see CouldPass
)

// MatchClient returns the first client-rule that matches a connection. q.From is
// the client, q.To the local address on which the connection was accepted. Of the
// other fields of q, only Lookup is used. Verdict.Addrs is empty. All methods of Set
// are safe for concurrent use.
func (s *Set) MatchClient(q Query) Verdict {
	q = q.plain()
	q.To.Name = ""
	var room [usualLists][]int32
	r, left := s.clients.next(s.clients.candidates(room[:0], &q))
	for ; r != nil; r, left = s.clients.next(left) {
		if r.clientMismatch(&q) == NoMismatch {
			return Verdict{Rule: r}
		}
	}
	return Verdict{}
}

// MatchSocks returns the first socks-rule that matches a request.
//
// If the rule passes, Verdict.Addrs are the addresses that may be dialled, in the
// order of the resolver:
//   - The target is an address: this address.
//   - The target is a name, and the rule's to: is 0/0, this name or its .domain: all
//     addresses of the name.
//   - The rule's to: is another name: the addresses that both names have.
//   - Otherwise: the addresses of the name that are inside to:.
//
// Verdict.Addrs may share the memory of q.Addrs.
//
// As in Dante, the meaning of From and To depends on the command:
//   - BindReply and UDPReply: From is the peer, To is the client. The rules do not
//     ask for user and method.
//   - UDPAssociate with a zero To: the request for an association. A rule that
//     passes matches with any to:. A rule that blocks matches only if its to: covers
//     every target.
//   - UDPAssociate with a To: one datagram to this target.
//   - Other commands: From is the client, To is the target.
func (s *Set) MatchSocks(q Query) Verdict {
	q = q.plain()
	index := s.socks[q.kind()]
	var room [usualLists][]int32
	r, left := index.next(index.candidates(room[:0], &q))
	for ; r != nil; r, left = index.next(left) {
		if addrs, why := r.mismatch(&q); why == NoMismatch {
			return r.verdict(addrs)
		}
	}
	return Verdict{}
}

// verdict returns the verdict of a rule that matched addrs.
func (r *Rule) verdict(addrs []netip.Addr) Verdict {
	if !r.Pass {
		addrs = nil
	}
	return Verdict{Rule: r, Addrs: addrs}
}

// MethodsFor returns the methods that a client of this client-rule may negotiate, in
// order of preference: those of the rule, or else of the server settings, or else
// None. SOCKS4 counts as the method None.
func (s *Set) MethodsFor(client *Rule) []Method {
	switch {
	case client != nil && len(client.Methods) > 0:
		return client.Methods
	case len(s.Settings.Methods) > 0:
		return s.Settings.Methods
	}
	return []Method{None}
}

// plain returns the query with its names and addresses in the form that rules have.
func (q Query) plain() Query {
	q.From = netip.AddrPortFrom(plain(q.From.Addr()), q.From.Port())
	q.To.Addr = plain(q.To.Addr)
	q.To.Name = strings.ToLower(strings.TrimSuffix(q.To.Name, "."))
	if slices.ContainsFunc(q.Addrs, func(a netip.Addr) bool { return a != plain(a) }) {
		addrs := make([]netip.Addr, len(q.Addrs))
		for i, a := range q.Addrs {
			addrs[i] = plain(a)
		}
		q.Addrs = addrs
	}
	return q
}

// clientMismatch returns the first condition of a client-rule that q does not fulfil.
func (r *Rule) clientMismatch(q *Query) Mismatch {
	if why := r.cond.fromMismatch(q); why != NoMismatch {
		return why
	}
	switch to := &r.cond.to; {
	case !to.ports.has(q.To.Port):
		return NotToPort
	case !to.hasAddr(q.To.Addr, q):
		return NotTo
	}
	return NoMismatch
}

// mismatch returns the first condition of a socks-rule that q does not fulfil. It
// checks cheap conditions first, and names that need a lookup last. If the rule
// matches, it also returns the addresses of the target that the rule matched.
func (r *Rule) mismatch(q *Query) ([]netip.Addr, Mismatch) {
	c := &r.cond
	switch {
	case !c.commands.has(q.Command):
		return nil, NotCommand
	case !c.versions.has(q.Version):
		return nil, NotVersion
	}
	if why := r.userMismatch(q); why != NoMismatch {
		return nil, why
	}
	if why := c.fromMismatch(q); why != NoMismatch {
		return nil, why
	}
	if q.kind() == kindAssociation {
		if r.Pass || c.everything {
			return nil, NoMismatch
		}
		return nil, NotTo
	}
	return c.to.target(q)
}

// userMismatch checks method, user and group. Replies have none of these.
func (r *Rule) userMismatch(q *Query) Mismatch {
	if replyCommands.has(q.Command) {
		return NoMismatch
	}
	if len(r.Methods) > 0 && !slices.Contains(r.Methods, q.Method) {
		return NotMethod
	}
	c := &r.cond
	if len(c.users) > 0 {
		if _, named := slices.BinarySearch(c.users, q.User); q.Method == None || !named {
			return NotUser
		}
	}
	if len(c.groups) > 0 && (q.Method == None || q.InGroup == nil || !slices.ContainsFunc(c.groups, q.InGroup)) {
		return NotGroup
	}
	return NoMismatch
}

func (c *condition) fromMismatch(q *Query) Mismatch {
	switch {
	case !c.from.ports.has(q.From.Port()):
		return NotFromPort
	case !c.from.hasAddr(q.From.Addr(), q):
		return NotFrom
	}
	return NoMismatch
}

// everything reports whether e covers every target to which a datagram could be
// sent from an address of the families. Nothing is sent to port 0.
func (e *endpoint) everything(families Families) bool {
	if e.restricted && (e.not || e.lo > 1 || e.hi < math.MaxUint16) {
		return false
	}
	switch {
	case e.kind == anyAddress:
		return true
	case e.kind != prefixAddress || e.prefix.Bits() > 0:
		return false
	}
	return families == IPv4 && e.prefix.Addr().Is4() || families == IPv6 && e.prefix.Addr().Is6()
}

func (s ports) has(n uint16) bool {
	return !s.restricted || (s.lo <= n && n <= s.hi) != s.not
}

// target checks whether q.To is in e, and returns the addresses of q.To that are.
func (e *endpoint) target(q *Query) ([]netip.Addr, Mismatch) {
	switch {
	case !e.ports.has(q.To.Port):
		return nil, NotToPort
	case q.To.Name == "" && e.hasAddr(q.To.Addr, q):
		if len(q.Addrs) == 1 && q.Addrs[0] == q.To.Addr {
			return q.Addrs, NoMismatch // allocates nothing, as this is asked for every datagram
		}
		return []netip.Addr{q.To.Addr}, NoMismatch
	case q.To.Name == "" || e.kind == suffixAddress && !e.hasName(q.To.Name):
		return nil, NotTo
	case e.kind == anyAddress, e.hasName(q.To.Name):
		return q.Addrs, NoMismatch
	}
	if inside := e.among(q.Addrs, q); len(inside) > 0 {
		return inside, NoMismatch
	}
	return nil, NotTo
}

// hasName reports whether a name, in lower case, is the name in the rule or below its
// .domain.
func (a *address) hasName(name string) bool {
	switch a.kind {
	case hostAddress:
		return name == a.name
	case suffixAddress:
		above, found := strings.CutSuffix(name, a.name)
		return found && (above == "" || above[len(above)-1] == '.')
	}
	return false
}

// among returns those of addrs that are inside a. If a is a host name, these are the
// addresses that the host name has as well.
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

// hasAddr reports whether an address is inside a. A .domain has no addresses,
// because Usher makes no reverse lookups.
func (a *address) hasAddr(ip netip.Addr, q *Query) bool {
	switch a.kind {
	case anyAddress:
		return true
	case prefixAddress:
		return a.prefix.Contains(ip)
	case interfaceAddress:
		return slices.Contains(a.addrs, ip)
	case builtinAddress:
		return slices.ContainsFunc(a.networks, func(n netip.Prefix) bool { return n.Contains(ip) })
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
