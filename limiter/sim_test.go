package limiter

import (
	"container/heap"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"usher/store"
	"usher/store/memstore"
)

// The simulation runs several holders against the store's model in virtual
// time, over a network that loses, delays and doubles messages, with replicas
// that pause, crash and come back, and a store that loses its data or goes
// back in time. A schedule follows from its seed alone. After every event the
// invariants are held to the truth, which is the sessions themselves.

const simTTL = time.Second

// mix is how often what goes wrong; rates are per simulated second.
type mix struct {
	name                         string
	lose, late, double           float64 // per message
	pause, crash, partition      float64
	blackout                     float64
	rare                         bool // what breaks is rare: sessions last longer, and there are three times as many schedules
	flush, drop, restart, goBack float64
	rates                        bool // clients ask for limits with rates, too
	keys                         bool // clients ask for the keys of one rule alone
	move                         bool // what some sessions end with is a move to another limit
	stop, space                  float64
	settings                     bool // some replicas that replace crashed ones have another TTL
}

var mixes = []mix{
	{name: "calm"},
	{name: "messages", lose: 0.05, late: 0.05, double: 0.1},
	{name: "messages, many", lose: 0.15, late: 0.15, double: 0.2},
	{name: "pauses", pause: 0.7, late: 0.05},
	{name: "crashes", crash: 0.4, lose: 0.05},
	{name: "partitions", partition: 0.5, late: 0.1},
	{name: "blackouts", blackout: 0.5, late: 0.05, rare: true},
	{name: "blackouts and flushes", blackout: 0.4, flush: 0.2, late: 0.05, rare: true},
	{name: "flush", flush: 0.2, lose: 0.03, late: 0.1},
	{name: "evictions", drop: 0.2, late: 0.1},
	{name: "restarts", restart: 0.15, lose: 0.03, late: 0.1, double: 0.1},
	{name: "rollbacks", goBack: 0.15, lose: 0.05, late: 0.1, double: 0.1},
	{name: "pauses and losses", pause: 0.7, lose: 0.08, late: 0.15},
	{name: "partitions and losses", partition: 0.4, lose: 0.08, late: 0.15, double: 0.15},
	{name: "partitions and flushes", partition: 0.8, flush: 0.1, late: 0.1, rare: true},
	{name: "many joins", flush: 0.1, drop: 0.1, lose: 0.08, late: 0.25, double: 0.25},
	{name: "everything", lose: 0.04, late: 0.1, double: 0.1, pause: 0.15, crash: 0.1, partition: 0.15, flush: 0.03, drop: 0.03, restart: 0.03, goBack: 0.03},
	{name: "rates", rates: true, lose: 0.1, late: 0.1, double: 0.2},
	{name: "moves", keys: true, move: true, lose: 0.05, late: 0.05, double: 0.1, pause: 0.2},
	{name: "stops", stop: 0.6, space: 1, move: true, lose: 0.05, late: 0.1, double: 0.1, crash: 0.1, pause: 0.1},
	{name: "settings", settings: true, crash: 0.7, pause: 0.5, partition: 0.3, late: 0.05},
	{name: "rates and everything", rates: true, lose: 0.1, late: 0.1, double: 0.1, pause: 0.15, crash: 0.1, partition: 0.15, flush: 0.05, drop: 0.1, restart: 0.05, goBack: 0.05},
}

// calmFirst lets the store mature before anything goes wrong.
const calmFirst = simTTL * 3 / 2

// world is one schedule.
type world struct {
	random  *rand.Rand
	mix     mix
	strict  bool
	now     time.Duration
	events  events
	order   uint64
	data    *memstore.Store
	run     string // of data's server process
	saved   memstore.Snapshot
	rates   *ratesTruth
	corrupt bool // a part of the data was dropped: T waits for the next birth
	birth   string
	applied map[appliedToken]bool // tokens that took effect, in births of this run
	nodes   []*node
	stopped []*node       // which leave, or have left
	calm    bool          // faults are over
	latency time.Duration // of a message, at most
	length  time.Duration // of sessions, twice the mean
	closing bool          // no more clients come
	limits  int           // how many of simLimits clients ask for
	names   int
	admits  int
	begun   [len(simLimits)]int // of admits, by limit
	fulls   int
	slowed  int // refused as throttled
	fences  int
	broken  []string
}

