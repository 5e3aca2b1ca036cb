package limiter

import (
	"context"
	"errors"
	"time"

	"usher/store"
)

// node is a replica.
type node struct {
	w        *world
	h        *replica
	ttl      time.Duration
	rate     float64 // of its clock
	offset   time.Duration
	dead     bool
	paused   time.Duration // until
	cut      time.Duration // from the store, until
	conn     uint64        // connections before it are closed
	severed  bool          // its connection leads to a server process that is gone
	stopping bool
	sessions []*simSession
	waiting  []*simWaiter
	restsTo  time.Duration // the driver sleeps until then, by the node's clock; 0: it does not sleep
	rest     int           // number of that sleep
	every    time.Duration // between clients, twice the mean
	asked    int
	admitted int
}

type simSession struct {
	slot    *slot
	limit   int  // index in simLimits
	excused bool // its replica was cut off at some time: keep lets it live
	// After a blackout: when others may have witnessed that its replica is silent.
	witnessed time.Duration
}

type simWaiter struct {
	w     *waiter
	limit int
}

func (w *world) newNode() *node {
	s := store.Settings{Protocol: protocol, TTL: simTTL, Strict: w.strict, Shards: 1}
	if w.mix.settings && !w.calm && w.chance(0.5) {
		s.TTL *= 2
	}
	n := &node{w: w, ttl: s.TTL, rate: 0.975 + w.random.Float64()*0.05, every: simTTL / 8}
	n.offset = -w.now
	n.h = newReplica(w.name("h"), s, true, func() string { return w.name("b") })
	n.h.space = "c1aaaa"
	n.h.chunk, n.h.expireMax = 1+w.random.IntN(2), 1
	w.after(w.upTo(simTTL/10), n.rouse)
	w.after(w.upTo(simTTL), n.arrive)
	return n
}

// clock is the node's own: it started with it and runs a little fast or slow.
func (n *node) clock() time.Duration {
	return time.Duration(float64(n.w.now+n.offset)*n.rate) + 1
}

// rouse is the goroutine of the node's shard: it sends what is due, and then
// sleeps for as long as the replica says. What the replica forgets to be woken
// for is not done.
func (n *node) rouse() {
	if n.dead || n.w.now < n.paused {
		return
	}
	n.rest++
	n.restsTo = 0
	n.settleSessions()
	r := n.h.next(n.clock())
	n.settleSessions()
	if r != nil {
		n.send(r, false)
		return
	}
	if n.dead = n.h.phase == left; n.dead {
		return
	}
	n.restsTo = n.h.restUntil(n.clock())
	pause, rest := n.restsTo-n.clock(), n.rest
	if pause <= 0 {
		n.w.fail("%s in phase %d is never at rest", n.h.id, n.h.phase)
	}
	n.w.after(time.Duration(float64(pause)/n.rate)+1, func() {
		if n.rest == rest {
			n.rouse()
		}
	})
}

// rouseIfDue is what everybody else does who changed something.
func (n *node) rouseIfDue() {
	if n.h.rouses(n.restsTo) {
		n.rouse()
	}
}

// call is what a client does that waits for an answer: it sends the batch if
// that is next, and leaves everything else to the goroutine.
func (n *node) call() {
	if now := n.clock(); n.h.batchNext(now) {
		if r := n.h.next(now); r != nil {
			n.send(r, true)
			return
		}
	}
	n.rouseIfDue()
}

// send gives a request to the network; called says that a client sent it.
func (n *node) send(r *request, called bool) {
	w, conn, answered := n.w, n.conn, false
	answer := func(o outcome) {
		if answered || n.dead {
			return
		}
		answered = true
		if n.w.now < n.paused { // it is read after the pause
			w.after(n.paused-w.now, func() { n.handle(r, o, called) })
			return
		}
		n.handle(r, o, called)
	}
	timeout := simTTL / 10
	w.after(timeout, func() {
		if !answered {
			n.conn++
			answer(outcome{err: errors.New("timeout")})
		}
	})
	if r.op == opDial {
		w.after(w.upTo(w.latency), func() {
			if n.w.now >= n.cut {
				n.conn++
				n.severed = false
				answer(outcome{})
			}
		})
		return
	}
	deliver := func(reply bool) {
		if n.w.now < n.cut && !w.calm {
			return
		}
		o := w.execute(n, r)
		if reply && conn == n.conn && !n.severed && (w.calm || !w.chance(w.mix.lose/2)) {
			w.after(w.upTo(w.latency), func() {
				if n.w.now >= n.cut {
					answer(o)
				}
			})
		}
	}
	if !w.calm && w.chance(w.mix.double) {
		w.after(w.upTo(3*simTTL), func() { deliver(false) })
	}
	switch {
	case !w.calm && w.chance(w.mix.lose/2):
	case !w.calm && w.chance(w.mix.late):
		w.after(w.upTo(3*simTTL), func() { deliver(false) })
	default:
		// A restart between sending and arrival breaks the connection.
		w.after(w.upTo(w.latency), func() {
			if conn == n.conn && !n.severed {
				deliver(true)
			}
		})
	}
}

func (n *node) handle(r *request, o outcome, called bool) {
	if n.dead {
		return
	}
	n.settleSessions()
	wasLive := n.h.phase == live || n.h.phase == reclaiming
	n.h.handle(n.clock(), r, o)
	n.checkRefusals(o)
	n.settleSessions()
	if wasLive && n.h.phase == detached {
		n.w.fences++
	}
	n.checkOwn()
	n.checkLeft(r, o)
	if called {
		n.rouseIfDue()
	} else {
		n.rouse()
	}
}

// execute is the store.
func (w *world) execute(n *node, r *request) (o outcome) {
	ctx := context.Background()
	c, _ := w.data.Dial(ctx, 0)
	switch r.op {
	case opJoin:
		o.join, o.err = c.Join(ctx, r.join)
	case opBatch:
		before, had := w.data.Ledger(n.h.id)
		totals := w.totals()
		o.batch, o.err = c.Batch(ctx, r.batch)
		if o.err == nil && before != r.batch.New {
			if w.applied[appliedToken{n.h.id, r.batch.New}] {
				w.fail("S: batch %s of %s took effect twice", r.batch.New, n.h.id)
			}
			w.applied[appliedToken{n.h.id, r.batch.New}] = true
			w.checkYoung(r, o, had)
			w.checkShares(r.batch, o.batch, had, totals)
			w.countRates(r.batch, o.batch)
		}
		w.checkWindows()
	case opObserve:
		o.membership, o.err = c.Observe(ctx, r.watch)
	case opExpire:
		o.expire, o.err = c.Expire(ctx, r.expire)
	case opEndRecovery:
		o.recovering, o.err = c.EndRecovery(ctx, r.mature)
	}
	w.checkSums()
	return o
}
