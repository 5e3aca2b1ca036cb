package fair

import (
	"math/rand/v2"
	"net/netip"
)

// Crowd is a set of members. Each member has a source. A Crowd finds a member of the
// source with the most members. Every operation takes constant time. The largest number
// of members so far bounds the memory. The zero value is empty. A Crowd is not safe for
// concurrent use.
type Crowd[T any] struct {
	members int
	groups  map[netip.Prefix]*group[T]
	bySize  [][]*group[T] // the groups of each size, in any order
	largest int           // size of the largest group
}

// group is the members of one source.
type group[T any] struct {
	source  netip.Prefix
	members []*Member[T]
	index   int // in the list of its size
}

// Member is an element of a Crowd.
type Member[T any] struct {
	Value T
	group *group[T] // nil: it is in no crowd
	index int       // in group.members
}

// Len returns the number of members.
func (c *Crowd[T]) Len() int { return c.members }

// Add adds a member.
func (c *Crowd[T]) Add(source netip.Prefix, value T) *Member[T] {
	m := &Member[T]{Value: value}
	c.put(source, m)
	return m
}

// Remove removes m. It has no effect if m is nil or was removed before.
func (c *Crowd[T]) Remove(m *Member[T]) {
	if m == nil || m.group == nil {
		return
	}
	g := m.group
	c.unlist(g)
	last := len(g.members) - 1
	g.members[m.index], g.members[last].index = g.members[last], m.index
	g.members[last] = nil
	g.members, m.group = g.members[:last], nil
	c.members--
	c.list(g)
	if len(c.bySize[c.largest]) == 0 {
		c.largest-- // that is the size of g now
	}
}

// SetSource changes the source of m. It has no effect if m is nil or was removed
// before.
func (c *Crowd[T]) SetSource(m *Member[T], source netip.Prefix) {
	if m == nil || m.group == nil || m.group.source == source {
		return
	}
	c.Remove(m)
	c.put(source, m)
}

// Victim returns a member to remove for a new one of source. It is a random member of the
// source with the most members, where the new one counts as well. If several sources have
// the most, Victim chooses one at random. Without members, it returns nil.
//
// With a random choice among all members, one source that connects often could keep slow
// clients out. It could also do so if new members were refused, or the oldest removed.
func (c *Crowd[T]) Victim(source netip.Prefix) *Member[T] {
	if c.members == 0 {
		return nil
	}
	g := c.groups[source]
	if g == nil || len(g.members) < c.largest {
		most := c.bySize[c.largest]
		g = most[rand.IntN(len(most))]
	}
	return g.members[rand.IntN(len(g.members))]
}

// put adds m, which must be in no crowd.
func (c *Crowd[T]) put(source netip.Prefix, m *Member[T]) {
	g := c.groups[source]
	if g == nil {
		g = &group[T]{source: source}
	} else {
		c.unlist(g)
	}
	m.group, m.index = g, len(g.members)
	g.members = append(g.members, m)
	c.members++
	c.list(g)
	c.largest = max(c.largest, len(g.members))
}

// list adds a group to the list of its size, and forgets an empty group.
func (c *Crowd[T]) list(g *group[T]) {
	size := len(g.members)
	if size == 0 {
		delete(c.groups, g.source)
		return
	}
	if c.groups == nil {
		c.groups, c.bySize = make(map[netip.Prefix]*group[T]), make([][]*group[T], 1)
	}
	if size == len(c.bySize) {
		c.bySize = append(c.bySize, nil)
	}
	c.groups[g.source] = g
	g.index = len(c.bySize[size])
	c.bySize[size] = append(c.bySize[size], g)
}

// unlist removes a group from the list of its size.
func (c *Crowd[T]) unlist(g *group[T]) {
	same := c.bySize[len(g.members)]
	last := len(same) - 1
	same[g.index], same[last].index = same[last], g.index
	same[last] = nil
	c.bySize[len(g.members)] = same[:last]
}
