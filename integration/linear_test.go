package integration

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"

	"usher/store"
)

// recorder records a history of steps on several limits.
type recorder struct {
	begin time.Time
	max   func(limit, replica int) int // that a replica asks with

	mu   sync.Mutex
	done []porcupine.Operation
	open []porcupine.Operation // that end when it is known that they have happened
}

func (h *recorder) now() int64 { return time.Since(h.begin).Nanoseconds() }

// add records a step that began at call and is over.
func (h *recorder) add(limit, max int, s step, counted int, call int64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.done = append(h.done, h.operation(limit, max, s, counted, call))
}

// later records a step that takes effect at an unknown time after call.
func (h *recorder) later(limit, max int, s step, call int64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.open = append(h.open, h.operation(limit, max, s, 0, call))
}

func (h *recorder) operation(limit, max int, s step, counted int, call int64) porcupine.Operation {
	return porcupine.Operation{
		ClientId: len(h.done) + len(h.open), Input: act{limit, max, s, counted}, Call: call, Return: h.now(),
	}
}

func (h *recorder) anybodyUnanswered() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.ContainsFunc(h.open, func(o porcupine.Operation) bool { return o.Input.(act).step == maybeAdmit })
}

// settled ends the open steps: all of them have happened by now.
func (h *recorder) settled() {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, o := range h.open {
		o.Return = h.now()
		h.done = append(h.done, o)
	}
	h.open = nil
}

// history is what clients of a world did and saw.
type history struct {
	*faultWorld
	recorder
	t *testing.T

	mu   sync.Mutex
	live [][]placed   // sessions, by limit
	lost map[int]bool // replicas that were killed
}

// placed is a session and the replica that relays it.
type placed struct {
	answer
	replica int
}

// round lets clients of each limit act at the same time, twice each, and then waits
// until the store knows of everything they did.
func (h *history) round(dice *rand.Rand, meanwhile func()) {
	h.t.Helper()
	const clients = 5
	seeds := make([]uint64, len(h.limits)*clients)
	for i := range seeds {
		seeds[i] = dice.Uint64()
	}
	together(len(seeds)+1, func(i int) {
		if i == len(seeds) {
			meanwhile()
			return
		}
		own := rand.New(rand.NewPCG(seeds[i], 0))
		for range 2 {
			if limit := i % len(h.limits); own.IntN(5) < 2 {
				h.end(own, limit)
			} else {
				h.ask(limit, own.IntN(len(h.replicas)))
			}
		}
	})
	h.quiesce()
}

// ask asks a replica for a session.
func (h *history) ask(limit, replica int) {
	call, max := h.now(), h.max(limit, replica)
	a := h.targets[limit].ask(client{proxy: h.socks[replica]})
	switch a.reply {
	case granted:
		h.add(limit, max, admit, 0, call)
		h.mu.Lock()
		defer h.mu.Unlock()
		h.live[limit] = append(h.live[limit], placed{a, replica})
	case notAllowed:
		h.add(limit, max, refuse, 0, call)
	case failure, noReply:
		h.later(limit, max, maybeAdmit, call)
		h.later(limit, max, maybeRelease, call)
	default:
		h.t.Errorf("reply %d %v", a.reply, a.err)
	}
}

// end ends a session, if there is one.
func (h *history) end(dice *rand.Rand, limit int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if n := len(h.live[limit]); n > 0 {
		i := dice.IntN(n)
		h.later(limit, h.limits[limit], release, h.now())
		h.live[limit][i].Close()
		h.live[limit] = slices.Delete(h.live[limit], i, i+1)
	}
}

// kill kills a replica. Its sessions end at an unknown time after that.
func (h *history) kill(replica int) {
	call := h.now()
	h.replicas[replica].kill()
	h.mu.Lock()
	defer h.mu.Unlock()
	h.lost[replica] = true
	h.bury(call)
}

// bury removes the sessions of killed replicas from the list.
func (h *history) bury(call int64) {
	for limit := range h.live {
		h.live[limit] = slices.DeleteFunc(h.live[limit], func(p placed) bool {
			if h.lost[p.replica] {
				h.later(limit, h.limits[limit], release, call)
				p.Close()
			}
			return h.lost[p.replica]
		})
	}
}

