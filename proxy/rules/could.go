package rules

import (
	"net/netip"
	"slices"
)

// CouldPass reports whether MatchSocks could pass a request, whatever addresses its
// name has. If not, the name should not be looked up: the DNS query could carry data to
// the owner of the name, and the reply would tell the client whether the name exists. q
// is a request by name, or one for Bind, where the rules judge an address of this
// machine that depends on those of the name: To is not asked.
//
// If it could not, blocks is the rule that blocks every address; nil if there is none.
// It looks up no name in a rule: such a rule counts as one that may match.
func (s *Set) CouldPass(q Query) (blocks *Rule, could bool) {
	q = q.unresolved()
	var room [usualLists][]int32
	r, left := s.unresolved.next(s.unresolved.candidates(room[:0], &q))
	for ; r != nil; r, left = s.unresolved.next(left) {
		switch chance := r.chance(&q); {
		case chance == never:
		case r.Pass && s.leaves(&q, r):
			return nil, true
		case !r.Pass && chance == always:
			return r, false
		}
	}
	return nil, false
}

// ExplainCouldPass returns what CouldPass does, and a Step for each rule up to the
// one that blocks.
func (s *Set) ExplainCouldPass(q Query) (blocks *Rule, could bool, steps []Step) {
	blocks, could = s.CouldPass(q)
	q = q.unresolved()
	for _, r := range s.Socks {
		if r == blocks {
			return blocks, could, append(steps, r.step(&q, NoMismatch))
		}
		if r.chance(&q) == never {
			_, why := r.mismatch(&q)
			steps = append(steps, r.step(&q, why))
			continue
		}
		why := "no rule passes " + q.To.Name + " at any address, so it is not looked up"
		if q.Command == Bind {
			why = "no rule passes BIND at any address, so the name is not looked up"
		}
		steps = append(steps, Step{Rule: r, Mismatch: NotLookedUp, Why: why})
	}
	return blocks, could, steps
}

// unresolved returns q without the fields that need a lookup.
func (q Query) unresolved() Query {
	q = q.plain()
	q.To.Addr, q.Addrs, q.Lookup = netip.Addr{}, nil, nil
	if q.Command == Bind {
		q.To = Target{}
	}
	return q
}

// chance is whether a rule matches a request whose addresses are not known.
type chance uint8

const (
	never chance = iota
	perhaps
	always
)

func (r *Rule) chance(q *Query) chance {
	from := r.chanceFrom(q)
	if from == never {
		return never
	}
	return min(from, r.cond.to.chance(q))
}

// chanceFrom does what chance does, without to:.
func (r *Rule) chanceFrom(q *Query) chance {
	c := &r.cond
	switch {
	case !c.commands.has(q.Command), !c.versions.has(q.Version), r.userMismatch(q) != NoMismatch, !c.from.ports.has(q.From.Port()):
		return never
	case c.from.kind == hostAddress:
		return perhaps
	case !c.from.hasAddr(q.From.Addr(), q):
		return never
	}
	return always
}

// chance does what the method of Rule does, for to: alone. For Bind, to: is an address
// and a port of this machine.
func (e *endpoint) chance(q *Query) chance {
	switch {
	case e.kind == interfaceAddress && len(e.addrs) == 0:
		return never
	case q.Command == Bind:
		if e.kind == suffixAddress {
			return never
		}
	case !e.ports.has(q.To.Port):
		return never
	case e.hasName(q.To.Name):
		return always
	case e.kind == suffixAddress:
		return never
	}
	if e.kind == anyAddress && (q.Command != Bind || !e.restricted) {
		return always
	}
	return perhaps
}

// leaves reports whether the rules before r, which passes, leave it an address:
// a rule that blocks a network matches a name with any address in it.
func (s *Set) leaves(q *Query, r *Rule) bool {
	keys, ok := r.cond.to.networkKeys(keyTo)
	if !ok { // a name, or everything
		for _, family := range families {
			keys = append(keys, key{prefix: family})
		}
	}
	for _, k := range keys {
		if !s.blocked(*q, k.prefix, r) {
			return true
		}
	}
	return false
}

// mostTogether bounds how many rules blocked may need to cover a network together.
// A client can make it count with each request.
const mostTogether = 256

// blocked reports whether rules before end block all of a network, one of them or
// several together. It goes from its first address to the one behind the largest
// network around that, and so on, until it finds one that none of them blocks.
func (s *Set) blocked(q Query, network netip.Prefix, end *Rule) bool {
	q.To = Target{Addr: network.Addr(), Port: q.To.Port}
	for range mostTogether {
		around, found := s.blockedAround(&q, end)
		switch {
		case !found:
			return false
		case around.Bits() <= network.Bits():
			return true
		}
		if q.To.Addr = last(around).Next(); !network.Contains(q.To.Addr) {
			return true
		}
	}
	return false
}

// blockedAround returns the largest network around the address of q that a rule
// before end blocks. found is false if there is none.
func (s *Set) blockedAround(q *Query, end *Rule) (largest netip.Prefix, found bool) {
	index := s.socks[kindRequest]
	var room [usualLists][]int32
	r, left := index.next(index.candidates(room[:0], q))
	for ; r != nil && r.Number < end.Number; r, left = index.next(left) {
		to := &r.cond.to
		everyPort := !to.restricted || q.Command != Bind && to.ports.has(q.To.Port)
		if r.Pass || !everyPort {
			continue
		}
		n, holds := to.address.around(q.To.Addr)
		if holds && (!found || n.Bits() < largest.Bits()) && r.chanceFrom(q) == always {
			largest, found = n, true
		}
	}
	return largest, found
}

// around returns the largest network around ip all of which is in a. holds is false
// if ip is not in a, or a is a name.
func (a *address) around(ip netip.Addr) (n netip.Prefix, holds bool) {
	switch a.kind {
	case anyAddress:
		return netip.PrefixFrom(ip, 0).Masked(), true
	case prefixAddress:
		return a.prefix, a.prefix.Contains(ip)
	case interfaceAddress:
		return netip.PrefixFrom(ip, ip.BitLen()), slices.Contains(a.addrs, ip)
	case builtinAddress: // none of its networks is inside another
		i := slices.IndexFunc(a.networks, func(n netip.Prefix) bool { return n.Contains(ip) })
		if i >= 0 {
			return a.networks[i], true
		}
	}
	return n, false
}

// last returns the last address of a network.
func last(n netip.Prefix) netip.Addr {
	b := n.Addr().AsSlice()
	for i := n.Bits(); i < len(b)*8; i++ {
		b[i/8] |= 0x80 >> (i % 8)
	}
	ip, _ := netip.AddrFromSlice(b)
	return ip
}
