package rules

import (
	"math"
	"math/bits"
	"net/netip"
	"slices"
	"strings"
)

// queryKind tells queries apart by the conditions that apply to them.
type queryKind uint8

const (
	kindRequest     queryKind = iota // CONNECT, BIND, and each datagram
	kindAssociation                  // the request for a UDP association, which names no target yet
	kindReply                        // replies have neither user nor method
	allKinds
)

func (q *Query) kind() queryKind {
	switch {
	case replyCommands.has(q.Command):
		return kindReply
	case q.Command == UDPAssociate && q.To == (Target{}):
		return kindAssociation
	}
	return kindRequest
}

// An index finds the rules of a list that may match a query, in the order of the
// list. It skips only rules that cannot match, and that would not look up a name.
// Each rule that it finds must still be compared with the query in full.
//
// Each rule is filed under one of its conditions: the one that it shares with the
// fewest other rules. For example, a rule for one user of ten thousand is filed under
// the user, and a rule that blocks a network under the network. Rules are not filed
// under host names, groups, methods and commands. A rule that has only such conditions
// is in rest, and is compared with each query.
type index struct {
	rules              []*Rule
	from, to           prefixes
	fromPorts, toPorts prefixes           // see portBlock
	domains            map[string][]int32 // to: .domain
	users              map[string][]int32
	rest               []int32
}

// index builds the indexes. The rules must not change after that.
func (s *Set) index() {
	s.clients = newIndex(s.Client, conditionsOf(true, false))
	s.socks[kindRequest] = newIndex(s.Socks, conditionsOf(true, true))
	s.socks[kindAssociation] = newIndex(s.Socks, conditionsOf(false, true))
	s.socks[kindReply] = newIndex(s.Socks, conditionsOf(true, false))
	s.unresolved = newIndex(only(s.Socks, func(r *Rule) bool { _, network := r.cond.to.networkKeys(keyTo); return r.Pass || !network }), nameConditions)
}

// key is a condition under which a rule can be filed. A query without this key does
// not match the rule.
type key struct {
	what   keyKind
	prefix netip.Prefix
	text   string
}

type keyKind uint8

const (
	keyFrom keyKind = iota
	keyTo
	keyDomain
	keyFromPort
	keyToPort
	keyUser
)

// conditionsOf returns a function that lists the conditions of a rule that an index
// can use. It includes conditions about the target if target is set, and about the
// user if user is set. The keys of one condition are alternatives: a rule that is filed
// under the condition is filed under all of its keys.
func conditionsOf(target, user bool) func(*Rule) [][]key {
	return func(r *Rule) (list [][]key) {
		if keys, ok := r.cond.from.networkKeys(keyFrom); ok {
			list = append(list, keys)
		}
		if from := r.cond.from.ports; from.restricted {
			list = append(list, from.blocks(keyFromPort))
		}
		to := &r.cond.to
		if keys, ok := to.networkKeys(keyTo); ok && target {
			list = append(list, keys)
		}
		if to.kind == suffixAddress && target {
			list = append(list, []key{{what: keyDomain, text: to.name}})
		}
		if to.restricted && target {
			list = append(list, to.ports.blocks(keyToPort))
		}
		if len(r.cond.users) > 0 && user {
			var keys []key
			for _, name := range r.cond.users {
				keys = append(keys, key{what: keyUser, text: name})
			}
			list = append(list, keys)
		}
		return list
	}
}

// nameConditions lists the conditions of a rule that can be checked before the name of
// a request is looked up.
func nameConditions(r *Rule) (list [][]key) {
	list = conditionsOf(false, true)(r)
	if to := &r.cond.to; to.kind == suffixAddress {
		list = append(list, []key{{what: keyDomain, text: to.name}})
	}
	return list
}

// networkKeys returns the keys of an address that consists of networks. ok is false
// for other kinds of addresses.
func (a *address) networkKeys(what keyKind) (keys []key, ok bool) {
	switch a.kind {
	case prefixAddress:
		return []key{{what: what, prefix: a.prefix}}, true
	case interfaceAddress: // without addresses it matches nothing, and has no keys
		for _, ip := range a.addrs {
			keys = append(keys, key{what: what, prefix: netip.PrefixFrom(ip, ip.BitLen())})
		}
		return keys, true
	case builtinAddress:
		for _, n := range a.networks {
			keys = append(keys, key{what: what, prefix: n})
		}
		return keys, true
	}
	return nil, false
}

// portBlock returns the block of ports whose first length bits are those of n, written
// as a network. So the index finds ports in the same way as addresses.
func portBlock(n uint16, length int) netip.Prefix {
	return netip.PrefixFrom(portAddr(n), 16+length)
}

func portAddr(n uint16) netip.Addr {
	return netip.AddrFrom4([4]byte{2: byte(n >> 8), 3: byte(n)})
}

// blocks returns the keys of a restricted set of ports: the smallest number of blocks
// that together are the set, at most thirty for a range.
func (s ports) blocks(what keyKind) (keys []key) {
	add := func(lo, hi int) {
		for lo <= hi {
			size := 1 // the largest block that begins here and ends in time
			for lo%(2*size) == 0 && lo+2*size-1 <= hi {
				size *= 2
			}
			keys = append(keys, key{what: what, prefix: portBlock(uint16(lo), 17-bits.Len(uint(size)))})
			lo += size
		}
	}
	if s.not {
		add(0, int(s.lo)-1)
		add(int(s.hi)+1, math.MaxUint16)
	} else {
		add(int(s.lo), int(s.hi))
	}
	return keys
}