// node is a replica.
type node struct {
	w        *world
	h        *holder
	ttl      time.Duration
	rate     float64 // of its clock
	offset   time.Duration
	dead     bool
	paused   time.Duration // until
	cut      time.Duration // from the store, until
	conn     uint64        // connections before it are closed
	severed  bool          // the server process at the other end is gone
	stopping bool
	sessions []*simSession
	waiting  []*simWaiter
	restsTo  time.Duration // the driver sleeps until then, by the node's clock; 0: it does not sleep
	rest     int           // number of that sleep
	missed   bool          // it found a request under way, and waits to be roused
	every    time.Duration // between clients, twice the mean
	asked    int
	admitted int
}

type appliedToken struct {
	holder string
	token  store.Token
}

type simSession struct {
	slot    *slot
	limit   int  // index in simLimits
	excused bool // its holder was cut off at some time: keep lets it live
}

type simWaiter struct {
	w     *waiter
	limit int
}

type event struct {
	at    time.Duration
	order uint64
	do    func()
}

type events []event

func (e events) Len() int { return len(e) }
func (e events) Less(i, j int) bool {
	return e[i].at < e[j].at || e[i].at == e[j].at && e[i].order < e[j].order
}
func (e events) Swap(i, j int) { e[i], e[j] = e[j], e[i] }
func (e *events) Push(x any)   { *e = append(*e, x.(event)) }
func (e *events) Pop() any {
	old := *e
	last := old[len(old)-1]
	*e = old[:len(old)-1]
	return last
}

func newWorld(seed uint64, m mix, strict bool) *world {
	w := &world{random: rand.New(rand.NewPCG(seed, 1)), mix: m, strict: strict, limits: withoutRates, rates: newRatesTruth(), length: 2 * simTTL, latency: simTTL / 50, applied: map[appliedToken]bool{}}
	if m.rates {
		w.limits = len(simLimits)
	}
	w.data = memstore.NewOn(func() time.Duration { return w.now })
	w.restart(memstore.Snapshot{})
	for range 3 {
		w.nodes = append(w.nodes, w.newNode())
	}
	if m.rare {
		w.length *= 3
	}
	w.calm = true
	w.every(simTTL/2, func() {
		w.saved = w.data.Snapshot()
		w.rates.save()
	})
	w.after(calmFirst, w.storm)
	return w
}

// storm begins the faults.
func (w *world) storm() {
	w.calm = false
	m := w.mix
	w.fault(m.pause, w.pause)
	w.fault(m.crash, w.crash)
	w.fault(m.partition, w.partition)
	w.fault(m.blackout, w.blackout)
	w.fault(m.flush, w.flush)
	w.fault(m.drop, w.drop)
	w.fault(m.stop, w.stop)
	w.fault(m.space, w.space)
	w.fault(m.restart, func() {
		w.restart(memstore.Snapshot{})
		w.rates.forget()
	})
	w.fault(m.goBack, func() {
		w.restart(w.saved)
		w.rates.goBack()
	})
}

func (w *world) name(kind string) string {
	w.names++
	return fmt.Sprint(kind, w.names)
}

func (w *world) newNode() *node {
	s := store.Settings{Protocol: protocol, TTL: simTTL, Strict: w.strict, Shards: 1}
	if w.mix.settings && !w.calm && w.chance(0.5) {
		s.TTL *= 2
	}
	n := &node{w: w, ttl: s.TTL, rate: 0.975 + w.random.Float64()*0.05, every: simTTL / 8}
	n.offset = -w.now
	n.h = newHolder(w.name("h"), s, true, func() string { return w.name("b") })
	n.h.space = "c1aaaa"
	n.h.chunk, n.h.reapMost = 1+w.random.IntN(2), 1
	w.after(w.upTo(simTTL/10), n.rouse)
	w.after(w.upTo(simTTL), n.arrive)
	return n
}

// clock is the node's own: it started with it and runs a little fast or slow.
func (n *node) clock() time.Duration {
	return time.Duration(float64(n.w.now+n.offset)*n.rate) + 1
}

