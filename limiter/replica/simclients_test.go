package replica

import (
	"slices"

	"usher/store"
	"usher/store/limit"
)

// arrive lets the next client come to a node.
func (n *node) arrive() {
	if n.dead || n.stopping || n.w.closing {
		return
	}
	if n.w.now >= n.paused {
		n.ask(nil)
	}
	n.w.after(n.w.upTo(n.every), n.arrive)
}

// simLimits are the limits that clients ask for: two rules without rates, one of which
// counts by key; then rules with rates; and a rule with a bound on its keys.
var simLimits = [...]store.Entry{
	{Counter: "c1aaaa/s1", Max: 4, RuleMax: limit.None},
	{Counter: "c1aaaa/s2/x", Max: 2, RuleMax: 3},
	{Counter: "c1aaaa/s2/y", Max: 2, RuleMax: 3},
	{Counter: "c1aaaa/s3", Max: 3, RuleMax: limit.None, Rate: simRate(2)},
	{Counter: "c1aaaa/s4/x", Max: limit.None, RuleMax: limit.None, Rate: simRate(2), RuleRate: simRate(3)},
	{Counter: "c1aaaa/s4/y", Max: limit.None, RuleMax: limit.None, Rate: simRate(2), RuleRate: simRate(3)},
	{Counter: "c1aaaa/s5/x", Max: limit.None, RuleMax: 2, Rate: simRate(2)},
	{Counter: "c1aaaa/s6/x", Max: limit.None, RuleMax: limit.None, Rate: simRate(2), MaxKeys: 1},
	{Counter: "c1aaaa/s6/y", Max: 3, RuleMax: limit.None, Rate: simRate(2), MaxKeys: 1},

	{Counter: "pool/a", Max: 4, RuleMax: limit.None},
	{Counter: "pool/a", Max: 2, RuleMax: limit.None},
	{Counter: "pool/a/x", Max: 2, RuleMax: 3},
	{Counter: "pool/b/x", Max: 2, RuleMax: 3},
	{Counter: "pool/b/x", Max: 1, RuleMax: 4},
	{Counter: "pool/b/y", Max: 2, RuleMax: 2},
	{Counter: "pool/c", Max: 4, RuleMax: limit.None, Rate: simRate(4)},
	{Counter: "pool/c", Max: 3, RuleMax: limit.None},
	{Counter: "pool/c", Max: 4, RuleMax: limit.None, Rate: limit.Rate{N: 2, Per: simTTL / 5}},
	{Counter: "pool/d/x", Max: 2, RuleMax: limit.None, Rate: simRate(3), RuleRate: simRate(5)},
	{Counter: "pool/d/y", Max: 3, RuleMax: 4, RuleRate: limit.Rate{N: 3, Per: simTTL / 4}},

	{Counter: "c1aaaa/s7", Max: 2, RuleMax: limit.None},
	{Counter: "c1aaaa/s8/x", Max: 2, RuleMax: 3},
	{Counter: "c1aaaa/s8/y", Max: 2, RuleMax: 3},
	{Counter: "c1aaaa/s9", Max: 2, RuleMax: limit.None, Rate: simRate(3)},
	{Counter: "c1aaaa/s10/x", Max: limit.None, RuleMax: limit.None, Rate: simRate(2), MaxKeys: 1},
	{Counter: "c1aaaa/s10/y", Max: limit.None, RuleMax: limit.None, Rate: simRate(2), MaxKeys: 1},
	{Counter: "pool/e", Max: 2, RuleMax: limit.None},
	{Counter: "pool/f/x", Max: 2, RuleMax: 3},
	{Counter: "pool/e", Max: 3, RuleMax: limit.None},
	{Counter: "pool/e", Max: 4, RuleMax: limit.None},
	{Counter: "pool/f/x", Max: 2, RuleMax: 3},
	{Counter: "pool/f/y", Max: 2, RuleMax: 3},
}

// withoutRates is how many limits at the start of the list have no rate. withoutBounds
// is how many have no bound on their keys, withoutPools how many are not in a pool.
// Those from withoutReports on only report, until withoutReports+reporting; the others
// are in their pools and refuse.
const withoutRates, withoutBounds, withoutPools, withoutReports, reporting = 3, 7, 9, 20, 8

func simRate(n int64) limit.Rate { return limit.Rate{N: n, Per: simTTL / 2} }

// simName tells which of simLimits are counted together: it is the first one with the
// same counter, and the first one of the same rule or pool.
type simName struct{ counter, whole int }

// simNames are the names of simLimits. simMaxima are, by name, the largest maxima that
// sessions ask with: of the counter, and of the rule or pool.
var simNames, simMaxima = nameLimits()

func nameLimits() (names [len(simLimits)]simName, maxima [len(simLimits)]store.Entry) {
	counters, wholes := map[string]int{}, map[string]int{}
	index := func(of map[string]int, name string, i int) int {
		if _, ok := of[name]; !ok {
			of[name] = i
		}
		return of[name]
	}
	for i, e := range simLimits {
		whole, most := store.RuleOf(e.Counter), e.RuleMax
		if whole == "" {
			whole, most = e.Counter, e.Max
		}
		if reports(i) { // it refuses nobody
			e.Max, most = limit.None, limit.None
		}
		n := simName{index(counters, e.Counter, i), index(wholes, whole, i)}
		names[i] = n
		maxima[n.counter].Counter, maxima[n.counter].Max = e.Counter, larger(i == n.counter, maxima[n.counter].Max, e.Max)
		maxima[n.whole].RuleMax = larger(i == n.whole, maxima[n.whole].RuleMax, most)
	}
	return names, maxima
}

