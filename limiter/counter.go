package limiter

import (
	"cmp"
	"maps"
	"slices"
	"sync/atomic"
	"time"

	"usher/store"
	"usher/store/limit"
)

// counter is a row of the replica's table: the truth about live sessions, and
// what the store last said about it.
type counter struct {
	name           string
	rule           string // whose key it counts, "" if it counts no key
	max, ruleMax   int64
	rate, ruleRate limit.Rate
	throttled      bool // there is a rate: nothing begins without the store's word
	counted        bool // the store keeps the number of sessions; else live and own stay 0

	live    int64              // sessions that exist here
	slots   map[*slot]struct{} // theirs; kept only where they can be taken away
	waiters []*waiter          // in order of arrival

	own       int64 // what the store counts for us, as last acknowledged
	nearFull  bool  // at the last answer, little was left: what ends is given back at once
	over      bool  // more sessions than the maximum exist: nothing is refilled
	contended bool  // another replica was refused here: freed slots are its
	lease     atomic.Pointer[lease]

	place    place // which queue it stands in
	inFlight bool  // in a batch whose outcome is not known
	sentLive int64 // live as stated in that batch
	unsure   bool  // such a batch was given up: the store may have what we do not know of
}

// place is where a counter waits to be sent.
type place uint8

const (
	nowhere   place = iota
	inQueue         // for the next batch
	inPatient       // for the next heartbeat
	inLazy          // for a batch a little later
)

// waiter is an admission that waits for the store's answer.
type waiter struct {
	counter  *counter
	order    uint64        // of arrival at the replica
	deadline time.Duration // when the wait ends
	done     chan answer   // gets exactly one, unless it is withdrawn
}

type answer struct {
	slot *slot
	err  error
}

// ask admits at once where no question is needed, refuses at once where no
// answer can come in time, and otherwise queues a waiter.
func (h *replica) ask(now time.Duration, limit Limit, deadline time.Duration) (*slot, *waiter, error) {
	h.checkFences(now)
	switch {
	case h.phase == leaving || h.phase == left:
		return nil, nil, ErrClosed
	case h.apart():
		return nil, nil, ErrMismatch
	}
	c := h.counterOf(limit)
	if len(c.waiters) == 0 && h.mayHandOver(now, c) {
		return h.occupy(c), nil, nil // also while the store is recovering: the slot is ours
	}
	if c.counted && h.ripensAfter(deadline) {
		h.drop(c)
		return nil, nil, ErrRecovering
	}
	h.arrivals++
	w := &waiter{counter: c, order: h.arrivals, deadline: deadline, done: make(chan answer, 1)}
	c.waiters = append(c.waiters, w)
	h.enqueueWaiting(c)
	return nil, w, nil
}

func (h *replica) counterOf(limit Limit) *counter {
	e := limit.entry()
	c := h.counters[e.Counter]
	if c == nil {
		c = &counter{
			name: e.Counter, rule: store.RuleOf(e.Counter), max: e.Max, ruleMax: e.RuleMax, rate: e.Rate, ruleRate: e.RuleRate,
			throttled: e.Throttled(), counted: e.Counted(), slots: map[*slot]struct{}{},
		}
		c.lease.Store(h.lease)
		h.counters[e.Counter] = c
	}
	return c
}

// mayHandOver reports whether a slot that the store counts as ours but no
// session uses may be given to a session here without asking. Where there is a
// rate it may not: the session would begin uncounted.
func (h *replica) mayHandOver(now time.Duration, c *counter) bool {
	return h.phase == live && !h.lease.passed(now) && c.lease.Load() == h.lease &&
		!c.over && !c.contended && !c.throttled && c.live < c.own && (!c.inFlight || c.live < c.sentLive)
}

// occupy makes one session of c live, if c counts them.
func (h *replica) occupy(c *counter) *slot {
	if !c.counted {
		return &slot{shard: h.shard, ended: true}
	}
	h.count(c, 1)
	h.admissions++
	s := &slot{shard: h.shard, counter: c, order: h.admissions}
	if h.settings.Strict {
		c.slots[s] = struct{}{}
	}
	return s
}

// move gives back what a session held, if anything, and asks for a slot of
// limit. If it has to wait, both are in the same batch.
func (h *replica) move(now time.Duration, old *slot, limit Limit, deadline time.Duration) (*slot, *waiter, error) {
	if old != nil {
		h.release(now, old)
	}
	got, w, err := h.ask(now, limit, deadline)
	if w == nil || old == nil || old.counter == nil {
		return got, w, err
	}
	if c := old.counter; c.inFlight || c.place == inLazy {
		h.enqueue(c)
	}
	return got, w, err
}

// release ends a session's slot.
func (h *replica) release(now time.Duration, s *slot) {
	if s.ended {
		return
	}
	s.ended = true
	c := s.counter
	delete(c.slots, s)
	h.count(c, -1)
	h.checkFences(now)
	h.handOver(now, c)
	h.enqueueSurplus(now, c)
	h.drop(c)
}

// count adds n to the live sessions of c, and of its rule.
func (h *replica) count(c *counter, n int64) {
	if c.live += n; c.live < 0 {
		panic("limiter: more sessions of " + c.name + " ended than began")
	}
	if c.rule == "" {
		return
	}
	if h.ruleLive[c.rule] += n; h.ruleLive[c.rule] == 0 {
		delete(h.ruleLive, c.rule)
	}
}

