package replica

import (
	"container/heap"
	"fmt"
	"math/rand/v2"
	"time"

	"usher/store/storetest"
)

// The simulation runs several replicas against the model of the store in virtual
// time, over a network that loses, delays and doubles messages. Replicas pause,
// crash and come back; the store loses its data or goes back in time. A schedule
// follows from its seed alone. After every event the invariants are checked
// against the truth, which is the sessions themselves. Each invariant has a
// letter, which docs/guarantees.md explains.

const simTTL = time.Second

// mix says how often each fault happens. Rates are per simulated second.
type mix struct {
	name                         string
	lose, late, double           float64 // per message
	pause, crash, partition      float64
	blackout                     float64
	rare                         bool // failures are rare: sessions last longer, and there are three times as many schedules
	flush, drop, restart, goBack float64
	failBack                     float64
	rates                        bool // clients ask for limits with rates as well
	bounded                      bool // and for those whose keys are bounded
	keys                         bool // clients ask only for the keys of one rule
	pools                        bool // clients ask only for pools, see inPools
	reports                      bool // clients ask only for limits that report, and their pools, see inReports
	move                         bool // some sessions end by a move to another limit
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
	{name: "settings and losses", settings: true, crash: 0.7, flush: 0.2, failBack: 0.1},
	{name: "stops and restarts", rates: true, move: true, stop: 0.3, space: 0.5, pause: 0.3, partition: 0.2, lose: 0.05, late: 0.1, double: 0.1, restart: 0.1},
	{name: "fail-backs", failBack: 0.5, lose: 0.03, late: 0.1, double: 0.1},
	{name: "bounded keys", rates: true, bounded: true, lose: 0.1, late: 0.1, double: 0.2, pause: 0.15, crash: 0.1, drop: 0.1, goBack: 0.1},
	{name: "rates and everything", rates: true, lose: 0.1, late: 0.1, double: 0.1, pause: 0.15, crash: 0.1, partition: 0.15, flush: 0.05, drop: 0.1, restart: 0.05, goBack: 0.05},
}

// calmFirst lets the recovery of the store end before the faults start.
const calmFirst = simTTL * 3 / 2

// world is one schedule.
type world struct {
	random  *rand.Rand
	mix     mix
	strict  bool
	now     time.Duration
	events  events
	order   uint64
	trace   trace
	data    *storetest.Model
	saved   storetest.Snapshot
	rates   *ratesTruth
	corrupt bool // a part of the data was dropped: T waits for the next epoch
	epoch   string
	applied map[appliedToken]bool // tokens that took effect
	nodes   []*node
	stopped []*node       // which leave, or have left
	calm    bool          // no faults
	latency time.Duration // of a message, at most
	length  time.Duration // of sessions, twice the mean
	dark    time.Duration // when the last blackout ends
	closing bool          // no more clients come
	first   int           // of simLimits, that clients ask for
	limits  int           // how many from there
	names   int
	admits  int
	begun   [len(simLimits)]int // of admits, by limit
	fulls   int
	slowed  int                 // refused as throttled
	crowded int                 // refused because too many keys have windows
	would   [len(simLimits)]int // would have been refused, by limit
	alone   int                 // admitted by limits that only report, without the store
	lapses  int                 // leases lost
	broken  string
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
	switch {
	case m.pools:
		w.first, w.limits = withoutPools, withoutReports-withoutPools
	case m.reports:
		w.first, w.limits = withoutReports, len(simLimits)-withoutReports
	case m.bounded:
		w.limits = withoutPools
	case m.rates:
		w.limits = withoutBounds
	}
	w.data = storetest.NewModel(func() time.Duration { return w.now })
	w.restart(storetest.Snapshot{})
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

func (w *world) name(kind string) string {
	w.names++
	return fmt.Sprint(kind, w.names)
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

// runFor advances virtual time.
func (w *world) runFor(d time.Duration) {
	end := w.now + d
	for len(w.events) > 0 && w.events[0].at <= end && w.broken == "" {
		e := heap.Pop(&w.events).(event)
		w.now = e.at
		e.do()
		w.check()
		for _, n := range w.nodes {
			n.checkDue()
		}
	}
	if w.broken == "" { // else it is reported as of the moment at which it broke
		w.now = end
	}
}

// fail reports that the invariants of these letters are broken. The first failure
// counts.
func (w *world) fail(letters, format string, args ...any) {
	if w.broken == "" {
		w.broken = fmt.Sprintf("at %v: %s: ", w.now, letters) + fmt.Sprintf(format, args...)
	}
}
