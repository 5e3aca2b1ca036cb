package rules

import (
	"net/netip"
	"slices"
)

// sources finds, in a list of rules, one whose from: may share a client with a
// given address.
type sources struct {
	any      *Rule // any of the rules; nil if there is none
	open     *Rule // one whose from: is no network, and so may be any address
	networks prefixes
	rules    []*Rule
}

func newSources(list []*Rule) (s sources) {
	s.rules = list
	networks := map[key][]int32{}
	for i, r := range list {
		s.any = r
		if from := &r.cond.from; from.kind == prefixAddress {
			k := key{what: keyFrom, prefix: from.prefix}
			networks[k] = append(networks[k], int32(i))
		} else {
			s.open = r
		}
	}
	s.networks = newPrefixes(networks, keyFrom)
	return s
}

// shared returns a rule whose from: may have an address in common with a; nil
// if there is none.
func (s *sources) shared(a *address) *Rule {
	switch {
	case a.kind != prefixAddress:
		return s.any
	case s.open != nil:
		return s.open
	}
	first := a.prefix.Addr()
	if around := s.networks.find(nil, first); len(around) > 0 {
		return s.rules[around[0][0]]
	}
	at, _ := slices.BinarySearchFunc(s.networks.first, first, netip.Addr.Compare)
	if at < len(s.networks.first) && a.prefix.Contains(s.networks.first[at]) {
		return s.rules[s.networks.nodes[at].rules[0]]
	}
	return nil
}
