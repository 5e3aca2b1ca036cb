package replica

import (
	"context"
	"time"

	"usher/store"
)

// node is a replica.
type node struct {
	w        *world
	m        *Machine
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
	mayBegin map[string]int64 // sessions of pools, by the reply that is being handled
	judged   map[*Slot]bool   // those that wait to be counted, see checkReported
	sleepsTo time.Duration    // the driver sleeps until then, by the node's clock; 0: it does not sleep
	sleep    int              // number of that sleep
	every    time.Duration    // between clients, twice the mean
	asked    int
	admitted int
}

type simSession struct {
	slot    *Slot
	limit   int  // index in simLimits
	excused bool // its replica was cut off at some time: in keep mode it may live on
	// After a blackout: when others may have witnessed that its replica is silent.
	witnessed time.Duration
}

type simWaiter struct {
	w        *Waiter
	limit    int
	answered bool
	slot     *Slot
	err      error
}

func (w *world) newNode() *node {
	s := store.Settings{Protocol: 1, TTL: simTTL, Strict: w.strict, Shards: 1}
	if w.mix.settings && !w.calm && w.chance(0.5) {
		s.TTL *= 2
	}
	n := &node{w: w, ttl: s.TTL, rate: 0.975 + w.random.Float64()*0.05, every: simTTL / 8, judged: map[*Slot]bool{}}
	n.offset = -w.now
	n.m = New(w.name("h"), s, true, func() string { return w.name("b") })
	n.m.SetSpace("c1aaaa", nil)
	n.m.chunk, n.m.expireMax = 1+w.random.IntN(2), 1
	n.does("starts with TTL", n.ttl)
	w.after(w.upTo(simTTL/10), n.wake)
	w.after(w.upTo(simTTL), n.arrive)
	return n
}

// clock is the node's own clock. It starts with the node and runs a little fast or
// slow.
func (n *node) clock() time.Duration {
	return time.Duration(float64(n.w.now+n.offset)*n.rate) + 1
}

// wake is the goroutine of the node's shard: it sends what is due, and then sleeps for
// as long as the machine says. If the machine forgets to wake it for something, this is
// never sent.
func (n *node) wake() {
	if n.dead || n.w.now < n.paused {
		return
	}
	n.sleep++
	n.sleepsTo = 0
	n.settleSessions()
	r := n.m.Next(n.clock())
	n.settleSessions()
	if r != nil {
		n.send(r, false)
		return
	}
	if n.dead = n.m.Left(); n.dead {
		n.does("has left", nil)
		return
	}
	n.sleepsTo = n.m.SleepUntil(n.clock())
	pause, sleep := n.sleepsTo-n.clock(), n.sleep
	if pause <= 0 {
		n.w.fail("W", "%s is %v and never sleeps", n.m.id, n.m.phase)
	}
	n.w.after(time.Duration(float64(pause)/n.rate)+1, func() {
		if n.sleep == sleep {
			n.wake()
		}
	})
}

// wakeIfDue is called by everybody else after a change.
func (n *node) wakeIfDue() {
	if n.m.NeedsWake(n.sleepsTo) {
		n.wake()
	}
}

// call is a client that waits for an answer: it sends the batch if that is next, and
// leaves everything else to the goroutine.
func (n *node) call() {
	if now := n.clock(); n.m.BatchNext(now) {
		if r := n.m.Next(now); r != nil {
			n.send(r, true)
			return
		}
	}
	n.wakeIfDue()
}

// send passes a request to the network. called means that a client sent it.
func (n *node) send(r *Request, called bool) {
	w, conn, answered := n.w, n.conn, false
	w.note(traced{who: n.m.id, phase: n.m.phase, what: "sends", request: r})
	answer := func(o *Outcome) {
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
			answer(&Outcome{Err: errTimeout})
		}
	})
	if r.Op == Dial {
		w.after(w.upTo(w.latency), func() {
			if n.w.now >= n.cut {
				n.conn++
				n.severed = false
				answer(&Outcome{})
			}
		})
		return
	}
	deliver := func(reply bool) {
		if n.w.now < n.cut && !w.calm {
			return
		}
		o := w.execute(n, r)
		w.note(traced{who: "store", what: "answers " + n.m.id, request: r, outcome: o})
		if reply && conn == n.conn && !n.severed && (w.calm || !w.chance(w.mix.lose/2)) {
			w.after(w.upTo(w.latency), func() {
				if n.w.now >= n.cut {
					answer(o)
				}
			})
		}
	}
	if !w.calm && w.chance(w.mix.double) {
		w.happens("a copy of the request will come late", nil)
		w.after(w.upTo(3*simTTL), func() { deliver(false) })
	}
	switch {
	case !w.calm && w.chance(w.mix.lose/2):
		w.happens("the request is lost", nil)
	case !w.calm && w.chance(w.mix.late):
		w.happens("the request will come late", nil)
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

func (n *node) handle(r *Request, o *Outcome, called bool) {
	if n.dead {
		return
	}
	n.settleSessions()
	wasJoined := n.m.joined()
	n.mayBegin = admittedToPools(r, o)
	n.m.Handle(n.clock(), r, *o)
	n.w.note(traced{who: n.m.id, phase: n.m.phase, what: "handles", request: r, outcome: o})
	n.checkReported(r, o)
	n.checkRefusals(o)
	n.settleSessions()
	n.mayBegin = nil
	if wasJoined && n.m.phase == detached {
		n.w.lapses++
	}
	n.checkGranted()
	n.checkLeft(r, o)
	if called {
		n.wakeIfDue()
	} else {
		n.wake()
	}
}

// execute runs a request in the store.
func (w *world) execute(n *node, r *Request) *Outcome {
	ctx := context.Background()
	c, _ := w.data.Dial(ctx, 0)
	o := &Outcome{}
	switch r.Op {
	case Join:
		o.Join, o.Err = c.Join(ctx, r.Join)
		w.checkClaims(r.Join.Entries, o.Join.Counts)
	case Batch:
		before, had := w.data.Ledger(n.m.id)
		totals := w.totals()
		o.Batch, o.Err = c.Batch(ctx, r.Batch)
		if o.Err == nil {
			w.shortenWindows(r.Batch)
		}
		if o.Err == nil && before != r.Batch.New {
			if w.applied[appliedToken{n.m.id, r.Batch.New}] {
				w.fail("S", "batch %s of %s took effect twice", r.Batch.New, n.m.id)
			}
			w.applied[appliedToken{n.m.id, r.Batch.New}] = true
			w.checkRecovering(r, o, had)
			w.checkShares(r.Batch, o.Batch, had, totals)
			w.countRates(r.Batch, o.Batch)
			w.checkNumbers(r, o)
		}
		w.checkWindows()
	case Observe:
		o.Members, o.Err = c.Observe(ctx, r.Watch)
	case Expire:
		o.Expire, o.Err = c.Expire(ctx, r.Expire)
	case EndRecovery:
		o.Recovering, o.Err = c.EndRecovery(ctx, r.EndRecovery)
	}
	w.checkSums()
	return o
}
