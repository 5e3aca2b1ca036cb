package limiter

import (
	"errors"
	"slices"
	"strings"

	"usher/store"
	"usher/store/limit"
)

type appliedToken struct {
	replica string
	token   store.Token
}

// check holds the sessions to the limits: L where strict, K otherwise. Those of
// a replica that was cut off are excused, unless all were, and there was no time
// since for the others to witness its silence.
func (w *world) check() {
	var count, ofRule [len(simLimits)]int64
	for _, n := range w.nodes {
		if !w.strict && w.mix.blackout == 0 && (w.now < n.paused || w.now < n.cut) {
			continue // cut off, or about to find out that it was
		}
		for _, s := range n.sessions {
			if w.strict && s.excused && n.mayRelay(s) {
				w.fail("L: a session of %s relays again after its fence", n.h.id)
			}
			if n.mayRelay(s) && (w.strict || !s.excused || w.now < s.witnessed) {
				count[s.limit]++
				ofRule[simRule[s.limit]]++
			}
		}
	}
	for i, l := range simLimits {
		if l.Key != "" && l.KeyMax != limit.None && count[i] > l.KeyMax {
			w.fail("L/K: %d sessions of key %s of %s, limit %d", count[i], l.Key, l.Rule, l.KeyMax)
		}
		if n := ofRule[simRule[i]]; l.Max != limit.None && n > l.Max {
			w.fail("L/K: %d sessions of %s, limit %d", n, l.Rule, l.Max)
		}
	}
}

// checkSums: T, unless a part of the data is missing: then until the next epoch.
func (w *world) checkSums() {
	epoch, err := w.data.Audit()
	if epoch != w.epoch {
		w.epoch, w.corrupt = epoch, false
	}
	if err != nil && !w.corrupt {
		w.fail("T: %v", err)
	}
}

// checkYoung: R.
func (w *world) checkYoung(r *request, o outcome, had map[string]int64) {
	for i, e := range r.batch.Entries {
		if is := o.batch.Counts[i].Granted; o.batch.Recovering && is > max(had[e.Counter], e.Live) {
			w.fail("R: a recovering store gave %d of %s to who had %d and %d live", is, e.Counter, had[e.Counter], e.Live)
		}
	}
}

// checkOwn: C. What the replica believes is what the store has, as long as it
// has what the replica last acknowledged.
func (n *node) checkOwn() {
	h := n.h
	token, own := n.w.data.Ledger(h.id)
	if h.phase != live || token != h.acked {
		return
	}
	for name, c := range h.counters {
		if own[name] != c.own && !c.inFlight {
			n.w.fail("C: %s believes in %d of %s, the store has %d", h.id, c.own, name, own[name])
		}
		delete(own, name)
	}
	for name, k := range own {
		n.w.fail("C: %s knows nothing of %s, the store has %d", h.id, name, k)
	}
}

// checkDue: what is to be told, as a slot that is free, is on its way, or waits
// for a request that is: nothing is left to the next heartbeat by oversight.
func (n *node) checkDue() {
	h, since := n.h, n.clock()-simTTL/1000
	for _, sw := range n.waiting {
		if c := sw.w.counter; h.counters[c.name] != c {
			n.w.fail("F: a client of %s waits at a counter of %s that is not on the table", h.id, c.name)
		}
	}
	if n.dead || n.w.now <= n.paused || !h.connected || h.phase != live || h.busy || h.notBefore > since {
		return
	}
	if h.batchDue(since) {
		n.w.fail("F: %s has something to say, and nobody sends it", h.id)
	}
}

// checkRefusals: E. Who is refused as full was in a batch whose reply says so.
func (n *node) checkRefusals(o outcome) {
	n.waiting = slices.DeleteFunc(n.waiting, func(sw *simWaiter) bool {
		select {
		case a := <-sw.w.done:
			if a.slot != nil {
				n.begin(a.slot, sw.limit)
			} else if errors.Is(a.err, ErrFull) {
				n.w.fulls++
				if l := simLimits[sw.limit]; !saidFull(l, o) {
					n.w.fail("E: %s refused as full without the store's word", l.entry().Counter)
				}
			} else if errors.Is(a.err, ErrThrottled) {
				n.w.slowed++
				if !saidThrottled(o) {
					n.w.fail("E: %s refused as throttled without the store's word", simLimits[sw.limit].Rule)
				}
			}
			return true
		default:
			return false
		}
	})
}

func saidFull(l Limit, o outcome) bool {
	return slices.ContainsFunc(append(o.batch.Counts, o.join.Counts...), func(k store.Count) bool { return full(l.entry(), k) })
}

func saidThrottled(o outcome) bool {
	return slices.ContainsFunc(o.batch.Counts, func(k store.Count) bool { return k.Throttled || k.RuleThrottled })
}

// quiet ends the faults and the clients, and checks what must then be so: F.
func (w *world) quiet() {
	w.calm, w.closing = true, true
	for i, n := range w.nodes {
		if n.ttl != simTTL {
			w.kill(i)
		}
		w.nodes[i].h.space = "c1aaaa"
		w.nodes[i].rouse()
	}
	w.runFor(8 * simTTL)
	if len(w.broken) > 0 {
		return
	}
	d := w.data.Dump()
	for c, k := range d["t"] {
		if strings.HasPrefix(c, "c1") {
			w.fail("F: %s is still %s after all have ended", c, k)
		}
	}
	if d["m"]["young"] != "" {
		w.fail("F: the store is still recovering")
	}
	members, spaces := 0, 0
	for field := range d["m"] {
		if strings.HasPrefix(field, "#") {
			spaces++
		}
		if strings.HasPrefix(field, "@") {
			members++
		}
	}
	if spaces != 1 {
		w.fail("F: %d spaces have numbers, all replicas are on one", spaces)
	}
	if members != len(w.nodes) {
		w.fail("F: %d members on the membership, %d replicas live", members, len(w.nodes))
	}
	for _, n := range w.nodes {
		if n.h.phase != live || len(n.h.counters) > 0 {
			w.fail("F: %s in phase %d holds %d counters", n.h.id, n.h.phase, len(n.h.counters))
		}
	}
}