// handOver gives free slots to waiters here, oldest first, as far as that
// needs no question.
func (h *replica) handOver(now time.Duration, c *counter) {
	for len(c.waiters) > 0 && h.mayHandOver(now, c) {
		h.grant(c)
	}
}

func (h *replica) grant(c *counter) { h.answer(c, answer{slot: h.occupy(c)}) }

func (h *replica) answer(c *counter, a answer) {
	w := c.waiters[0]
	c.waiters[0] = nil
	c.waiters = c.waiters[1:]
	w.done <- a
}

// admitAlone admits by what this replica knows itself.
func (h *replica) admitAlone(now time.Duration, limit Limit) (*slot, error) {
	if h.phase == leaving || h.phase == left {
		return nil, ErrClosed
	}
	c := h.counterOf(limit)
	defer h.drop(c)
	n := store.Count{
		Total: c.live, RuleTotal: h.ruleLive[c.rule],
		Throttled:     c.rate.N > 0 && h.windows.Used(now, c.name) >= c.rate.N,
		RuleThrottled: c.ruleRate.N > 0 && h.windows.Used(now, c.rule) >= c.ruleRate.N,
	}
	if err := reason(n, c); err != nil {
		return nil, err
	}
	if c.rate.N > 0 {
		h.windows.Use(now, c.name, c.rate.Per, 1)
	}
	if c.ruleRate.N > 0 {
		h.windows.Use(now, c.rule, c.ruleRate.Per, 1)
	}
	s := h.occupy(c)
	s.alone = true
	if c.counted {
		c.over = true // as far as we know: nothing is handed on before the store has counted it
		h.enqueue(c)
	}
	return s, nil
}

// withdraw takes a waiter back that nobody answered; it reports false if
// somebody did.
func (h *replica) withdraw(w *waiter) bool {
	i := slices.Index(w.counter.waiters, w)
	if i < 0 {
		return false
	}
	w.counter.waiters = slices.Delete(w.counter.waiters, i, i+1)
	h.drop(w.counter)
	return true
}

// take ends the n youngest sessions of c from outside: their slots are
// somebody else's.
func (h *replica) take(c *counter, n int64) {
	youngestFirst := func(a, b *slot) int { return cmp.Compare(b.order, a.order) }
	for _, s := range slices.SortedFunc(maps.Keys(c.slots), youngestFirst)[:n] {
		h.count(c, -1)
		delete(c.slots, s)
		s.ended = true
		s.dead.Store(true)
		if s.lost != nil {
			s.lost()
		}
	}
}

// enqueue puts c into the next batch.
func (h *replica) enqueue(c *counter) {
	if c.place != inQueue {
		h.queue = stand(h.queue, c, inQueue)
	}
}

// stand puts c at the end of list, which is the one for place at. Those that
// were dropped or moved meanwhile are cleared out before it grows, and there is
// room for as many again until the next time: it is at most twice as long as
// what stands there needs, however many come and go while nothing is sent.
func stand(list []*counter, c *counter, at place) []*counter {
	if len(list) == cap(list) {
		list = standing(list, at)
		list = slices.Grow(list, len(list)+1)
	}
	c.place = at
	return append(list, c)
}

// standing returns list without those that were dropped or moved meanwhile.
func standing(list []*counter, at place) []*counter {
	return slices.DeleteFunc(list, func(c *counter) bool { return c.place != at })
}

// enqueueWaiting does so for its waiters. While the store is recovering they
// cannot be admitted, unless nothing is counted, and ride on the heartbeat.
func (h *replica) enqueueWaiting(c *counter) {
	if !h.recovering || !c.counted {
		h.enqueue(c)
	} else {
		h.enqueuePatient(c)
	}
}

func (h *replica) enqueuePatient(c *counter) {
	if c.place == nowhere {
		h.patient = stand(h.patient, c, inPatient)
	}
}

// lazyFor is how long the slot of a session that ended may be kept, where
// nobody is short of it: the next session here takes it without a question,
// and many that end together cost one batch.
const lazyFor = 2 * time.Millisecond

// enqueueSurplus does so if the store counts more for us than there is.
func (h *replica) enqueueSurplus(now time.Duration, c *counter) {
	switch {
	case c.own <= c.live || c.inFlight || c.place == inQueue:
	case h.recovering && !c.over && h.phase == live:
		// Nobody else could be given it now, but a session here may take it.
		h.enqueuePatient(c)
	case c.nearFull || c.over || c.contended || h.phase != live:
		h.enqueue(c)
	case c.place != inLazy:
		if len(h.lazy) == 0 {
			h.lazyAt = now + lazyFor
		}
		h.lazy = stand(h.lazy, c, inLazy)
	}
}

// unqueue moves those of list that still stand there into the next batch.
func (h *replica) unqueue(list []*counter, from place) []*counter {
	for _, c := range list {
		if c.place == from { // else it was sent, moved or dropped meanwhile
			h.enqueue(c)
		}
	}
	return list[:0]
}

// drop takes c off the table when neither side knows anything of it. It may
// have been about to be sent: whose clients came and went while the store is
// away must not be remembered until it is back.
func (h *replica) drop(c *counter) {
	if c.live == 0 && c.own == 0 && len(c.waiters) == 0 && !c.inFlight && !c.unsure {
		c.place = nowhere
		delete(h.counters, c.name)
	}
}
