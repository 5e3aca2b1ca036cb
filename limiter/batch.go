package limiter

import (
	"errors"
	"time"

	"usher/store"
	"usher/store/limit"
)

// stated is what an entry was made of when it was sent.
type stated struct {
	counter *counter
	live    int64
	upTo    uint64 // waiters up to this arrival were in it
}

// makeJoin states who we are and re-claims the first of our sessions.
func (h *replica) makeJoin(now time.Duration) *request {
	h.phase = detached
	h.stream++
	h.claims = h.sorted()
	r := &request{op: opJoin}
	r.join = store.Join{
		Replica: h.id, Candidate: h.newBirth(), Stream: h.stream, Settings: h.settings,
		Last: h.acked, Space: h.space, Number: h.number, MustNotCreate: h.rivals.mayReturn(now, h.timing),
	}
	r.join.Entries = h.stateClaims(r)
	r.join.More = len(h.claims) > 0
	return r
}

// stateClaims takes the next counters to be re-stated: what is live, no more.
func (h *replica) stateClaims(r *request) []store.Entry {
	entries := make([]store.Entry, 0, min(len(h.claims), h.chunk))
	for ; len(h.claims) > 0 && len(entries) < h.chunk; h.claims = h.claims[1:] {
		// Who waited may have left since the join, and the counter with them.
		if c := h.claims[0]; h.counters[c.name] == c {
			entries = append(entries, h.state(r, c, c.live))
		}
	}
	return entries
}

// state makes the entry of one counter.
func (h *replica) state(r *request, c *counter, need int64) store.Entry {
	s := stated{counter: c, live: c.live}
	if n := len(c.waiters); n > 0 {
		s.upTo = c.waiters[n-1].order
	}
	r.stated = append(r.stated, s)
	c.inFlight, c.sentLive = true, c.live
	e := store.Entry{Counter: c.name, Max: c.max, RuleMax: c.ruleMax, Live: c.live, Need: need}
	if need > c.live {
		e.Rate, e.RuleRate = c.rate, c.ruleRate
	}
	return e
}

// batchDue reports whether there is something to say: a change, a claim, a
// new space, or that we live.
func (h *replica) batchDue(now time.Duration) bool {
	return len(h.queue) > 0 || len(h.lazy) > 0 && now >= h.lazyAt || h.phase == reclaiming || h.space != h.spaceKnown ||
		h.leased && now >= h.beatAt
}

func (h *replica) makeBatch(now time.Duration) *request {
	r := &request{op: opBatch}
	r.batch = store.Batch{Replica: h.id, Prev: h.acked, New: h.acked.Next(), Strict: h.settings.Strict}
	if h.space != h.spaceKnown {
		r.batch.Space, r.batch.Number = h.space, h.number
	}
	if h.phase == reclaiming {
		r.batch.Entries = h.stateClaims(r)
		r.batch.More = len(h.claims) > 0
		return r
	}
	if now >= h.beatAt {
		h.patient = h.unqueue(h.patient, inPatient)
	}
	if len(h.lazy) > 0 && now >= h.lazyAt {
		h.lazy = h.unqueue(h.lazy, inLazy)
	}
	h.queue = standing(h.queue, inQueue)
	n := min(len(h.queue), h.chunk)
	r.batch.Entries = make([]store.Entry, 0, n)
	r.stated = make([]stated, 0, n)
	for _, c := range h.queue[:n] {
		c.place = nowhere
		need := c.live
		if !c.over && !h.recovering || !c.counted {
			need += int64(len(c.waiters))
		}
		r.batch.Entries = append(r.batch.Entries, h.state(r, c, need))
	}
	h.queue = append(h.queue[:0], h.queue[n:]...)
	return r
}

// joined takes the answer to a join.
func (h *replica) joined(now time.Duration, r *request, reply store.JoinReply) {
	switch reply.Status {
	case store.Mismatch:
		h.rivals = rivals{settings: reply.Settings, witness: max(h.rivals.witness, h.observer.under(h.timing, reply.Settings).witness)}
		h.mismatch(now)
		return
	case store.NoData:
		h.rivals.gone(now, h.timing)
		h.mismatch(now)
		h.retryAt = now + h.timing.look
		return
	case store.Expiring:
		h.phase = expiring
		h.observer.self = store.Expire{Target: h.id, Epoch: reply.Epoch, Token: reply.Token}
		return
	}
	if h.leased && r.sent+h.timing.fence <= now {
		return // too late to rely on: join again
	}
	h.rivals = rivals{witness: h.rivals.witness} // their sessions may live on, see patience
	if !reply.Kept {
		h.newLease()
	}
	h.acked = store.Token{Epoch: reply.Epoch, Stream: r.join.Stream}
	h.phase = live
	if r.join.More {
		h.phase = reclaiming
	}
	h.spaceKnown, h.number = r.join.Space, reply.Number
	h.lookAt = now
	h.acknowledge(now, r, reply.Recovering, reply.Counts)
	h.beatAt = now // what follows a join proves what it bore, see observed
	for _, c := range h.sorted() {
		if len(c.waiters) > 0 {
			h.enqueueWaiting(c)
		}
	}
}