func (w *world) upTo(d time.Duration) time.Duration {
	return time.Duration(w.random.Int64N(int64(d)) + 1)
}
func (w *world) chance(p float64) bool { return w.random.Float64() < p }

func (w *world) after(d time.Duration, do func()) {
	w.order++
	heap.Push(&w.events, event{w.now + d, w.order, do})
}

func (w *world) every(d time.Duration, do func()) {
	w.after(d, func() { do(); w.every(d, do) })
}

// fault does something at random moments, until the world is calm.
func (w *world) fault(perSecond float64, do func()) {
	if perSecond == 0 || w.calm {
		return
	}
	pause := time.Duration(w.random.ExpFloat64() / perSecond * float64(time.Second))
	w.after(pause, func() {
		if !w.calm {
			do()
			w.fault(perSecond, do)
		}
	})
}

func (w *world) anyone() *node { return w.nodes[w.random.IntN(len(w.nodes))] }

func (w *world) pause() {
	n := w.anyone()
	n.paused = w.now + w.outage(4*simTTL)
	w.after(n.paused-w.now, n.rouse)
}

// outage is how long a node is away: often just about as long as it takes to
// be given up, where the races are.
func (w *world) outage(most time.Duration) time.Duration {
	if w.chance(0.5) {
		return simTTL*6/10 + w.upTo(simTTL/2)
	}
	return w.upTo(most)
}

// partition cuts some nodes off. If the store loses its data at all, it often
// does so when one comes back: with who was cut off there first.
func (w *world) partition() {
	for _, n := range w.nodes {
		if w.chance(0.5) {
			n.cut = w.now + w.outage(3*simTTL)
			if w.chance(5 * w.mix.flush) {
				w.after(n.cut-w.now+w.upTo(simTTL*3/10), w.flush)
			}
		}
	}
}

// blackout cuts all nodes off for the same time: an outage that all see, which
// must leave no session too many even where they live on.
func (w *world) blackout() {
	if w.chance(5 * w.mix.flush) {
		w.flush() // some are back on the new data when it begins
	}
	w.after(w.upTo(simTTL/5), func() {
		until := w.now + w.outage(2*simTTL)
		for _, n := range w.nodes {
			n.cut = until
		}
	})
}

func (w *world) flush() {
	if !w.calm {
		w.data.Flush()
		w.rates.forget()
		w.forgetBirth()
	}
}

func (w *world) crash() {
	w.kill(w.random.IntN(len(w.nodes)))
}

func (w *world) kill(i int) {
	w.nodes[i].dead = true
	w.nodes[i] = w.newNode()
}

// stop ends a replica in good order: its sessions first, then what it has.
func (w *world) stop() {
	i := w.random.IntN(len(w.nodes))
	n := w.nodes[i]
	if w.now < n.paused {
		return
	}
	w.nodes[i] = w.newNode()
	w.stopped = append(w.stopped, n)
	n.stopping = true
	for _, s := range n.sessions {
		n.h.release(n.clock(), s.slot)
	}
	n.h.leave()
	n.rouse()
}

// space gives a replica new rules.
func (w *world) space() {
	n := w.anyone()
	n.h.space = fmt.Sprint("c1space", w.random.IntN(3))
	n.rouse()
}

func (w *world) drop() {
	keys := []string{"m", "t"}
	for _, n := range w.nodes {
		keys = append(keys, "r:"+n.h.id)
	}
	w.data.Drop(keys[w.random.IntN(len(keys))])
	w.corrupt = true
}

func (w *world) restart(from memstore.Snapshot) {
	w.data.Restart(from)
	c, _ := w.data.Dial(context.Background(), 0)
	w.run = c.RunID()
	for _, n := range slices.Concat(w.nodes, w.stopped) {
		n.severed = true
	}
	w.forgetBirth()
}

// forgetBirth: what took effect in data that is gone may do so again; nobody
// builds on it, for a birth is bound to the server process that bore it.
func (w *world) forgetBirth() {
	w.corrupt = true
	clear(w.applied)
}

