package replica

import (
	"errors"
	"slices"
)

// Limits that only report (Want.Report) ask the store exactly as others do. A session
// that they would have refused becomes live all the same: the next batch states it, and
// no maximum with it, so the store counts it whatever the total is. So the store's total
// has all sessions, and a session is reported if, and only if, the total was at the
// maximum when it was asked.

// report admits the first waiter of c, which a limit would have refused. The session is
// told when the store counts it. If it were told now, it could run while another replica
// took its place in the total for a free slot.
func (m *Machine) report(c *counter, why error) {
	w := c.waiters[0]
	s := m.occupy(c, w.owner, true)
	errors.As(why, &s.refused)
	if !c.counted {
		m.answer(c, s, nil)
		return
	}
	c.waiters[0] = nil
	c.waiters = c.waiters[1:]
	c.untold = append(c.untold, s) //mutate:a-reported-session-begins-before-it-is-counted
	m.queues.enqueue(c)
}

// tell answers the sessions that the store counts now.
func (m *Machine) tell(c *counter) {
	for _, s := range c.untold {
		m.effects = append(m.effects, Effect{Owner: s.owner, Slot: s})
	}
	c.untold = nil
}

// tellNow answers a session that the store may not count yet, if w was for one.
func (m *Machine) tellNow(w *Waiter) {
	c := w.counter
	i := slices.IndexFunc(c.untold, func(s *Slot) bool { return s.owner == w.owner })
	if i < 0 {
		return
	}
	s := c.untold[i]
	s.local = true
	c.untold = slices.Delete(c.untold, i, i+1)
	m.effects = append(m.effects, Effect{Owner: s.owner, Slot: s})
}

// refuseUntold ends the sessions of c that have no answer, because this replica leaves.
func (m *Machine) refuseUntold(c *counter) {
	for _, s := range c.untold {
		s.ended = true
		m.table.count(c, -1)
		m.effects = append(m.effects, Effect{Owner: s.owner, Err: ErrClosed})
	}
	c.untold = nil
}

// mayGrow reports whether a batch may ask for slots of c. Over the limit it may not.
// Sessions that the store does not count yet are stated first, alone.
func (c *counter) mayGrow() bool {
	return !c.overLimit && c.live <= c.granted //mutate:sessions-over-the-limit-are-stated-with-others
}
