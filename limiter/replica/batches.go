package replica

import (
	"errors"
	"time"

	"usher/store"
	"usher/store/limit"
)

// stated has the numbers of an entry when it was sent.
type stated struct {
	counter *counter
	bounds  *bounds // of the waiters that it counts
	live    int64
	upTo    uint64 // the last waiter that it counts, by order of arrival
}

// makeJoin makes a join, with the first claims of our sessions.
func (m *Machine) makeJoin(now time.Duration) *Request {
	m.phase = detached
	m.stream.number++ //mutate:a-join-of-the-same-stream-again
	m.claims = m.table.sorted()
	r := &Request{Op: Join}
	r.Join = store.Join{
		Replica: m.id, Candidate: m.newEpoch(), Stream: m.stream.number, Settings: m.settings,
		Last: m.stream.acked, Space: m.space.current, Number: m.space.number,
		MustNotCreate: m.others.conflict.mayReturn(now, m.timing), //mutate:lost-data-of-conflicting-replicas-is-created
	}
	r.Join.Entries = m.stateClaims(r)
	r.Join.More = len(m.claims) > 0
	return r
}

// stateClaims takes the next counters to be restated, with their live sessions
// and no more.
func (m *Machine) stateClaims(r *Request) []store.Entry {
	entries := make([]store.Entry, 0, min(len(m.claims), m.chunk))
	for ; len(m.claims) > 0 && len(entries) < m.chunk; m.claims = m.claims[1:] {
		c := m.claims[0]
		if m.table.counters[c.name] == c { // else its waiters have left since the join //mutate:claims-of-counters-that-are-gone
			entries = append(entries, m.state(r, c, 0))
		}
	}
	return entries
}

// poolBounds are the bounds that a batch states for each pool. It states the same for
// all keys of a pool, because they share the window of the pool.
type poolBounds map[string]*bounds

// agree reports whether the first waiter of c asks with the bounds of its pool in this
// batch. The first one of a pool decides.
func (p *poolBounds) agree(c *counter) bool {
	b, pool := c.waiters[0].bounds, c.whole()
	if of, ok := (*p)[pool]; ok {
		return *of == *b
	}
	if *p == nil {
		*p = poolBounds{}
	}
	(*p)[pool] = b
	return true
}

// state makes the entry of one counter, which asks for slots for the first waiters.
func (m *Machine) state(r *Request, c *counter, waiting int) store.Entry {
	s := stated{counter: c, bounds: c.bounds, live: c.live}
	if n := c.alike(); n > 0 {
		s.bounds, s.upTo = c.waiters[0].bounds, c.waiters[n-1].order
	}
	r.stated = append(r.stated, s)
	c.inFlight, c.sentLive = true, c.live
	need := c.live + int64(waiting)
	e := store.Entry{
		Counter: c.name, Max: s.bounds.max, RuleMax: s.bounds.ruleMax, Need: need,
		Live: c.live, //mutate:waiting-sessions-are-stated-as-live
	}
	switch {
	case need > c.live:
		e.Rate, e.RuleRate, e.MaxKeys = s.bounds.rate, s.bounds.ruleRate, s.bounds.maxKeys
	case c.pool || s.bounds.report: // Its sessions may be more than the number now, and no number ends them. //mutate:claims-of-a-limit-that-only-reports-state-a-maximum
		e.Max, e.RuleMax = limit.None, limit.None //mutate:claims-of-a-pool-state-a-maximum
	}
	return e
}

// batchDue reports whether a batch is due: for a change, a claim, another space, or a
// heartbeat.
func (m *Machine) batchDue(now time.Duration) bool {
	return len(m.queues.send) > 0 || m.queues.releaseDue(now) || m.phase == claiming ||
		m.space.current != m.space.acked || m.leased && now >= m.stream.beatAt
}

func (m *Machine) makeBatch(now time.Duration) *Request {
	r := &Request{Op: Batch}
	r.Batch = store.Batch{Replica: m.id, Prev: m.stream.acked, New: m.stream.acked.Next(), Strict: m.settings.Strict}
	if m.space.current != m.space.acked {
		r.Batch.Space, r.Batch.Number = m.space.current, m.space.number
	}
	if m.phase == claiming {
		r.Batch.Entries = m.stateClaims(r)
		r.Batch.More = len(m.claims) > 0
		return r
	}
	if now >= m.stream.beatAt {
		m.queues.sendHeartbeats()
	}
	if m.queues.releaseDue(now) {
		m.queues.sendReleases()
	}
	next := m.queues.take(m.chunk)
	r.Batch.Entries = make([]store.Entry, 0, len(next))
	r.stated = make([]stated, 0, len(next))
	var later []*counter
	var pools poolBounds
	for _, c := range next {
		waiting := 0
		if c.mayGrow() && !m.others.recovering || !c.counted {
			waiting = c.alike()
		}
		if waiting > 0 && c.pool && !pools.agree(c) { //mutate:a-batch-with-two-rates-of-a-pool
			later = append(later, c)
			continue
		}
		r.Batch.Entries = append(r.Batch.Entries, m.state(r, c, waiting))
	}
	m.queues.taken(len(next))
	m.queues.putBack(later)
	return r
}

