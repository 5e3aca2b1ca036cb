package replica

import (
	"time"

	"usher/store"
)

// conflict tracks conflicting replicas. While they are members, this replica
// cannot join. If the store loses its data, they return to it, because their
// sessions continue up to their lease deadline. This replica must not create
// the data before they return. So it creates a new epoch only after their data
// has been missing for so long that their leases have ended.
type conflict struct {
	settings store.Settings // of the conflicting replicas; zero if there are none
	missing  bool           // their data was missing when we last looked
	since    time.Duration  // missing: when we first saw that
	last     time.Duration  // missing: when we last saw that
	// How long their data must be missing before we create an epoch, and how long
	// we witness a recovery: the longer of their time and ours. 0 means ours.
	witness time.Duration
}

func (c *conflict) known() bool { return c.settings != (store.Settings{}) }

// mayReturn reports whether conflicting replicas may still return to lost data, so
// that we must not create it again.
func (c *conflict) mayReturn(now time.Duration, t timing) bool {
	return c.known() && (!c.missingUntil(now, t) || now-c.since < c.witness)
}

// missed records that we looked at now, and the data was missing.
func (c *conflict) missed(now time.Duration, t timing) {
	if !c.missingUntil(now, t) {
		c.missing, c.since = true, now
	}
	c.last = now
}

// missingUntil reports whether the data was missing up to now. If there was a gap
// between two looks, that is not known, as for an observer.
func (c *conflict) missingUntil(now time.Duration, t timing) bool {
	return c.missing && now-c.last <= t.gap
}

// withLongerWitness returns our timing, with the witness time of the longer TTL: ours
// or that of the settings.
func (t timing) withLongerWitness(s store.Settings) timing {
	t.witness = max(t.witness, timingOf(s.TTL, true).witness)
	return t
}

// witnessTiming returns our timing. If we have met conflicting replicas, it has the
// longer witness time: lost data may have counted their sessions, which continue
// until their lease deadline.
func (m *Machine) witnessTiming() timing {
	t := m.timing
	t.witness = max(t.witness, m.others.conflict.witness) //mutate:a-recovery-of-conflicting-replicas-ends-in-our-time
	return t
}

// mismatch handles the answer that members have other settings. These members are
// alive, or dead and not expired yet.
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
