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

// checkPools checks a batch that has just taken effect.
func (w *world) checkPools(r *Request, o *Outcome) {
	if !w.mix.pools {
		return
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
				w.fail("G", "%d sessions of %s when one was admitted by the number %d", now.counter[name.counter], e.Counter, e.Max)
			}
		}
		if !within(now.whole[name.whole], most) {
			w.fail("G", "%d sessions of the pool of %s when one was admitted by the number %d", now.whole[name.whole], e.Counter, most)
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
		if store.InPool(e.Counter) {
			out[e.Counter] = admittedTo(e, o.Batch.Counts[i])
		}
	}
	return out
}

// checkBegunInPool checks that no session of a pool begins without the store's
// admission.
func (n *node) checkBegunInPool(e store.Entry) {
	if !store.InPool(e.Counter) {
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
		if e := entries[i]; store.InPool(e.Counter) && k.Granted < e.Live {
			w.fail("G", "%d of %d sessions of %s are granted", k.Granted, e.Live, e.Counter)
		}
	}
}

// mustStay reports whether a session that asks for want keeps its slot.
func (n *node) mustStay(held *Slot, want store.Entry) bool {
	return held != nil && !held.ended && held.counter != nil && held.counter.pool && held.counter.name == want.Counter &&
		!held.counter.lease.passed(n.clock())
}
