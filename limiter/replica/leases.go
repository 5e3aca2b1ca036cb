package replica

import (
	"math"
	"slices"
	"time"
)

// lease is the right to what the store granted, until the deadline. A counter
// moves to a new lease only when the store has confirmed it there.
type lease struct {
	deadline time.Duration // 0: nothing was acknowledged yet
	ended    bool          // CheckDeadlines has seen the deadline pass
}

func (l *lease) passed(now time.Duration) bool { return now >= l.deadline }

// next returns the deadline if it is still ahead, as far as CheckDeadlines knows.
func (l *lease) next() time.Duration {
	if l.deadline == 0 || l.ended {
		return math.MaxInt64
	}
	return l.deadline
}

type leases struct {
	current *lease
	older   []*lease // on which counters still stand after a loss of the store's data
	lapsed  uint64   // leases whose deadline passed with sessions on them
}

// CheckDeadlines ends the leases whose deadline has passed.
func (m *Machine) CheckDeadlines(now time.Duration) {
	if !m.leased {
		return
	}
	l := &m.leases
	for i := 0; i < len(l.older); i++ {
		if l.older[i].passed(now) {
			m.deadlinePassed(l.older[i])
			l.older = slices.Delete(l.older, i, i+1)
			i--
		}
	}
	// This also applies while detached: what the store granted last is valid until
	// the deadline and no longer, however soon we are back.
	if !l.current.ended && l.current.passed(now) { //mutate:no-deadline-while-detached
		m.deadlinePassed(l.current)
		l.current.ended = true
		if m.joined() {
			m.detach()
		}
	}
}

// deadlinePassed ends a lease: from now on, other replicas may get its slots. In strict
// mode, its sessions end. Otherwise they continue, and no slot is reused until the
// store says that the total is not over the limit.
func (m *Machine) deadlinePassed(l *lease) {
	relied := false
	for _, c := range m.table.counters {
		if c.lease != l {
			continue
		}
		relied = relied || c.live > 0
		if m.settings.Strict {
			m.takeAway(c, c.live)
		}
		if c.live > 0 {
			c.overLimit = true //mutate:over-limit-not-set-at-the-deadline
		}
	}
	if relied && !l.ended { // an older lease may have ended, and been counted, while it was the current one
		m.leases.lapsed++
	}
}

// NextDeadline returns when CheckDeadlines has something to do next. Before it,
// every slot that was not taken away is valid.
func (m *Machine) NextDeadline() time.Duration {
	at := m.leases.current.next()
	for _, l := range m.leases.older {
		at = min(at, l.next())
	}
	return at
}

// newLease starts a lease under which nothing is confirmed. A session stays on the
// lease before, with its deadline, until the store has confirmed its counter.
func (m *Machine) newLease() {
	if m.leases.current.deadline > 0 {
		m.leases.older = append(m.leases.older, m.leases.current) //mutate:lost-leases-have-no-deadline
	}
	m.leases.current = &lease{}
	for _, c := range m.table.counters {
		c.granted = 0 //mutate:claims-confirmed-before-they-are
	}
}
