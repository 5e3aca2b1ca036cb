package replica

import (
	"time"

	"usher/store"
)

// conflict tracks conflicting replicas: those with other settings, which keep
// this one out. If the store loses its data they will come back to it, because
// their sessions live on up to their deadline, and this replica must not be
// there first. It may create a new epoch only after they have been away for so
// long that their leases have ended.
type conflict struct {
	settings store.Settings // theirs; the zero value if there are none
	away     bool           // their data was missed
	since    time.Duration  // away: since when
	last     time.Duration  // away: when it was last missed
	// How long their data must be missed, and a recovery be watched: the longer
	// of our time and theirs. 0 is ours.
	witness time.Duration
}

func (c *conflict) known() bool { return c.settings != (store.Settings{}) }

// mayReturn reports whether lost data is still theirs to create again.
func (c *conflict) mayReturn(now time.Duration, t timing) bool {
	return c.known() && (!c.seenAway(now, t) || now-c.since < c.witness)
}

// missed records that their data was missing at now.
func (c *conflict) missed(now time.Duration, t timing) {
	if !c.seenAway(now, t) {
		c.away, c.since = true, now
	}
	c.last = now
}

// seenAway reports whether their data was missed up to now. As for an observer,
// a gap between two looks proves nothing.
func (c *conflict) seenAway(now time.Duration, t timing) bool {
	return c.away && now-c.last <= t.gap
}

// under returns our timing under the longer of two TTLs.
func (t timing) under(s store.Settings) timing {
	t.witness = max(t.witness, timingOf(s.TTL, true).witness)
	return t
}

// patience is our timing, with the longer witness time of conflicting replicas if
// we have met any: the lost data may be theirs, and their sessions live on for
// their time.
func (m *Machine) patience() timing {
	t := m.timing
	t.witness = max(t.witness, m.others.conflict.witness) //mutate:a-recovery-of-conflicting-replicas-ends-in-our-time
	return t
}

// mismatch handles the answer that members have other settings. They live, or they
// are dead and not expired yet.
func (m *Machine) mismatch(now time.Duration) {
	m.phase = mismatched
	m.others.retryAt = now + m.timing.gap
	m.others.lookAt = min(max(m.others.lookAt, now), now+m.timing.look)
	for _, c := range m.table.counters {
		c.inFlight = false // a join that is refused has no effect
		for len(c.waiters) > 0 {
			m.answer(c, nil, ErrMismatch)
		}
		m.drop(c) //mutate:who-is-kept-out-remembers-who-asked
	}
}