// runFor lets virtual time pass.
func (w *world) runFor(d time.Duration) {
	end := w.now + d
	for len(w.events) > 0 && w.events[0].at <= end && len(w.broken) == 0 {
		e := heap.Pop(&w.events).(event)
		w.now = e.at
		e.do()
		w.check()
		for _, n := range w.nodes {
			n.checkDue()
		}
	}
	w.now = end
}

func (w *world) fail(format string, args ...any) {
	w.broken = append(w.broken, fmt.Sprintf("at %v: ", w.now)+fmt.Sprintf(format, args...))
}

// rouse is the goroutine of the node's shard: it sends what is due, and then
// sleeps for as long as the holder says. What the holder forgets to be woken
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
	pause, rest := 2*n.h.timing.request, n.rest
	if n.missed = n.h.busy; !n.missed {
		n.restsTo = n.h.wakeAt()
		pause = n.restsTo - n.clock()
		if pause <= 0 {
			n.w.fail("%s in phase %d is never at rest", n.h.id, n.h.phase)
		}
	}
	n.w.after(time.Duration(float64(pause)/n.rate)+1, func() {
		if n.rest == rest {
			n.rouse()
		}
	})
}

// rouseIfDue is what everybody else does who changed something.
func (n *node) rouseIfDue() {
	if n.missed || n.h.wantsMore() || n.h.wakeAt() < n.restsTo {
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
	if !n.h.busy {
		n.rouse()
	}
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
				answer(outcome{run: w.run})
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
		o.roster, o.err = c.Observe(ctx, r.watch)
	case opReap:
		o.reap, o.err = c.Reap(ctx, r.reap)
	case opMature:
		o.young, o.err = c.Mature(ctx, r.mature)
	}
	w.checkSums()
	return o
}

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
	{Rule: "c1aaaa/s4", Max: store.NoLimit, Throttle: simRate(3), Key: "x", KeyMax: store.NoLimit, KeyThrottle: simRate(2)},
	{Rule: "c1aaaa/s4", Max: store.NoLimit, Throttle: simRate(3), Key: "y", KeyMax: store.NoLimit, KeyThrottle: simRate(2)},
	{Rule: "c1aaaa/s5", Max: 2, Key: "x", KeyMax: store.NoLimit, KeyThrottle: simRate(2)},
}

// simRule is the place of the rule of each, and withoutRates how many of the
// first have no rate.
var simRule = [len(simLimits)]int{0, 1, 1, 2, 3, 3, 4}

const withoutRates = 3

func simRate(n int64) Rate { return Rate{N: n, Per: simTTL / 2} }

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
		s.excused = s.excused || s.slot.counter.lease.Load().passed(n.clock())
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

// check holds the sessions to the limits: L where strict, K otherwise.
func (w *world) check() {
	var count, ofRule [len(simLimits)]int64
	for _, n := range w.nodes {
		if !w.strict && w.mix.blackout == 0 && (w.now < n.paused || w.now < n.cut) {
			continue // cut off, or about to find out that it was
		}
		for _, s := range n.sessions {
			if w.strict && s.excused && n.mayRelay(s) {
				w.fail("L: a session of %s relays again after its fence", n.h.id)
			}
			if n.mayRelay(s) && (w.strict || !s.excused || w.mix.blackout > 0) {
				count[s.limit]++
				ofRule[simRule[s.limit]]++
			}
		}
	}
	for i, l := range simLimits {
		if l.Key != "" && l.KeyMax != store.NoLimit && count[i] > l.KeyMax {
			w.fail("L/K: %d sessions of key %s of %s, limit %d", count[i], l.Key, l.Rule, l.KeyMax)
		}
		if n := ofRule[simRule[i]]; l.Max != store.NoLimit && n > l.Max {
			w.fail("L/K: %d sessions of %s, limit %d", n, l.Rule, l.Max)
		}
	}
}

// checkSums: T, unless a part of the data is missing: then until the next birth.
func (w *world) checkSums() {
	birth, err := w.data.Audit()
	if birth != w.birth {
		w.birth, w.corrupt = birth, false
	}
	if err != nil && !w.corrupt {
		w.fail("T: %v", err)
	}
}