// handleJoin handles the answer to a join.
func (m *Machine) handleJoin(now time.Duration, r *Request, reply store.JoinReply) {
	o := &m.others
	switch reply.Status {
	case store.Mismatch:
		witness := max(o.conflict.witness, m.timing.withLongerWitness(reply.Settings).witness)
		o.conflict = conflict{settings: reply.Settings, witness: witness}
		m.mismatch(now)
		return
	case store.NoData:
		o.conflict.missed(now, m.timing)
		m.mismatch(now)
		o.retryAt = now + m.timing.look
		return
	case store.Expiring:
		m.phase = expiring
		o.observer.self = store.Expire{Target: m.id, Epoch: reply.Epoch, Token: reply.Token}
		return
	}
	if m.leased && r.sent+m.timing.lease <= now {
		return // the lease has ended already: join again
	}
	o.conflict = conflict{witness: o.conflict.witness} // their sessions may continue, see witnessTiming //mutate:conflicting-replicas-are-forgotten-at-once
	if !reply.Kept {
		m.newLease()
	}
	m.stream.acked = store.Token{Epoch: reply.Epoch, Stream: r.Join.Stream}
	m.phase = live
	if r.Join.More {
		m.phase = claiming
	}
	m.space.acked, m.space.number = r.Join.Space, reply.Number
	o.lookAt = now
	m.acknowledge(now, r, reply.Recovering, reply.Counts)
	m.stream.beatAt = now // a batch must follow before a look counts, see mayLook
	for _, c := range m.table.sorted() {
		if len(c.waiters) > 0 {
			m.enqueueWaiting(c)
		}
	}
}

// handleBatch handles the answer to a batch or to its resend.
func (m *Machine) handleBatch(now time.Duration, r *Request, reply store.BatchReply) {
	m.stream.resend = nil
	m.stream.acked = r.Batch.New
	if r.Batch.Space != "" {
		m.space.acked, m.space.number = r.Batch.Space, reply.Number
	}
	if m.phase == claiming && !r.Batch.More {
		m.phase = live
	}
	m.acknowledge(now, r, reply.Recovering, reply.Counts)
}

// acknowledge renews the lease and settles every entry of the request.
func (m *Machine) acknowledge(now time.Duration, r *Request, recovering bool, counts []store.Count) {
	m.leases.current.deadline = r.sent + m.timing.lease //mutate:lease-from-the-reply
	m.leases.current.ended = false
	m.stream.beatAt = r.sent + m.timing.beat
	m.setRecovering(recovering)
	for i, s := range r.stated {
		m.settle(now, s, counts[i])
	}
}

// settle applies the store's answer to one counter.
func (m *Machine) settle(now time.Duration, s stated, n store.Count) {
	c := s.counter
	m.sawCount(now, c, n)
	m.tell(c)
	c.inFlight, c.outcomeUnknown = false, false
	c.granted, c.contended, c.nearlyFull = n.Granted, n.Contended, nearlyFull(n, s.bounds)
	c.lease = m.leases.current
	if overLimit(n, s.bounds) {
		c.overLimit = true
	} else if !m.others.recovering { // else the total is incomplete //mutate:over-limit-cleared-by-a-total-in-recovery
		c.overLimit = false
	}
	if cut := min(c.live, s.live) - c.granted; m.settings.Strict && cut > 0 {
		m.takeAway(c, cut) // a claim that was cut //mutate:a-cut-claim-ends-no-session
	}
	// Waiters get the slots beyond the sessions that were stated, not beyond the
	// sessions that live now. Over the limit, a session that ended meanwhile must not
	// be replaced.
	slots := n.Granted - s.live //mutate:waiters-get-granted-less-what-lives-now
	if s.bounds.throttled() {
		slots = n.Admitted // as many as used up the rate, neither more nor fewer //mutate:a-rate-alone-gets-what-is-granted
	}
	for ; slots > 0 && len(c.waiters) > 0 && c.waiters[0].order <= s.upTo; slots-- {
		m.grant(c)
	}
	m.refuse(c, s, n)
	if m.phase == live {
		m.handOver(now, c)
	}
	if len(c.waiters) > 0 {
		m.enqueueWaiting(c)
	}
	m.enqueueSurplus(now, c)
	m.drop(c)
}

// refuse answers the waiters of a batch that got nothing, if this reply says for
// certain why. The next batch asks again for the others.
func (m *Machine) refuse(c *counter, s stated, n store.Count) {
	for len(c.waiters) > 0 && c.waiters[0].order <= s.upTo {
		err := reason(n, s.bounds, c.rule != "") //mutate:refused-as-full-without-the-total-of-this-reply //mutate:refused-by-the-number-of-another
		switch {
		case err != nil && (!m.others.recovering || !errors.Is(err, ErrFull)):
			if s.bounds.report { //mutate:a-limit-that-only-reports-refuses
				m.report(c, err)
			} else {
				m.answer(c, nil, err)
			}
		case c.counted && m.recoversAfter(c.waiters[0].deadline):
			m.answer(c, nil, ErrRecovering)
		default:
			return
		}
	}
}
