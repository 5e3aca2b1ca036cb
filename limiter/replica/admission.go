package replica

import (
	"cmp"
	"maps"
	"slices"
	"time"

	"usher/store"
)

// Ask gives back the slot old, if it is not nil, and asks for a slot of a
// counter. The answer is a slot or an error, if it can be given at once, else a
// waiter: then an Effect for owner follows, unless Withdraw comes first. Both counters
// are then in the same batch. deadline is when the wait ends. In a pool, a session that
// asks for the counter that it is in keeps its slot, whatever the numbers are.
func (m *Machine) Ask(now time.Duration, owner any, old *Slot, want Want, deadline time.Duration) (*Slot, *Waiter, error) {
	if old != nil {
		if m.stays(now, old, want) { //mutate:a-session-that-stays-in-its-pool-asks-again
			return old, nil, nil
		}
		m.Release(now, old)
	}
	got, w, err := m.ask(now, owner, want, deadline)
	if w == nil || old == nil || old.counter == nil {
		return got, w, err
	}
	if c := old.counter; c.inFlight || c.queue == releaseQueue {
		m.queues.enqueue(c)
	}
	return got, w, err
}

// Keeps reports whether a session that asks for want keeps its slot, see Ask.
func (m *Machine) Keeps(now time.Duration, held *Slot, want Want) bool {
	return held != nil && m.stays(now, held, want)
}

// stays reports whether a slot is of the wanted counter, which is a pool's, and still
// good: after its lease, another replica may have it. A slot that was admitted locally
// needs no lease. A slot of a limit that only reports is none of one that refuses.
func (m *Machine) stays(now time.Duration, s *Slot, want Want) bool {
	if s.counter == nil || !s.counter.pool || s.counter.name != want.Counter {
		return false
	}
	if s.report != want.Report { //mutate:a-session-over-the-limit-stays-when-it-is-enforced
		return false
	}
	m.CheckDeadlines(now)
	return !s.ended && (s.local || !s.counter.lease.passed(now)) //mutate:a-session-stays-in-its-pool-after-the-lease
}

func (m *Machine) ask(now time.Duration, owner any, want Want, deadline time.Duration) (*Slot, *Waiter, error) {
	m.CheckDeadlines(now)
	switch {
	case m.ending():
		return nil, nil, ErrClosed
	case m.Mismatched(): //mutate:conflicting-replicas-keep-nobody-out-during-a-try-to-join
		return nil, nil, ErrMismatch
	}
	c := m.counterOf(want)
	if len(c.waiters) == 0 && m.canHandOver(now, c) {
		return m.occupy(c, owner, false), nil, nil // during a recovery as well: the slot is ours
	}
	if c.counted && m.recoversAfter(deadline) {
		m.drop(c)
		return nil, nil, ErrRecovering
	}
	m.table.arrivals++
	w := &Waiter{owner: owner, counter: c, bounds: c.bounds, order: m.table.arrivals, deadline: deadline}
	c.waiters = append(c.waiters, w)
	m.enqueueWaiting(c)
	return nil, w, nil
}

// canHandOver reports whether a session here may take a surplus slot without asking
// the store. If the limit has a rate it may not, because the store would not count
// that the session began. In a pool it may not, because other replicas may have
// admitted more sessions than this one's number allows. If the limit only reports, it
// may not either: only the store knows whether more sessions run than the maximum.
func (m *Machine) canHandOver(now time.Duration, c *counter) bool {
	return m.phase == live && !m.leases.current.passed(now) && c.lease == m.leases.current &&
		!c.overLimit && //mutate:reused-although-over-the-limit
		!c.contended && //mutate:hand-over-although-contended
		!c.bounds.throttled() && //mutate:hand-over-of-a-throttled-counter
		!c.pool && //mutate:hand-over-in-a-pool
		!c.bounds.report && //mutate:hand-over-of-a-limit-that-only-reports
		c.live < c.granted &&
		(!c.inFlight || c.live < c.sentLive) //mutate:hand-over-beyond-what-a-batch-in-flight-states
}

// handOver gives surplus slots to the waiters of this replica, the oldest first, as far
// as that needs no request to the store.
func (m *Machine) handOver(now time.Duration, c *counter) {
	for len(c.waiters) > 0 && m.canHandOver(now, c) {
		m.grant(c)
	}
}

func (m *Machine) grant(c *counter) {
	w := c.waiters[0]
	m.answer(c, m.occupy(c, w.owner, w.bounds.report), nil)
}

// answer tells the first waiter of c.
func (m *Machine) answer(c *counter, s *Slot, err error) {
	m.effects = append(m.effects, Effect{Owner: c.waiters[0].owner, Slot: s, Err: err})
	c.waiters[0] = nil
	c.waiters = c.waiters[1:]
}

// occupy makes one session of c live, if c counts them. report says that its limit only
// reports.
func (m *Machine) occupy(c *counter, owner any, report bool) *Slot {
	if !c.counted {
		return &Slot{ended: true, report: report}
	}
	m.table.count(c, 1)
	m.table.admissions++
	s := &Slot{owner: owner, counter: c, order: m.table.admissions, report: report}
	if m.settings.Strict && !report { //mutate:a-limit-that-only-reports-ends-sessions
		c.slots[s] = struct{}{}
	}
	return s
}