// larger returns the larger of two maxima, b alone if it is the first.
func larger(first bool, a, b int64) int64 {
	switch {
	case first:
		return b
	case a == limit.None || b == limit.None:
		return limit.None
	}
	return max(a, b)
}

// ask is a new client, or one whose session had another limit until now.
func (n *node) ask(old *simSession) {
	which := n.w.first + n.w.random.IntN(n.w.limits)
	if n.w.mix.keys {
		which = 1 + n.w.random.IntN(2)
	}
	wait := simTTL / 2
	n.asked++
	var held *Slot
	if old != nil {
		held = old.slot
	}
	c := &simWaiter{limit: which}
	mustStay := n.mustStay(held, which)
	got, waiter, err := n.m.Ask(n.clock(), c, held, simWant(which), n.clock()+wait)
	if mustStay && got != held {
		n.w.fail("G", "a session of %s that stays in its pool loses its slot", n.m.id)
	}
	switch {
	case got != nil && got == held:
		n.does("keeps the slot of a session of", simLimits[which].Counter)
		if held.report != reports(which) {
			n.w.fail("V", "a session of %s keeps a slot of the other mode", simLimits[which].Counter)
		}
		old.limit = which
		n.w.after(n.w.upTo(n.w.length), func() { n.finish(old) })
	case got != nil:
		n.does("admits without a question", simLimits[which].Counter)
		n.begin(got, which)
	case waiter != nil:
		n.does("queues a client of", simLimits[which].Counter)
		c.w = waiter
		n.waiting = append(n.waiting, c)
		n.w.after(wait, func() { n.giveUp(c) })
		n.call()
		return
	default:
		n.refuse(c, err)
	}
	n.wakeIfDue()
}

func (n *node) giveUp(c *simWaiter) {
	if i := slices.Index(n.waiting, c); i >= 0 && !n.dead && n.m.Withdraw(c.w) {
		n.waiting = slices.Delete(n.waiting, i, i+1)
		n.refuse(c, n.m.Unanswered(c.w))
	}
	n.settleSessions()
}

// takeEffects records what the machine decided about clients.
func (n *node) takeEffects() {
	for _, e := range n.m.Effects() {
		if e.Lost {
			if e.Slot.report {
				n.w.fail("V", "a limit that only reports ends a session of %s", e.Slot.counter.name)
			}
			n.does("ends a session whose slot is taken away", e.Slot.counter.name)
			continue
		}
		c := e.Owner.(*simWaiter)
		c.answered, c.slot, c.err = true, e.Slot, e.Err
	}
}

// settleSessions handles answers to waiters, and sessions that lost their slot.
func (n *node) settleSessions() {
	n.takeEffects()
	n.waiting = slices.DeleteFunc(n.waiting, func(c *simWaiter) bool {
		if c.answered && c.slot != nil {
			n.begin(c.slot, c.limit)
		}
		return c.answered
	})
	n.sessions = slices.DeleteFunc(n.sessions, func(s *simSession) bool { return s.slot.ended })
	for _, s := range n.sessions {
		switch passed := s.slot.counter.lease.passed(n.clock()); {
		case passed && !s.excused:
			s.excused, s.witnessed = true, n.w.dark+simTTL*3/4
		case !passed && n.w.now < s.witnessed:
			s.excused = false // counted again in time
		}
	}
}

func (n *node) begin(s *Slot, which int) {
	n.w.admits++
	n.w.begun[which]++
	n.admitted++
	if n.w.countReported(s, which); !s.local && s.refused == nil {
		n.w.checkBegun(simLimits[which])
		n.checkBegunInPool(simLimits[which])
	}
	n.does("begins a session of", simLimits[which].Counter)
	sess := &simSession{slot: s, limit: which}
	n.sessions = append(n.sessions, sess)
	n.w.after(n.w.upTo(n.w.length), func() { n.finish(sess) })
}

func (n *node) finish(s *simSession) {
	if n.dead || s.slot.ended && s.slot.counter != nil {
		return
	}
	if n.w.now < n.paused {
		n.w.after(n.paused-n.w.now, func() { n.finish(s) })
		return
	}
	if n.w.mix.move && !n.w.closing && !n.stopping && n.w.chance(0.4) {
		n.does("moves a session of", simLimits[s.limit].Counter)
		n.ask(s)
		n.settleSessions()
		return
	}
	n.does("ends a session of", simLimits[s.limit].Counter)
	n.m.Release(n.clock(), s.slot)
	n.settleSessions()
	n.wakeIfDue()
}

// mayRelay is the answer of Grant.Valid.
func (n *node) mayRelay(s *simSession) bool {
	if n.dead || s.slot.ended {
		return false
	}
	if !n.w.strict {
		return true
	}
	valid := n.m.Valid(n.clock(), s.slot)
	if !valid && n.clock() < n.m.NextDeadline() {
		n.w.fail("L", "%s has a session that may not relay, before its next deadline", n.m.id)
	}
	return valid
}
