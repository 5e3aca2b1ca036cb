package limiter

import (
	"errors"
	"maps"
	"math"
	"slices"
	"time"

	"usher/store"
	"usher/store/limit"
)

// replica is the protocol of one replica for one shard of the store, as a
// state machine: next says what to send now, handle takes the outcome. One
// request is under way at a time. It has no goroutine, no clock and no lock
// of its own; shard drives it, and guards it.
type replica struct {
	shard     *shard // its driver, for the slots it hands out
	id        string
	settings  store.Settings
	leased    bool
	timing    timing
	newBirth  func() string
	chunk     int // most entries of a request
	expireMax int // most counters of a expire

	phase     phase
	connected bool
	notBefore time.Duration // nothing is sent earlier, after a failure
	busy      bool          // a request is under way
	epoch     uint64        // outcomes of requests of an older epoch are void

	stream     uint64
	acked      store.Token // the last acknowledged, zero before the first
	resend     *request    // a batch whose outcome is unknown
	lease      *lease      // the current one
	older      []*lease    // those on which counters still stand after a loss
	lapsed     uint64      // leases that passed their fence with sessions on them
	recovering bool
	ripe       bool // it was joined and mature at least once

	counters   map[string]*counter
	arrivals   uint64 // of waiters
	admissions uint64
	queue      []*counter // for the next batch, oldest first
	patient    []*counter // for the next heartbeat
	lazy       []*counter // of ended sessions, for a batch at lazyAt
	lazyAt     time.Duration
	ruleLive   map[string]int64 // live sessions of each rule that counts by key
	windows    limit.Windows    // of what was admitted without the store
	claims     []*counter       // live sessions still to be re-stated after a join

	beatAt     time.Duration // when the next heartbeat is due
	lookAt     time.Duration // when the next look at the membership is due
	observer   observer
	membership store.Membership
	tidied     bool          // since the last batch there was a expire or a mature: batches go first
	retryAt    time.Duration // mismatched: when to try again
	rivals     rivals

	space      string   // in force here
	spaceKnown string   // as last acknowledged
	number     uint64   // of spaceKnown
	watch      []string // counters whose totals are wanted
}

type phase int

const (
	detached   phase = iota // the store does not know us, or not what we have
	reclaiming              // joined, not all live sessions re-stated yet
	live
	mismatched // others run with other settings: observe, and try again
	expiring   // we are being expired: finish it, then join anew
	leaving
	left
)

// timing is all that follows from the TTL (store timing rules: a replica stops
// relying on its lease at 0.7 TTL, others take it for dead after 0.75).
type timing struct {
	beat, look, gap, fence, witness, tombstone, request time.Duration
}

func timingOf(ttl time.Duration, leased bool) timing {
	t := timing{
		beat: ttl / 10, look: ttl / 10, gap: ttl * 3 / 10,
		fence: ttl * 7 / 10, witness: ttl * 3 / 4, tombstone: 4 * ttl,
		request: ttl / 10,
	}
	if !leased {
		t.fence, t.witness = math.MaxInt64/2, 0
	}
	return t
}

func newReplica(id string, s store.Settings, leased bool, newBirth func() string) *replica {
	return &replica{
		id: id, settings: s, leased: leased, timing: timingOf(s.TTL, leased), newBirth: newBirth,
		chunk: store.MaxEntries, expireMax: store.MaxExpire,
		lease: &lease{}, counters: map[string]*counter{}, ruleLive: map[string]int64{}, observer: newObserver(),
	}
}

// next returns the request to send now, or nil. The caller carries it out and
// calls handle with the outcome before it calls next again.
func (h *replica) next(now time.Duration) *request {
	h.checkFences(now)
	if h.busy || h.phase == left || now < h.notBefore {
		return nil
	}
	r := h.choose(now)
	if r != nil {
		h.busy = true
		switch r.op {
		case opExpire, opEndRecovery: // it may fail each time
			h.tidied = true
		case opBatch:
			h.tidied = false
		}
		r.epoch, r.acked = h.epoch, h.acked
		if r.sent == 0 {
			r.sent = now
		}
	}
	return r
}

func (h *replica) choose(now time.Duration) *request {
	if !h.connected {
		if h.phase == leaving && h.acked == (store.Token{}) {
			h.phase = left
			return nil
		}
		return &request{op: opDial}
	}
	switch h.phase {
	case detached:
		return h.makeJoin(now)
	case expiring:
		return h.makeExpire(h.observer.self)
	case mismatched:
		return h.nextMismatched(now)
	case leaving:
		return h.nextLeaving()
	default:
		return h.nextJoined(now)
	}
}

func (h *replica) nextJoined(now time.Duration) *request {
	switch {
	case h.resend != nil:
		return h.resend
	case now >= h.lookAt && h.mayLook():
		return &request{op: opObserve, watch: h.watch}
	case h.untidy() && !h.tidied:
		return h.tidy()
	case h.batchDue(now):
		return h.makeBatch(now)
	case h.untidy():
		return h.tidy()
	}
	return nil
}

// untidy reports whether the observer has found something to do about others or
// about the data. It takes turns with batches, of which there may be no end.
func (h *replica) untidy() bool {
	return h.observer.hasDead() || h.observer.ripe || len(h.observer.gone) > 0
}

func (h *replica) tidy() *request {
	if h.observer.hasDead() {
		return h.makeExpire(h.observer.nextDead())
	}
	return &request{op: opEndRecovery, mature: store.EndRecovery{
		Replica: h.id, Token: h.acked, Ready: h.observer.ripe, Gone: h.observer.gone,
	}}
}