// Release ends a session's slot. It is idempotent.
func (m *Machine) Release(now time.Duration, s *Slot) {
	if s.ended {
		return
	}
	s.ended = true
	c := s.counter
	delete(c.slots, s)
	m.table.count(c, -1)
	m.CheckDeadlines(now)
	m.handOver(now, c)
	m.enqueueSurplus(now, c)
	m.drop(c)
}

// Valid reports whether a strict session may write now: its slot was not taken away,
// and the lease of its slot has not ended.
func (m *Machine) Valid(now time.Duration, s *Slot) bool {
	return !s.Leased() || !s.ended && !s.counter.lease.passed(now)
}

// Withdraw removes a waiter that has no answer yet. It reports false if the waiter has
// been answered, or is answered now: a session that is admitted although a limit would
// have refused it waits no longer for the store to count it.
func (m *Machine) Withdraw(w *Waiter) bool {
	i := slices.Index(w.counter.waiters, w)
	if i < 0 {
		m.tellNow(w)
		return false
	}
	w.counter.waiters = slices.Delete(w.counter.waiters, i, i+1)
	m.drop(w.counter)
	return true
}

// Unanswered says why a waiter got no answer until its deadline.
func (m *Machine) Unanswered(w *Waiter) error {
	if m.others.recovering && w.counter.counted {
		return ErrRecovering
	}
	return ErrUnavailable
}

// AdmitLocally admits by what this replica knows itself, without the store: up
// to the maximum on its own sessions, and as its own windows allow. If the limit only
// reports, it admits without looking.
func (m *Machine) AdmitLocally(now time.Duration, owner any, want Want) (*Slot, error) {
	if m.ending() {
		return nil, ErrClosed
	}
	c := m.counterOf(want)
	defer m.drop(c)
	if !want.Report {
		if err := m.useLocally(now, c, want); err != nil {
			return nil, err
		}
	}
	s := m.occupy(c, owner, want.Report)
	s.local = true
	if c.counted {
		c.overLimit = true // as far as we know: no slot is reused before the store has counted it
		m.queues.enqueue(c)
	}
	return s, nil
}

// useLocally counts one more session in this replica's own windows, unless a limit
// refuses it.
func (m *Machine) useLocally(now time.Duration, c *counter, want Want) error {
	t, b := &m.table, c.bounds
	t.windows.Shorten(now, c.name, b.rate)
	t.windows.Shorten(now, c.rule, b.ruleRate)
	n := store.Count{
		Total: c.live, RuleTotal: t.ruleLive[c.rule],
		Throttled:     b.rate.N > 0 && t.windows.Used(now, c.name) >= b.rate.N,
		RuleThrottled: b.ruleRate.N > 0 && t.windows.Used(now, c.rule) >= b.ruleRate.N,
	}
	if c.pool && c.rule == "" {
		n.Total = t.ruleLive[c.name]
	}
	opens := want.Opens() && t.windows.Used(now, c.name) == 0
	n.NoWindow = opens && t.opened.Used(now, c.rule) >= b.maxKeys
	if err := reason(n, b, c.rule != ""); err != nil {
		return err
	}
	if opens {
		t.opened.Use(now, c.rule, b.rate.Per, 1)
	}
	if b.rate.N > 0 {
		t.windows.Use(now, c.name, b.rate.Per, 1)
	}
	if b.ruleRate.N > 0 {
		t.windows.Use(now, c.rule, b.ruleRate.Per, 1)
	}
	return nil
}

// takeAway ends the n youngest sessions of c: others may have their slots. Sessions of
// limits that only report go on.
func (m *Machine) takeAway(c *counter, n int64) {
	youngestFirst := func(a, b *Slot) int { return cmp.Compare(b.order, a.order) }
	slots := slices.SortedFunc(maps.Keys(c.slots), youngestFirst)
	for _, s := range slots[:min(n, int64(len(slots)))] {
		m.table.count(c, -1)
		delete(c.slots, s)
		s.ended = true
		m.effects = append(m.effects, Effect{Owner: s.owner, Slot: s, Lost: true})
	}
}

// enqueueWaiting sends c for its waiters. During a recovery they cannot be
// admitted if they are counted, so they wait for the heartbeat.
func (m *Machine) enqueueWaiting(c *counter) {
	if !m.others.recovering || !c.counted {
		m.queues.enqueue(c)
	} else {
		m.queues.enqueueForHeartbeat(c)
	}
}

// enqueueSurplus queues c if the store grants it more slots than sessions use.
func (m *Machine) enqueueSurplus(now time.Duration, c *counter) {
	switch {
	case c.granted <= c.live || c.inFlight || c.queue == sendQueue:
	case m.others.recovering && !c.overLimit && m.phase == live:
		// No other replica could get it now, but a session here may take it.
		m.queues.enqueueForHeartbeat(c)
	case c.nearlyFull || c.overLimit || c.contended || m.phase != live:
		m.queues.enqueue(c)
	default:
		m.queues.enqueueForRelease(now, c)
	}
}
