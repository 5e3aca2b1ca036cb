package proxy

import (
	"net/netip"
	"sync"

	"usher/proxy/fair"
)

// negotiators are the sessions whose clients have not made their request yet.
type negotiators struct {
	mu  sync.Mutex
	all fair.Crowd[*session]
}

// enter adds s. If there are then more than most, it removes other sessions and returns
// them. The caller must end them. fair.Crowd.Victim chooses them.
func (n *negotiators) enter(s *session, source netip.Prefix, most int) (evicted []*session) {
	n.mu.Lock()
	defer n.mu.Unlock()
	evicted = n.remove(most-1, source)
	s.negotiating = n.all.Add(source, s)
	return evicted
}

// shrink removes sessions until there are at most most, and returns them. The caller must
// end them.
func (n *negotiators) shrink(most int) (evicted []*session) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.remove(most, netip.Prefix{})
}

// remove does what shrink does, before a session of newcomer is added. n.mu is held.
func (n *negotiators) remove(most int, newcomer netip.Prefix) (evicted []*session) {
	for n.all.Len() > max(most, 0) {
		victim := n.all.Victim(newcomer)
		n.all.Remove(victim)
		evicted = append(evicted, victim.Value)
	}
	return evicted
}

// identified counts s for the source of its client. Before its PROXY header was read, it
// counted for the balancer.
func (n *negotiators) identified(s *session) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.all.SetSource(s.negotiating, fair.SourceOf(s.from.Addr()))
}

// leave removes s, if it is still there.
func (n *negotiators) leave(s *session) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.all.Remove(s.negotiating)
	s.negotiating = nil
}
