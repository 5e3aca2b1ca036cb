package replica

import (
	"errors"
	"time"

	"usher/store"
)

// Operation is the kind of a request to the store.
type Operation string

// The operations. Dial opens the connection, the others go over it.
const (
	Dial        Operation = "dial"
	Join        Operation = "join"
	Batch       Operation = "batch"
	Observe     Operation = "observe"
	Expire      Operation = "expire"
	EndRecovery Operation = "end_recovery"
)

// Request is one thing for the driver to do.
type Request struct {
	Op          Operation
	Join        store.Join
	Batch       store.Batch
	Watch       []string // Observe: counters whose totals are wanted
	Expire      store.Expire
	EndRecovery store.EndRecovery

	attachment uint64
	sent       time.Duration // when it was first sent: sending it again does not renew it
	acked      store.Token   // what was acknowledged when it was sent
	stated     []stated      // join and batch: what each entry was made of
}

// Outcome is the outcome of a request. Err is an error of package store. Any other
// error means that it is unknown whether the store has executed the request.
type Outcome struct {
	Err        error
	Join       store.JoinReply
	Batch      store.BatchReply
	Members    store.Membership // Observe
	Expire     store.ExpireReply
	Recovering bool // EndRecovery
}

// Next returns the request to send now, or nil. The driver carries it out and
// calls Handle with its outcome before it calls Next again.
func (m *Machine) Next(now time.Duration) *Request {
	m.CheckDeadlines(now)
	if m.link.busy || m.phase == left || now < m.link.notBefore {
		return nil
	}
	r := m.choose(now)
	if r == nil {
		return nil
	}
	m.link.busy = true
	m.others.tookTurn(r.Op)
	r.attachment, r.acked = m.link.attachment, m.stream.acked
	if r.sent == 0 { //mutate:lease-from-a-resend
		r.sent = now
	}
	return r
}

func (m *Machine) choose(now time.Duration) *Request {
	if !m.link.connected {
		if m.phase == leaving && m.stream.acked == (store.Token{}) {
			m.phase = left
			return nil
		}
		return &Request{Op: Dial}
	}
	switch m.phase {
	case detached:
		return m.makeJoin(now)
	case expiring:
		return m.makeExpire(m.others.observer.self)
	case mismatched:
		return m.nextMismatched(now)
	case leaving:
		return m.nextLeaving()
	default:
		return m.nextJoined(now)
	}
}

func (m *Machine) nextJoined(now time.Duration) *Request {
	o := &m.others
	switch {
	case m.stream.resend != nil:
		return m.stream.resend
	case now >= o.lookAt && m.mayLook():
		return &Request{Op: Observe, Watch: m.space.watch}
	case o.untidy() && !o.tidied:
		return m.tidy()
	case m.batchDue(now):
		return m.makeBatch(now)
	case o.untidy():
		return m.tidy()
	}
	return nil
}

// tidy returns the request to expire a dead replica, or to end the recovery and
// drop tombstones, as the observer has found.
func (m *Machine) tidy() *Request {
	o := &m.others.observer
	if o.hasDead() {
		return m.makeExpire(o.nextDead())
	}
	return &Request{Op: EndRecovery, EndRecovery: store.EndRecovery{
		Replica: m.id, Token: m.stream.acked, Ready: o.ready, Gone: o.gone,
	}}
}

// nextMismatched continues to observe, so that dead replicas with other settings do not
// keep this one out for ever. It never ends a recovery.
func (m *Machine) nextMismatched(now time.Duration) *Request {
	o := &m.others
	switch {
	case o.observer.hasDead(): //mutate:a-mismatched-replica-expires-nobody
		return m.makeExpire(o.observer.nextDead())
	case now >= o.retryAt:
		return m.makeJoin(now)
	case now >= o.lookAt:
		return &Request{Op: Observe}
	}
	return nil
}

// nextLeaving settles a batch whose outcome is unknown, then gives everything back.
func (m *Machine) nextLeaving() *Request {
	if m.stream.resend != nil {
		return m.stream.resend
	}
	return m.makeExpire(store.Expire{Target: m.id, Epoch: m.stream.acked.Epoch, Token: m.stream.acked})
}

func (m *Machine) makeExpire(e store.Expire) *Request {
	e.Max = m.expireMax
	return &Request{Op: Expire, Expire: e}
}

// Handle applies the outcome of the request under way.
func (m *Machine) Handle(now time.Duration, r *Request, o Outcome) {
	m.link.busy = false
	m.CheckDeadlines(now)
	if m.failed(now, r, o.Err) || r.attachment != m.link.attachment || m.phase == left {
		return
	}
	switch r.Op {
	case Dial:
		m.link.connected = true
	case Join:
		m.handleJoin(now, r, o.Join)
	case Batch:
		m.handleBatch(now, r, o.Batch)
	case Observe:
		m.handleObserve(now, r, o.Members)
	case Expire:
		m.handleExpire(r, o.Expire)
	case EndRecovery:
		m.handleEndRecovery(o.Recovering, r.EndRecovery.Gone)
	}
}

// failed handles an error by what it says about the outcome. It reports whether there
// was an error.
func (m *Machine) failed(now time.Duration, r *Request, err error) bool {
	current := r.attachment == m.link.attachment
	switch {
	case err == nil:
		return false
	case errors.Is(err, store.ErrLost):
		m.lostTheStore(r, current)
	case errors.Is(err, store.ErrStale):
		// The next join has a higher stream.
	case errors.Is(err, store.ErrBusy):
		m.link.notBefore = now + 20*time.Millisecond
		m.keepForResend(r, current)
	default:
		// The outcome is unknown, or the server was the wrong one: connect anew.
		m.link.connected = false
		m.link.notBefore = now + min(m.timing.request, 100*time.Millisecond)
		m.keepForResend(r, current)
	}
	return true
}

// lostTheStore handles the answer that the store's data is gone, or no longer has
// this replica.
func (m *Machine) lostTheStore(r *Request, current bool) {
	switch {
	case m.ending():
		m.phase = left
	case !current:
	case (r.Op == Batch || r.Expire.Target != m.id) && m.phase != mismatched:
		m.detach()
	default:
		m.phase = detached
		m.others.observer = newObserver() //mutate:the-dead-of-lost-data-are-expired-again
	}
}

// keepForResend keeps a batch, to send it again byte for byte. Only batches are sent
// again: after a join whose outcome is unknown, the next join has a new stream.
func (m *Machine) keepForResend(r *Request, current bool) {
	if r.Op == Batch && current {
		m.stream.resend = r
	}
}

// detach drops what is under way. The next request is a join.
func (m *Machine) detach() {
	m.phase = detached
	m.link.attachment++
	m.stream.resend = nil //mutate:a-batch-survives-the-loss-of-its-lease
	m.claims = nil
	for _, c := range m.table.counters {
		c.outcomeUnknown = c.outcomeUnknown || c.inFlight //mutate:a-counter-of-a-lost-batch-is-forgotten
		c.inFlight = false
	}
	m.others.observer = newObserver()
}
