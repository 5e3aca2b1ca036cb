package limiter

import (
	"slices"
	"time"

	"usher/store"
)

// observer decides which replicas are dead and when recovering data is ripe, by
// time that it witnessed itself: between two looks that count, at most gap
// apart, each of which showed its own replica's token. An outage, or a pause of
// its own, proves nothing about others and restarts every timer.
type observer struct {
	looked   bool
	lastLook time.Duration
	epoch    string
	since    time.Duration // when this epoch was first seen
	tokens   map[string]sighting
	tombs    map[string]time.Duration

	dead []store.Expire // to be expired
	ripe bool           // the recovering state may end
	gone []string       // tombstones that may be dropped
	self store.Expire   // what is left of our own expire
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

// look takes a membership that counts, received at now.
func (o *observer) look(now time.Duration, self string, r store.Membership, t timing) {
	if !o.looked || now-o.lastLook > t.gap || r.Epoch != o.epoch {
		*o = newObserver()
		o.epoch, o.since = r.Epoch, now
	}
	o.looked, o.lastLook = true, now
	o.ripe = r.Recovering && now-o.since >= t.witness
	o.lookAtMembers(now, self, r, t)
	o.lookAtTombstones(now, r, t)
}

func (o *observer) lookAtMembers(now time.Duration, self string, r store.Membership, t timing) {
	seen := map[string]sighting{}
	o.dead = nil
	for _, m := range r.Members {
		if m.Replica == self {
			continue
		}
		s, known := o.tokens[m.Replica]
		if !known || s.token != m.Token {
			s = sighting{m.Token, now}
		}
		seen[m.Replica] = s
		if m.State == store.MemberExpiring || now-s.since >= t.witness {
			o.dead = append(o.dead, store.Expire{Target: m.Replica, Epoch: r.Epoch, Token: m.Token})
		}
	}
	o.tokens = seen
}

func (o *observer) lookAtTombstones(now time.Duration, r store.Membership, t timing) {
	seen := map[string]time.Duration{}
	o.gone = nil
	for h := range r.Tombstones {
		since, known := o.tombs[h]
		if !known {
			since = now
		}
		seen[h] = since
		if now-since >= t.tombstone {
			o.gone = append(o.gone, h)
		}
	}
	slices.Sort(o.gone)
	o.tombs = seen
}

// observed takes a look at the membership.
func (h *replica) observed(now time.Duration, r *request, membership store.Membership) {
	h.lookAt = now + h.timing.look
	if h.phase == mismatched {
		h.membership = membership
		h.observer.look(now, h.id, membership, h.observer.under(h.timing, membership.Settings))
		h.observer.ripe = false
		if len(membership.Members) == 0 {
			h.retryAt = now
		}
		return
	}
	if showsOwn(membership, h.id, r.acked) {
		h.membership = membership
		h.setYoung(membership.Recovering)
		h.observer.look(now, h.id, membership, h.patience())
	}
}

// mayLook reports whether a look would count. A late copy of the join may have
// borne the same data again since; with a batch upon it, it would not be taken
// for the same.
func (h *replica) mayLook() bool { return !h.leased || h.acked.Seq > 0 }

// patience is our timing, but on recovering data of which we met rivals before that
// of them: they may have lost it, and live on until then.
func (h *replica) patience() timing {
	t := h.timing
	t.witness = max(t.witness, h.rivals.witness)
	return t
}

// showsOwn reports whether the membership is of our epoch and no older than what
// was acknowledged to us when we asked for it.
func showsOwn(r store.Membership, self string, acked store.Token) bool {
	for _, m := range r.Members {
		if m.Replica == self {
			return m.Token.Reaches(acked)
		}
	}
	return false
}

// under returns our timing under the longer of two TTLs.
func (*observer) under(t timing, s store.Settings) timing {
	t.witness = max(t.witness, timingOf(s.TTL, true).witness)
	return t
}

// rivals are replicas with other settings, whose data it is, since one of their
// kind kept us out. If it is lost they come back to it, and we must not be there
// first: their sessions live on up to their fence. Only when they did not come
// for so long that they are past it, it is ours to bear.
type rivals struct {
	settings store.Settings // theirs; the zero value if there are none
	away     bool
	since    time.Duration // away: when their data was missed first
	last     time.Duration // away: and last
	witness  time.Duration // how long it must be missed, and recovering data be watched
}

// mayReturn reports whether data that is lost is still theirs.
func (r *rivals) mayReturn(now time.Duration, t timing) bool {
	return r.settings != (store.Settings{}) && (!r.seenAway(now, t) || now-r.since < r.witness)
}

// gone says that their data was missed at now.
func (r *rivals) gone(now time.Duration, t timing) {
	if !r.seenAway(now, t) {
		r.away, r.since = true, now
	}
	r.last = now
}

// seenAway reports whether their data was missed until now. As with an observer,
// a gap between two looks proves nothing.
func (r *rivals) seenAway(now time.Duration, t timing) bool {
	return r.away && now-r.last <= t.gap
}

// mismatch: replicas with other settings live, or died and are not yet expired.
func (h *replica) mismatch(now time.Duration) {
	h.phase = mismatched
	h.retryAt = now + h.timing.gap
	h.lookAt = min(max(h.lookAt, now), now+h.timing.look)
	for _, c := range h.counters {
		c.inFlight = false // a join that is refused does nothing
		for len(c.waiters) > 0 {
			h.answer(c, answer{err: ErrMismatch})
		}
		h.drop(c)
	}
}

// apart reports whether others ran with other settings when the store was last
// asked.
func (h *replica) apart() bool { return h.rivals.settings != (store.Settings{}) }

// expireDone takes the answer to a expire, of another or of ourselves.
func (h *replica) expireDone(r *request, o outcome) {
	if r.expire.Target == h.id {
		switch {
		case o.expire == store.More:
			return
		case h.phase == leaving:
			h.phase = left
		default:
			h.phase = detached
		}
		return
	}
	if o.expire != store.More {
		h.observer.dead = slices.DeleteFunc(h.observer.dead, func(d store.Expire) bool { return d.Target == r.expire.Target })
		delete(h.observer.tokens, r.expire.Target)
		h.retryAt = 0 // it may have been the one that kept us out
	}
}

// matured takes the answer to a request to end the recovering state.
func (h *replica) matured(recovering bool, gone []string) {
	h.setYoung(recovering)
	h.observer.ripe = false // if it still is, the next look says so
	h.observer.gone = nil
	for _, t := range gone {
		delete(h.observer.tombs, t)
	}
}

// ripensAfter reports whether a recovering store cannot mature, as far as we can
// tell, before the deadline: waiting for it is then no use.
func (h *replica) ripensAfter(deadline time.Duration) bool {
	if !h.recovering || h.phase != live && h.phase != reclaiming {
		return false
	}
	return h.observer.looked && h.observer.since+h.patience().witness > deadline
}