// nextMismatched keeps observing, so that replicas with other settings that
// died do not keep us out for ever; it never matures anything.
func (h *replica) nextMismatched(now time.Duration) *request {
	switch {
	case h.observer.hasDead():
		return h.makeExpire(h.observer.nextDead())
	case now >= h.retryAt:
		return h.makeJoin(now)
	case now >= h.lookAt:
		return &request{op: opObserve}
	}
	return nil
}

// nextLeaving settles what is unknown, then gives everything back.
func (h *replica) nextLeaving() *request {
	if h.resend != nil {
		return h.resend
	}
	return h.makeExpire(store.Expire{Target: h.id, Epoch: h.acked.Epoch, Token: h.acked})
}

func (h *replica) makeExpire(r store.Expire) *request {
	r.Max = h.expireMax
	return &request{op: opExpire, expire: r}
}

// handle takes the outcome of the request under way.
func (h *replica) handle(now time.Duration, r *request, o outcome) {
	h.busy = false
	h.checkFences(now)
	if h.failed(now, r, o.err) || r.epoch != h.epoch || h.phase == left {
		return
	}
	switch r.op {
	case opDial:
		h.connected = true
	case opJoin:
		h.joined(now, r, o.join)
	case opBatch:
		h.batched(now, r, o.batch)
	case opObserve:
		h.observed(now, r, o.membership)
	case opExpire:
		h.expireDone(r, o)
	case opEndRecovery:
		h.matured(o.recovering, r.mature.Gone)
	}
}

// failed sorts errors by what is known of the outcome, and reports whether
// there was one.
func (h *replica) failed(now time.Duration, r *request, err error) bool {
	current := r.epoch == h.epoch
	switch {
	case err == nil:
		return false
	case errors.Is(err, store.ErrLost):
		if h.phase == leaving || h.phase == left {
			h.phase = left
		} else if current && (r.op == opBatch || r.expire.Target != h.id) && h.phase != mismatched {
			h.detach()
		} else if current {
			h.phase = detached
			h.observer = newObserver() // who is dead, or we ourselves, is so in data that is gone
		}
	case errors.Is(err, store.ErrStale):
		// The next join has a higher stream.
	case errors.Is(err, store.ErrBusy):
		h.notBefore = now + 20*time.Millisecond
		h.keepForResend(r, current)
	default:
		// Unknown, or not executed but to be asked elsewhere: a new connection.
		h.connected = false
		h.notBefore = now + min(h.timing.request, 100*time.Millisecond)
		h.keepForResend(r, current)
	}
	return true
}

// keepForResend keeps a batch, and only a batch, to be sent again byte for
// byte: a join whose outcome is unknown is followed by one of a new stream.
func (h *replica) keepForResend(r *request, current bool) {
	if r.op == opBatch && current {
		h.resend = r
	}
}

// checkFences ends what can no longer be relied on.
func (h *replica) checkFences(now time.Duration) {
	if !h.leased {
		return
	}
	for i := 0; i < len(h.older); i++ {
		if h.older[i].passed(now) {
			h.fencePassed(h.older[i])
			h.older = slices.Delete(h.older, i, i+1)
			i--
		}
	}
	// Also while detached: what the store told us last holds until then, and
	// no longer, however soon we are back.
	if !h.lease.ended && h.lease.passed(now) {
		h.fencePassed(h.lease)
		h.lease.ended = true
		if h.phase == live || h.phase == reclaiming {
			h.detach()
		}
	}
}

// fencePassed: others may be given our slots from now on. Strict closes the
// sessions; otherwise they live on, and nothing is refilled until the store
// says that the total is back under the maximum.
func (h *replica) fencePassed(l *lease) {
	relied := false
	for _, c := range h.counters {
		if c.lease.Load() != l {
			continue
		}
		relied = relied || c.live > 0
		if h.settings.Strict {
			h.take(c, c.live)
		} else if c.live > 0 {
			c.over = true
		}
	}
	if relied && !l.ended { // one of the older may have ended while it was current
		h.lapsed++
	}
}

// nextFence returns when checkFences has something to do next.
func (h *replica) nextFence() time.Duration {
	at := time.Duration(math.MaxInt64)
	for _, l := range append([]*lease{h.lease}, h.older...) {
		if f := time.Duration(l.fence.Load()); f > 0 && !l.ended {
			at = min(at, f)
		}
	}
	return at
}

// detach drops what is under way: the next thing to send is a join.
func (h *replica) detach() {
	h.phase = detached
	h.epoch++
	h.resend = nil
	h.claims = nil
	for _, c := range h.counters {
		c.unsure = c.unsure || c.inFlight
		c.inFlight = false
	}
	h.observer = newObserver()
}

// sorted returns the table's counters by name: the order of claims must not
// depend on the run of a map.
func (h *replica) sorted() []*counter {
	out := make([]*counter, 0, len(h.counters))
	for _, name := range slices.Sorted(maps.Keys(h.counters)) {
		out = append(out, h.counters[name])
	}
	return out
}

// leave begins the end: nobody is admitted any more.
func (h *replica) leave() {
	if h.phase == left || h.phase == leaving {
		return
	}
	joined := h.phase == live || h.phase == reclaiming
	h.phase = leaving
	for _, c := range h.counters {
		for len(c.waiters) > 0 {
			h.answer(c, answer{err: ErrClosed})
		}
	}
	h.notBefore = 0
	if !joined {
		h.phase = left // whatever the store has of us, others expire
	}
}

// abandon ends without the store's consent: others will expire what is there.
func (h *replica) abandon() { h.phase = left }