func newIndex(list []*Rule, conditions func(*Rule) [][]key) *index {
	sharing := map[key]int{} // how many rules have the key
	for _, r := range list {
		for _, keys := range conditions(r) {
			for _, k := range keys {
				sharing[k]++
			}
		}
	}
	x := &index{rules: list, domains: map[string][]int32{}, users: map[string][]int32{}}
	networks := map[key][]int32{}
	for i, r := range list {
		if list := conditions(r); len(list) > 0 {
			x.file(int32(i), rarest(list, sharing), networks)
		} else {
			x.rest = append(x.rest, int32(i))
		}
	}
	x.from, x.to = newPrefixes(networks, keyFrom), newPrefixes(networks, keyTo)
	x.fromPorts, x.toPorts = newPrefixes(networks, keyFromPort), newPrefixes(networks, keyToPort)
	return x
}

// rarest returns the condition whose keys the fewest rules share.
func rarest(conditions [][]key, sharing map[key]int) []key {
	common := func(keys []key) (most int) {
		for _, k := range keys {
			most = max(most, sharing[k])
		}
		return most
	}
	return slices.MinFunc(conditions, func(a, b []key) int { return common(a) - common(b) })
}

// file files rule i under keys. It only collects networks and blocks of ports, because
// newPrefixes sorts them later.
func (x *index) file(i int32, keys []key, networks map[key][]int32) {
	for _, k := range keys {
		switch k.what {
		case keyFrom, keyTo, keyFromPort, keyToPort:
			networks[k] = append(networks[k], i)
		case keyDomain:
			x.domains[k.text] = append(x.domains[k.text], i)
		case keyUser:
			x.users[k.text] = append(x.users[k.text], i)
		}
	}
}

// usualLists is enough for the lists of most queries. If there are more, memory is
// allocated.
const usualLists = 16

// candidates appends to lists the lists of rules that may match q. Each list is in
// order, and none is empty. q must be plain.
func (x *index) candidates(lists [][]int32, q *Query) [][]int32 {
	lists = append(lists, x.rest)
	lists = x.from.find(lists, q.From.Addr())
	lists = x.fromPorts.find(lists, portAddr(q.From.Port()))
	lists = x.toPorts.find(lists, portAddr(q.To.Port))
	if q.Method != None && len(x.users) > 0 {
		lists = append(lists, x.users[q.User])
	}
	if q.To.Name == "" {
		lists = x.to.find(lists, q.To.Addr)
	} else {
		for _, ip := range q.Addrs {
			lists = x.to.find(lists, ip)
		}
		if len(x.domains) > 0 {
			lists = x.findDomains(lists, q.To.Name)
		}
	}
	return slices.DeleteFunc(lists, func(l []int32) bool { return len(l) == 0 })
}

// findDomains adds the rules of the name and of all domains above it.
func (x *index) findDomains(lists [][]int32, name string) [][]int32 {
	for more := true; more; _, name, more = strings.Cut(name, ".") {
		lists = append(lists, x.domains[name])
	}
	return lists
}

// next returns the first rule of all lists, and the lists without it. The rule is nil
// if the lists are empty. If several lists have the rule, it is removed from all.
func (x *index) next(lists [][]int32) (first *Rule, left [][]int32) {
	if len(lists) == 0 {
		return nil, nil
	}
	n := lists[0][0]
	for _, l := range lists[1:] {
		n = min(n, l[0])
	}
	left = lists[:0]
	for _, l := range lists {
		if l[0] == n {
			l = l[1:]
		}
		if len(l) > 0 {
			left = append(left, l)
		}
	}
	return x.rules[n], left
}

// prefixes finds the networks that contain an address.
type prefixes struct {
	first []netip.Addr // the first address of each network, sorted; if equal, the larger network first
	nodes []node
}

type node struct {
	prefix netip.Prefix
	above  int32 // the smallest network around it, -1 if there is none
	rules  []int32
}

func newPrefixes(networks map[key][]int32, what keyKind) (p prefixes) {
	for k, rules := range networks {
		if k.what == what {
			p.nodes = append(p.nodes, node{prefix: k.prefix, rules: rules})
		}
	}
	slices.SortFunc(p.nodes, func(a, b node) int {
		if c := a.prefix.Addr().Compare(b.prefix.Addr()); c != 0 {
			return c
		}
		return a.prefix.Bits() - b.prefix.Bits()
	})
	for i := range p.nodes {
		n := &p.nodes[i]
		for n.above = int32(i) - 1; n.above >= 0 && !p.nodes[n.above].prefix.Contains(n.prefix.Addr()); {
			n.above = p.nodes[n.above].above
		}
		p.first = append(p.first, n.prefix.Addr())
	}
	return p
}

// find adds the rules of all networks that contain ip. They all begin at or before ip.
// The last network that begins there is one of them, or lies inside all of them. So
// the search starts with it and follows above.
func (p *prefixes) find(lists [][]int32, ip netip.Addr) [][]int32 {
	at, found := slices.BinarySearchFunc(p.first, ip, netip.Addr.Compare)
	for found && at+1 < len(p.first) && p.first[at+1] == ip {
		at++
	}
	if !found {
		at--
	}
	for i := int32(at); i >= 0; i = p.nodes[i].above {
		if p.nodes[i].prefix.Contains(ip) {
			lists = append(lists, p.nodes[i].rules)
		}
	}
	return lists
}