// quiesce waits until the store counts exactly the living sessions, and open steps can
// have no effect any more. For steps without an answer, that takes two batches of each
// replica: the first may have been in flight already, and may count them.
func (h *history) quiesce() {
	h.t.Helper()
	h.mu.Lock()
	defer h.mu.Unlock()
	h.bury(h.now())
	batches := uint64(0)
	if h.anybodyUnanswered() {
		batches = 2
	}
	started := map[string]store.Token{}
	eventually(h.t, 2*patience, func() string {
		l, err := h.read(h.t.Context(), 0)
		if err != nil || !l.whole() {
			return fmt.Sprintf("the store's data: %+v %v", l, err)
		}
		if len(l.own) != len(h.replicas)-len(h.lost) {
			return fmt.Sprintf("the store has %d members, %d were killed", len(l.own), len(h.lost))
		}
		for id, own := range l.own {
			token, err := store.ParseToken(own[".t"])
			if err != nil {
				h.t.Fatal(err)
			}
			if _, known := started[id]; !known {
				started[id] = token
			}
			if first := started[id]; token.Stream == first.Stream && token.Seq < first.Seq+batches {
				return fmt.Sprintf("replica %s is at %s, was at %s", id, token, first)
			}
		}
		counted, err := h.byLimit(l)
		if err != nil {
			h.t.Fatal(err)
		}
		for i, n := range counted {
			if n != len(h.live[i]) {
				return fmt.Sprintf("the store counts %v, of limit %d there are %d: %s", counted, i, len(h.live[i]), l.trouble())
			}
		}
		return l.trouble()
	})
	h.settled()
	for i := range h.limits { // nothing is in flight, so what was read is still true
		h.add(i, h.limits[i], count, len(h.live[i]), h.now())
	}
}

// TestLinearizable checks the histories of clients of several replicas: first on a good
// network, then on a bad one, then with a replica killed.
func TestLinearizable(t *testing.T) {
	testLinearizable(t, faultOptions{net: 4, limits: []int{2, 3}})
}

// TestLinearizablePool does the same with a pool of two rules. The replicas ask with
// different numbers, as during a rolling reload.
func TestLinearizablePool(t *testing.T) {
	testLinearizable(t, faultOptions{net: 14, pool: []int{3, 2, 4}})
}

func testLinearizable(t *testing.T, o faultOptions) {
	if testing.Short() {
		t.Skip("takes half a minute")
	}
	t.Parallel()
	// Leases are long. In keep mode, a replica that is cut off for longer exceeds the
	// limit. Such a history is not linearizable, by design.
	o.env = map[string]string{"USHER_LEASE_TTL": "4s", "USHER_STORE_WAIT": "1s"}
	f := newFaultWorld(t, o)
	max := func(limit, replica int) int {
		if o.pool != nil {
			return o.pool[replica]
		}
		return f.limits[limit]
	}
	h := &history{
		faultWorld: f, t: t, recorder: recorder{begin: time.Now(), max: max},
		live: make([][]placed, len(f.limits)), lost: map[int]bool{},
	}
	t.Cleanup(func() {
		for _, sessions := range h.live {
			for _, s := range sessions {
				s.Close()
			}
		}
	})
	dice := rand.New(rand.NewPCG(f.seed, 2))
	nothing := func() {}
	for range 10 {
		h.round(dice, nothing)
	}
	for _, p := range f.proxies {
		p.set(mix{cutBefore: 0.06, cutAfter: 0.06, late: 0.06, blackHole: 0.02, delayed: 0.06})
	}
	for range 10 {
		h.round(dice, nothing)
	}
	for _, p := range f.proxies {
		p.set(mix{})
	}
	did := f.happened()
	h.round(dice, func() { h.kill(2) })
	h.round(dice, nothing)

	steps := map[step]int{}
	for _, o := range h.done {
		steps[o.Input.(act).step]++
	}
	t.Logf("%d operations on %d limits: %v; faults %v", len(h.done), len(f.limits), steps, did)
	if did[cutBefore] == 0 || did[cutAfter] == 0 || did[late] == 0 {
		t.Error("the bad network was a good one")
	}
	for _, s := range []step{admit, refuse, release, count} {
		if steps[s] == 0 {
			t.Errorf("the history has no step of the kind: %s", s)
		}
	}
	if !linearizable(t, h.done) {
		t.Errorf("not linearizable: %s", tell(h.done))
	}
	for name, wrong := range h.falsified() {
		if linearizable(t, wrong) {
			t.Errorf("a wrong history passes: %s", name)
		}
	}
}

// falsified returns copies of the history, each with one false step.
func (h *history) falsified() map[string][]porcupine.Operation {
	all := map[string][]porcupine.Operation{}
	change := func(name string, from, to step) {
		for i, o := range h.done {
			if a := o.Input.(act); a.step == from {
				a.step = to
				wrong := slices.Clone(h.done)
				wrong[i].Input = a
				all[name] = wrong
			}
		}
	}
	change("one more was admitted", refuse, admit)
	change("one that was admitted was refused", admit, refuse)
	change("a session ended and its slot was never free", release, refuse)
	return all
}

// tell prints a history in the order in which its steps began.
func tell(history []porcupine.Operation) string {
	sorted := slices.Clone(history)
	slices.SortFunc(sorted, func(a, b porcupine.Operation) int { return cmp.Compare(a.Call, b.Call) })
	var b strings.Builder
	for _, o := range sorted {
		a := o.Input.(act)
		fmt.Fprintf(&b, "\nlimit %d of %d: %s %d, %v to %v",
			a.limit, a.max, a.step, a.counted, time.Duration(o.Call), time.Duration(o.Return))
	}
	return b.String()
}
