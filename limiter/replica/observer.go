package replica

import (
	"slices"
	"time"

	"usher/store"
)

// observer decides which replicas are dead and when a recovery may end. It counts
// only time that it has witnessed itself: the time between two looks that are at
// most gap apart, and each of which showed the token of its own replica. After an
// outage or a pause it knows nothing about the others, and restarts every timer.
type observer struct {
	looked   bool
	lastLook time.Duration
	epoch    string
	since    time.Duration // when it first saw this epoch
	tokens   map[string]sighting
	tombs    map[string]time.Duration

	dead  []store.Expire // replicas to expire
	ready bool           // the recovery may end
	gone  []string       // tombstones that may be dropped
	self  store.Expire   // what is left of expiring ourselves
}

type sighting struct {
	token store.Token
	since time.Duration
}

func newObserver() observer {
	return observer{tokens: map[string]sighting{}, tombs: map[string]time.Duration{}}
}

func (o *observer) hasDead() bool { return len(o.dead) > 0 }

func (o *observer) nextDead() store.Expire { return o.dead[0] }

// look evaluates a view of the members, received at now. It is for views that
// count, see showsSelf.
func (o *observer) look(now time.Duration, self string, v store.Membership, t timing) {
	if !o.looked ||
		now-o.lastLook > t.gap || //mutate:no-gap-rule
		v.Epoch != o.epoch {
		*o = newObserver()
		o.epoch, o.since = v.Epoch, now
	}
	o.looked, o.lastLook = true, now
	o.ready = v.Recovering && now-o.since >= t.witness
	o.lookAtMembers(now, self, v, t)
	o.lookAtTombstones(now, v, t)
}

func (o *observer) lookAtMembers(now time.Duration, self string, v store.Membership, t timing) {
	seen := map[string]sighting{}
	o.dead = nil
	for _, m := range v.Members {
		if m.Replica == self {
			continue
		}
		s, known := o.tokens[m.Replica]
		if !known || s.token != m.Token {
			s = sighting{m.Token, now}
		}
		seen[m.Replica] = s
		if m.State == store.MemberExpiring || now-s.since >= t.witness {
			o.dead = append(o.dead, store.Expire{Target: m.Replica, Epoch: v.Epoch, Token: m.Token})
		}
	}
	o.tokens = seen
}

func (o *observer) lookAtTombstones(now time.Duration, v store.Membership, t timing) {
	seen := map[string]time.Duration{}
	o.gone = nil
	for replica := range v.Tombstones {
		since, known := o.tombs[replica]
		if !known {
			since = now
		}
		seen[replica] = since
		if now-since >= t.tombstone { //mutate:tombstones-are-dropped-early
			o.gone = append(o.gone, replica) //mutate:tombstones-are-never-dropped
		}
	}
	slices.Sort(o.gone)
	o.tombs = seen
}

// others is what this replica knows about the store and the other replicas.
type others struct {
	observer   observer
	members    store.Membership // as last seen
	lookAt     time.Duration    // when the next look at the members is due
	tidied     bool             // an expire or the end of a recovery was sent since the last batch
	recovering bool
	wasReady   bool // this replica was joined, and the store ready, at least once

	conflict conflict
	retryAt  time.Duration // mismatched: when to try to join again
}

// untidy reports whether the observer has found something to clean up: a dead replica,
// a recovery that is over, or tombstones.
func (o *others) untidy() bool {
	return o.observer.hasDead() || o.observer.ready || len(o.observer.gone) > 0
}

// tookTurn lets batches and cleaning up take turns, because each of them may keep the
// connection busy for ever.
func (o *others) tookTurn(op Operation) {
	switch op {
	case Expire, EndRecovery:
		o.tidied = true
	case Batch: //mutate:tidying-before-all-else
		o.tidied = false //mutate:batches-before-all-else
	}
}

// mayLook reports whether a look would count. Until a batch was acknowledged, a
// late copy of our join may have created the same epoch a second time, and the
// two could not be told apart.
func (m *Machine) mayLook() bool { return !m.leased || m.stream.acked.Seq > 0 } //mutate:an-epoch-is-proved-by-its-join

// handleObserve handles a view of the members.
func (m *Machine) handleObserve(now time.Duration, r *Request, v store.Membership) {
	o := &m.others
	o.lookAt = now + m.timing.look
	if m.phase == mismatched {
		o.members = v
		o.observer.look(now, m.id, v, m.timing.withLongerWitness(v.Settings))
		o.observer.ready = false
		if len(v.Members) == 0 {
			o.retryAt = now
		}
		return
	}
	if showsSelf(v, m.id, r.acked) {
		o.members = v
		m.setRecovering(v.Recovering)
		m.sawTotals(now, v.Totals)
		o.observer.look(now, m.id, v, m.witnessTiming())
	}
}

// showsSelf reports whether the view is of our epoch and no older than what was
// acknowledged to us when we asked for it.
func showsSelf(v store.Membership, self string, acked store.Token) bool {
	for _, m := range v.Members {
		if m.Replica == self {
			return m.Token.Reaches(acked)
		}
	}
	return false
}

// handleExpire handles the answer to expiring another replica, or ourselves.
func (m *Machine) handleExpire(r *Request, reply store.ExpireReply) {
	if r.Expire.Target == m.id {
		switch {
		case reply == store.More:
			return
		case m.phase == leaving:
			m.phase = left
		default:
			m.phase = detached
		}
		return
	}
	if reply != store.More {
		o := &m.others.observer
		o.dead = slices.DeleteFunc(o.dead, func(d store.Expire) bool { return d.Target == r.Expire.Target })
		delete(o.tokens, r.Expire.Target)
		m.others.retryAt = 0 // it may have been the one that kept us out
	}
}

// handleEndRecovery handles the answer to a request to end the recovery.
func (m *Machine) handleEndRecovery(recovering bool, gone []string) {
	m.setRecovering(recovering)
	o := &m.others.observer
	o.ready = false // the next look says so again if need be
	o.gone = nil
	for _, t := range gone {
		delete(o.tombs, t)
	}
}

func (m *Machine) setRecovering(recovering bool) {
	o := &m.others
	if o.recovering && !recovering {
		m.queues.sendHeartbeats()
	}
	if o.recovering = recovering; !recovering {
		o.conflict.witness = 0
	}
	o.wasReady = o.wasReady || !recovering && m.phase == live
}

// recoversAfter reports whether, as far as we know, the recovery ends after the
// deadline. A session with this deadline need not wait for it.
func (m *Machine) recoversAfter(deadline time.Duration) bool {
	o := &m.others
	return o.recovering && m.joined() && o.observer.looked && o.observer.since+m.witnessTiming().witness > deadline
}