// checkYoung: R.
func (w *world) checkYoung(r *request, o outcome, had map[string]int64) {
	for i, e := range r.batch.Entries {
		if is := o.batch.Counts[i].Own; o.batch.Young && is > max(had[e.Counter], e.Live) {
			w.fail("R: a young store gave %d of %s to who had %d and %d live", is, e.Counter, had[e.Counter], e.Live)
		}
	}
}

// checkOwn: C. What the holder believes is what the store has, as long as it
// has what the holder last acknowledged.
func (n *node) checkOwn() {
	h := n.h
	token, own := n.w.data.Ledger(h.id)
	if h.phase != live || token != h.acked {
		return
	}
	for name, c := range h.counters {
		if own[name] != c.own && !c.inFlight {
			n.w.fail("C: %s believes in %d of %s, the store has %d", h.id, c.own, name, own[name])
		}
		delete(own, name)
	}
	for name, k := range own {
		n.w.fail("C: %s knows nothing of %s, the store has %d", h.id, name, k)
	}
}

// checkDue: what is to be told, as a slot that is free, is on its way, or waits
// for a request that is: nothing is left to the next heartbeat by oversight.
func (n *node) checkDue() {
	h, since := n.h, n.clock()-simTTL/1000
	if n.dead || n.w.now <= n.paused || !h.connected || h.phase != live || h.busy || h.notBefore > since {
		return
	}
	if h.batchDue(since) {
		n.w.fail("F: %s has something to say, and nobody sends it", h.id)
	}
}

// checkRefusals: E. Who is refused as full was in a batch whose reply says so.
func (n *node) checkRefusals(o outcome) {
	n.waiting = slices.DeleteFunc(n.waiting, func(sw *simWaiter) bool {
		select {
		case a := <-sw.w.done:
			if a.slot != nil {
				n.begin(a.slot, sw.limit)
			} else if errors.Is(a.err, ErrFull) {
				n.w.fulls++
				if l := simLimits[sw.limit]; !saidFull(l, o) {
					n.w.fail("E: %s refused as full without the store's word", l.entry().Counter)
				}
			} else if errors.Is(a.err, ErrThrottled) {
				n.w.slowed++
				if !saidThrottled(o) {
					n.w.fail("E: %s refused as throttled without the store's word", simLimits[sw.limit].Rule)
				}
			}
			return true
		default:
			return false
		}
	})
}

func saidFull(l Limit, o outcome) bool {
	return slices.ContainsFunc(append(o.batch.Counts, o.join.Counts...), func(k store.Count) bool { return full(l.entry(), k) })
}

func saidThrottled(o outcome) bool {
	return slices.ContainsFunc(o.batch.Counts, func(k store.Count) bool { return k.Throttled || k.RuleThrottled })
}

// quiet ends the faults and the clients, and checks what must then be so: F.
func (w *world) quiet() {
	w.calm, w.closing = true, true
	for i, n := range w.nodes {
		if n.ttl != simTTL {
			w.kill(i)
		}
		w.nodes[i].h.space = "c1aaaa"
		w.nodes[i].rouse()
	}
	w.runFor(8 * simTTL)
	if len(w.broken) > 0 {
		return
	}
	d := w.data.Dump()
	for c, k := range d["t"] {
		if strings.HasPrefix(c, "c1") {
			w.fail("F: %s is still %s after all have ended", c, k)
		}
	}
	if d["m"]["young"] != "" {
		w.fail("F: the store is still young")
	}
	members, spaces := 0, 0
	for field := range d["m"] {
		if strings.HasPrefix(field, "#") {
			spaces++
		}
		if strings.HasPrefix(field, "@") {
			members++
		}
	}
	if spaces != 1 {
		w.fail("F: %d spaces have numbers, all replicas are on one", spaces)
	}
	if members != len(w.nodes) {
		w.fail("F: %d members on the roster, %d replicas live", members, len(w.nodes))
	}
	for _, n := range w.nodes {
		if n.h.phase != live || len(n.h.counters) > 0 {
			w.fail("F: %s in phase %d holds %d counters", n.h.id, n.h.phase, len(n.h.counters))
		}
	}
}
