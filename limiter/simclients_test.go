package limiter

import (
	"slices"

	"usher/store/limit"
)

// arrive is the next client of a node.
func (n *node) arrive() {
	if n.dead || n.stopping || n.w.closing {
		return
	}
	if n.w.now >= n.paused {
		n.ask(nil)
	}
	n.w.after(n.w.upTo(n.every), n.arrive)
}

var simLimits = [...]Limit{
	{Rule: "c1aaaa/s1", Max: 4},
	{Rule: "c1aaaa/s2", Max: 3, Key: "x", KeyMax: 2},
	{Rule: "c1aaaa/s2", Max: 3, Key: "y", KeyMax: 2},
	{Rule: "c1aaaa/s3", Max: 3, Throttle: simRate(2)},
	{Rule: "c1aaaa/s4", Max: limit.None, Throttle: simRate(3), Key: "x", KeyMax: limit.None, KeyThrottle: simRate(2)},
	{Rule: "c1aaaa/s4", Max: limit.None, Throttle: simRate(3), Key: "y", KeyMax: limit.None, KeyThrottle: simRate(2)},
	{Rule: "c1aaaa/s5", Max: 2, Key: "x", KeyMax: limit.None, KeyThrottle: simRate(2)},
}

// simRule is the place of the rule of each, and withoutRates how many of the
// first have no rate.
var simRule = [len(simLimits)]int{0, 1, 1, 2, 3, 3, 4}

const withoutRates = 3

func simRate(n int64) limit.Rate { return limit.Rate{N: n, Per: simTTL / 2} }

// ask is a client, or one whose session was of another limit until now.
func (n *node) ask(old *simSession) {
	limit := n.w.random.IntN(n.w.limits)
	if n.w.mix.keys {
		limit = 1 + n.w.random.IntN(2)
	}
	wait := simTTL / 2
	n.asked++
	var held *slot
	if old != nil {
		held = old.slot
	}
	got, waiter, _ := n.h.move(n.clock(), held, simLimits[limit], n.clock()+wait)
	switch {
	case got != nil:
		n.begin(got, limit)
	case waiter != nil:
		sw := &simWaiter{waiter, limit}
		n.waiting = append(n.waiting, sw)
		n.w.after(wait, func() { n.giveUp(sw) })
		n.call()
		return
	}
	n.rouseIfDue()
}

func (n *node) giveUp(sw *simWaiter) {
	if i := slices.Index(n.waiting, sw); i >= 0 && !n.dead && n.h.withdraw(sw.w) {
		n.waiting = slices.Delete(n.waiting, i, i+1)
	}
	n.settleSessions()
}

// settleSessions takes answers to waiters and notices what was taken away.
func (n *node) settleSessions() {
	n.waiting = slices.DeleteFunc(n.waiting, func(sw *simWaiter) bool {
		select {
		case a := <-sw.w.done:
			if a.slot != nil {
				n.begin(a.slot, sw.limit)
			}
			return true
		default:
			return false
		}
	})
	n.sessions = slices.DeleteFunc(n.sessions, func(s *simSession) bool { return s.slot.ended })
	for _, s := range n.sessions {
		switch passed := s.slot.counter.lease.Load().passed(n.clock()); {
		case passed && !s.excused:
			s.excused, s.witnessed = true, n.w.dark+simTTL*3/4
		case !passed && n.w.now < s.witnessed:
			s.excused = false // counted again in time
		}
	}
}

func (n *node) begin(s *slot, limit int) {
	n.w.admits++
	n.w.begun[limit]++
	n.admitted++
	n.w.checkBegun(simLimits[limit])
	sess := &simSession{slot: s, limit: limit}
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
		n.ask(s)
		n.settleSessions()
		return
	}
	n.h.release(n.clock(), s.slot)
	n.settleSessions()
	n.rouseIfDue()
}

// mayRelay is what Grant.Valid answers.
func (n *node) mayRelay(s *simSession) bool {
	if n.dead || s.slot.ended {
		return false
	}
	return !n.w.strict || !s.slot.counter.lease.Load().passed(n.clock())
}
