package replica

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

// check compares the sessions with the limits: invariant L in mode close, K in mode
// keep. In mode keep, the sessions of a replica that was cut off are excused, unless
// all replicas were cut off and none had time since to witness its silence.
func (w *world) check() {
	now := w.count()
	letters := "K"
	if w.strict {
		letters = "L"
	}
	for i, name := range simNames {
		if i == name.counter && !within(now.counter[i], simMaxima[i].Max) {
			w.fail(letters, "%d sessions of %s, limit %d", now.counter[i], simLimits[i].Counter, simMaxima[i].Max)
		}
		if i == name.whole && !within(now.whole[i], simMaxima[i].RuleMax) {
			w.fail(letters, "%d sessions of the rule of %s, limit %d", now.whole[i], simLimits[i].Counter, simMaxima[i].RuleMax)
		}
	}
}

// within reports whether n sessions respect a maximum.
func within(n, most int64) bool { return most == limit.None || n <= most }

// simCount is the number of sessions, by simName.
type simCount struct{ counter, whole [len(simLimits)]int64 }

// count counts the sessions for L, K and G.
func (w *world) count() (out simCount) {
	for _, n := range w.nodes {
		away := w.mix.blackout == 0 && (w.now < n.paused || w.now < n.cut) // cut off, or about to find out that it was
		for _, s := range n.sessions {
			strict := w.strict && !s.slot.report
			if strict && s.excused && n.mayRelay(s) {
				w.fail("L", "a session of %s relays again after its lease ended", n.m.id)
			}
			if n.mayRelay(s) && (strict || !away && !s.slot.local && (!s.excused || w.now < s.witnessed)) {
				out.counter[simNames[s.limit].counter]++
				out.whole[simNames[s.limit].whole]++
			}
		}
	}
	return out
}

// checkSums checks T, unless a part of the data is missing. Then T holds again from the
// next epoch on.
func (w *world) checkSums() {
	epoch, err := w.data.Audit()
	if epoch != w.epoch {
		w.epoch, w.corrupt = epoch, false
	}
	if err != nil && !w.corrupt {
		w.fail("T", "%v", err)
	}
}

// checkRecovering checks R.
func (w *world) checkRecovering(r *Request, o *Outcome, had map[string]int64) {
	for i, e := range r.Batch.Entries {
		if is := o.Batch.Counts[i].Granted; o.Batch.Recovering && is > max(had[e.Counter], e.Live) {
			w.fail("R", "a recovering store granted %d of %s to a replica that had %d, with %d live", is, e.Counter, had[e.Counter], e.Live)
		}
	}
}

// checkGranted checks C: a replica's view equals the store's, as long as the store has
// the last batch that it acknowledged.
func (n *node) checkGranted() {
	m := n.m
	token, granted := n.w.data.Ledger(m.id)
	if m.phase != live || token != m.stream.acked {
		return
	}
	for name, c := range m.table.counters {
		if granted[name] != c.granted && !c.inFlight {
			n.w.fail("C", "%s believes in %d of %s, the store has %d", m.id, c.granted, name, granted[name])
		}
		delete(granted, name)
	}
	for name, k := range granted {
		n.w.fail("C", "%s knows nothing of %s, the store has %d", m.id, name, k)
	}
}

// checkDue checks W: a freed slot, like anything else that must be sent, is in flight
// or waits for a request that is. Nothing is left for the next heartbeat by mistake.
func (n *node) checkDue() {
	m, since := n.m, n.clock()-simTTL/1000
	for _, c := range n.waiting {
		if of := c.w.counter; m.table.counters[of.name] != of {
			n.w.fail("F", "a client of %s waits at a counter of %s that is not in the table", m.id, of.name)
		}
	}
	if n.dead || n.w.now <= n.paused || !m.link.connected || m.phase != live || m.link.busy || m.link.notBefore > since {
		return
	}
	if m.batchDue(since) {
		n.w.fail("W", "%s has something to say, and nobody sends it", m.id)
	}
}

// checkRefusals checks E: if a client is refused because a limit is full, a rate is
// used up, or too many keys have windows, then the client was in a batch whose reply
// says so.
func (n *node) checkRefusals(o *Outcome) {
	n.takeEffects()
	var refused []*simWaiter
	n.waiting = slices.DeleteFunc(n.waiting, func(c *simWaiter) bool {
		switch {
		case !c.answered:
			return false
		case c.slot != nil:
			n.begin(c.slot, c.limit)
			return true
		}
		refused = append(refused, c)
		if errors.Is(c.err, ErrFull) {
			n.w.fulls++
			if e := simLimits[c.limit]; !saidFull(e, o) {
				n.w.fail("E", "%s refused as full without the store's word", e.Counter)
			}
		} else if errors.Is(c.err, ErrThrottled) {
			n.w.slowed++
			if !saidThrottled(o) {
				n.w.fail("E", "%s refused as throttled without the store's word", simLimits[c.limit].Counter)
			}
		} else if errors.Is(c.err, ErrKeys) {
			n.w.crowded++
			if !saidNoWindow(o) {
				n.w.fail("E", "%s refused for too many keys without the store's word", simLimits[c.limit].Counter)
			}
		}
		return true
	})
	for _, c := range refused {
		n.refuse(c, c.err)
	}
}

func saidFull(e store.Entry, o *Outcome) bool {
	return slices.ContainsFunc(append(o.Batch.Counts, o.Join.Counts...), func(k store.Count) bool { return full(e, k) })
}

func saidThrottled(o *Outcome) bool {
	return slices.ContainsFunc(o.Batch.Counts, func(k store.Count) bool { return k.Throttled || k.RuleThrottled })
}

func saidNoWindow(o *Outcome) bool {
	return slices.ContainsFunc(o.Batch.Counts, func(k store.Count) bool { return k.NoWindow })
}

// quiet ends the faults and the clients, and checks what must be true then: F.
func (w *world) quiet() {
	if w.broken != "" {
		return
	}
	w.calm, w.closing = true, true
	for i, n := range w.nodes {
		if n.ttl != simTTL {
			w.kill(i)
		}
		w.nodes[i].m.SetSpace("c1aaaa", nil)
		w.nodes[i].wake()
	}
	w.runFor(8 * simTTL)
	if w.broken != "" {
		return
	}
	d := w.data.Dump()
	for c, k := range d["t"] {
		if strings.HasPrefix(c, "c1") || store.InPool(c) {
			w.fail("F", "%s is still %s after all have ended", c, k)
		}
	}
	if d["m"]["young"] != "" {
		w.fail("F", "the store is still recovering")
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
		w.fail("F", "%d spaces have numbers, all replicas are on one", spaces)
	}
	if members != len(w.nodes) {
		w.fail("F", "the store has %d members, %d replicas live", members, len(w.nodes))
	}
	for _, n := range w.nodes {
		if n.m.phase != live || len(n.m.table.counters) > 0 {
			w.fail("F", "%s is %v and holds %d counters", n.m.id, n.m.phase, len(n.m.table.counters))
		}
	}
}
