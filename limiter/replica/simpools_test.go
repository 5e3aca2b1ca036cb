package replica

import (
	"slices"

	"usher/store"
)

// Invariant G: a pool admits each session by the number that it asked with, counting
// all sessions of the pool. A lower number ends no session. A session keeps its slot
// while it stays in the pool.

// inPools returns the mix with clients that ask for pools. Each replica asks with
// several numbers for the same pool, as if it had a reload between any two sessions.
func (m mix) inPools() mix {
	m.pools, m.rates, m.move = true, true, true
	m.keys, m.bounded = false, false
	return m
}

// admittedTo returns how many waiting sessions an answer admits.
func admittedTo(e store.Entry, k store.Count) int64 {
	switch {
	case e.Need <= e.Live:
		return 0
	case e.Throttled():
		return k.Admitted
	}
	return max(0, k.Granted-e.Live)
}

// checkNumbers checks a batch that has just taken effect: G, and V for limits that only
// report.
func (w *world) checkNumbers(r *Request, o *Outcome) {
	if !w.mix.pools && !w.mix.reports {
		return
	}
	letter := "G"
	if w.mix.reports {
		letter = "V"
	}
	w.checkClaims(r.Batch.Entries, o.Batch.Counts)
	now := w.count()
	for i, e := range r.Batch.Entries {
		n := admittedTo(e, o.Batch.Counts[i])
		if n == 0 {
			continue
		}
		name, most := nameOf(e), e.Max
		now.counter[name.counter] += n
		now.whole[name.whole] += n
		if store.RuleOf(e.Counter) != "" {
			if most = e.RuleMax; !within(now.counter[name.counter], e.Max) {
				w.fail(letter, "%d sessions of %s when one was admitted by the number %d", now.counter[name.counter], e.Counter, e.Max)
			}
		}
		if !within(now.whole[name.whole], most) {
			w.fail(letter, "%d sessions of the pool or rule of %s when one was admitted by the number %d", now.whole[name.whole], e.Counter, most)
		}
	}
}

func nameOf(e store.Entry) simName {
	return simNames[slices.IndexFunc(simLimits[:], func(of store.Entry) bool { return of.Counter == e.Counter })]
}

// admittedToPools returns how many sessions may begin by a reply, by counter.
func admittedToPools(r *Request, o *Outcome) map[string]int64 {
	out := map[string]int64{}
	if r.Op != Batch || o.Err != nil {
		return out
	}
	for i, e := range r.Batch.Entries {
		if asksAlways(e.Counter) {
			out[e.Counter] = admittedTo(e, o.Batch.Counts[i])
		}
	}
	return out
}

// checkBegunInPool checks that no session of a pool, or of a limit that only reports,
// begins without the store's admission.
func (n *node) checkBegunInPool(e store.Entry) {
	if !asksAlways(e.Counter) {
		return
	}
	if n.mayBegin[e.Counter] == 0 {
		n.w.fail("G", "%s begins a session of %s that the store did not admit", n.m.id, e.Counter)
		return
	}
	n.mayBegin[e.Counter]--
}

// checkClaims checks that living sessions of a pool are granted, whatever number their
// replica has now.
func (w *world) checkClaims(entries []store.Entry, counts []store.Count) {
	for i, k := range counts {
		if e := entries[i]; asksAlways(e.Counter) && k.Granted < e.Live {
			w.fail("G", "%d of %d sessions of %s are granted", k.Granted, e.Live, e.Counter)
		}
	}
}

// mustStay reports whether a session that asks for want keeps its slot.
func (n *node) mustStay(held *Slot, which int) bool {
	return held != nil && !held.ended && held.counter != nil && held.counter.pool && held.counter.name == simLimits[which].Counter &&
		held.report == reports(which) && !held.counter.lease.passed(n.clock())
}