// newLease begins with nothing confirmed: sessions stay on the lease before,
// and its fence, until the store has confirmed their counter.
func (h *replica) newLease() {
	if h.lease.fence.Load() > 0 {
		h.older = append(h.older, h.lease)
	}
	h.lease = &lease{}
	for _, c := range h.counters {
		c.own = 0
	}
}

// batched takes the answer to a batch, or to its resend.
func (h *replica) batched(now time.Duration, r *request, reply store.BatchReply) {
	h.resend = nil
	h.acked = r.batch.New
	if r.batch.Space != "" {
		h.spaceKnown, h.number = r.batch.Space, reply.Number
	}
	if h.phase == reclaiming && !r.batch.More {
		h.phase = live
	}
	h.acknowledge(now, r, reply.Recovering, reply.Counts)
}

// acknowledge renews the lease and settles every entry of the request.
func (h *replica) acknowledge(now time.Duration, r *request, recovering bool, counts []store.Count) {
	h.lease.fence.Store(int64(r.sent + h.timing.fence))
	h.lease.ended = false
	h.beatAt = r.sent + h.timing.beat
	h.setYoung(recovering)
	for i, s := range r.stated {
		h.settle(now, s, counts[i])
	}
}

func (h *replica) setYoung(recovering bool) {
	if h.recovering && !recovering {
		h.patient = h.unqueue(h.patient, inPatient)
	}
	if h.recovering = recovering; !recovering {
		h.rivals.witness = 0
	}
	h.ripe = h.ripe || !recovering && h.phase == live
}

// settle applies the store's answer to one counter.
func (h *replica) settle(now time.Duration, s stated, n store.Count) {
	c := s.counter
	c.inFlight, c.unsure = false, false
	c.own, c.contended, c.nearFull = n.Granted, n.Contended, nearFull(n, c)
	c.lease.Store(h.lease)
	if above(n, c) {
		c.over = true
	} else if !h.recovering {
		c.over = false // a recovering total is incomplete
	}
	if h.settings.Strict && c.live > c.own {
		h.take(c, c.live-c.own) // a claim that was cut
	}
	// Waiters get what was granted beyond the sessions that were stated, not
	// beyond those that live now: above the maximum, one that ended meanwhile
	// must not be replaced.
	slots := n.Granted - s.live
	if c.throttled {
		slots = n.Admitted // what was used up of the rate, neither more nor less
	}
	for ; slots > 0 && len(c.waiters) > 0 && c.waiters[0].order <= s.upTo; slots-- {
		h.grant(c)
	}
	h.refuse(c, s.upTo, n)
	if h.phase == live {
		h.handOver(now, c)
	}
	if len(c.waiters) > 0 {
		h.enqueueWaiting(c)
	}
	h.enqueueSurplus(now, c)
	h.drop(c)
}

// refuse answers those waiters of a batch that got nothing, if the reply says
// for certain why; the others are asked for again.
func (h *replica) refuse(c *counter, upTo uint64, n store.Count) {
	for len(c.waiters) > 0 && c.waiters[0].order <= upTo {
		err := reason(n, c)
		switch {
		case err != nil && (!h.recovering || !errors.Is(err, ErrFull)):
			h.answer(c, answer{err: err})
		case c.counted && h.ripensAfter(c.waiters[0].deadline):
			h.answer(c, answer{err: ErrRecovering})
		default:
			return
		}
	}
}

func above(n store.Count, c *counter) bool {
	return c.max != limit.None && n.Total > c.max || c.ruleMax != limit.None && n.RuleTotal > c.ruleMax
}

// nearFull: nine tenths are in use.
func nearFull(n store.Count, c *counter) bool {
	return c.max != limit.None && 10*n.Total >= 9*c.max || c.ruleMax != limit.None && 10*n.RuleTotal >= 9*c.ruleMax
}

// reason says which limit stands against another session, nil if none does. If
// several do, the first in the order in which Dante asks them: the rule's rate,
// its maximum, the key's maximum, the key's rate.
func reason(n store.Count, c *counter) error {
	keyed := store.RuleOf(c.name) != ""
	full := c.max != limit.None && n.Total >= c.max || c.ruleMax != limit.None && n.RuleTotal >= c.ruleMax
	switch {
	case n.RuleThrottled, !keyed && n.Throttled:
		return ErrThrottled
	case full:
		return ErrFull
	case n.Throttled:
		return ErrThrottled
	}
	return nil
}
