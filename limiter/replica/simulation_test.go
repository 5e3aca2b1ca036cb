package replica

import (
	"flag"
	"runtime/debug"
	"slices"
	"sync/atomic"
	"testing"
	"time"
)

// simLength is how long the faults of a schedule last.
const simLength = 10 * simTTL

var (
	simSeeds = flag.Int("sim.seeds", 0, "schedules of the simulation per fault mix and mode (default 100, 10 with the race detector, 2 with -short)")
	simFirst = flag.Uint64("sim.first", 1, "seed of the first schedule")
)

// TestFairness checks Q. Replicas with 1, 1/5 and 1/20 of the clients share a full
// counter. The shares of their clients that are admitted differ by at most 4x, as long
// as a round trip is short against the time between two clients.
func TestFairness(t *testing.T) {
	seeds := uint64(5)
	if testing.Short() {
		seeds = 1
	}
	for seed := *simFirst; seed < *simFirst+seeds; seed++ {
		w := newWorld(seed, mix{name: "fair"}, false)
		w.limits, w.length, w.latency = 1, simTTL/5, simTTL/1000
		w.runFor(2 * simTTL)
		for i, every := range []time.Duration{2 * time.Millisecond, 10 * time.Millisecond, 40 * time.Millisecond} {
			w.nodes[i].every = every
			w.nodes[i].asked, w.nodes[i].admitted = 0, 0
		}
		w.runFor(60 * simTTL)
		least, most := 1.0, 0.0
		for _, n := range w.nodes {
			share := float64(n.admitted) / float64(n.asked)
			least, most = min(least, share), max(most, share)
			t.Logf("seed %d: %d of %d admitted", seed, n.admitted, n.asked)
		}
		if most > 4*least {
			t.Errorf("seed %d: shares from %.4f to %.4f: more than 4x apart", seed, least, most)
		}
		if w.broken != "" {
			t.Errorf("seed %d: %s\n%s", seed, w.broken, w.report())
		}
	}
}

// TestSimulation runs schedules of every fault mix, strict and keep. A failure
// names its seed and prints the last events; -sim.first=SEED -sim.seeds=1 repeats
// it, -sim.trace prints all events.
func TestSimulation(t *testing.T) {
	var failed atomic.Bool
	for _, m := range mixes {
		seeds := schedules(defaultSeeds)
		if m.rare {
			seeds *= 3
		}
		simulate(t, m, seeds, simLength, &failed)
	}
}

// TestPools is TestSimulation with clients that ask for pools, with different numbers
// at the same time.
func TestPools(t *testing.T) {
	before := debug.SetGCPercent(400) // a quarter of the time is the collector's
	t.Cleanup(func() { debug.SetGCPercent(before) })
	var failed atomic.Bool
	for _, m := range mixes {
		simulate(t, m.inPools(), schedules(5*defaultSeeds), simLength/2, &failed)
	}
}

// TestReports is TestSimulation with clients that ask for limits that only report, and
// for pools that only report on some replicas.
func TestReports(t *testing.T) {
	before := debug.SetGCPercent(400)
	t.Cleanup(func() { debug.SetGCPercent(before) })
	var failed atomic.Bool
	for _, m := range mixes {
		simulate(t, m.inReports(), schedules(defaultSeeds), simLength/2, &failed)
	}
}

// schedules returns how many schedules each mix and mode has.
func schedules(normally int) int {
	switch {
	case *simSeeds > 0:
		return *simSeeds
	case testing.Short():
		return 2
	}
	return normally
}

// simulate runs schedules of a mix, strict and keep, until one has failed.
func simulate(t *testing.T, m mix, seeds int, length time.Duration, failed *atomic.Bool) {
	for _, strict := range []bool{true, false} {
		mode := "keep"
		if strict {
			mode = "strict"
		}
		t.Run(m.name+"/"+mode, func(t *testing.T) {
			t.Parallel()
			var sum tried
			for i := range seeds {
				if failed.Load() {
					t.Skip("another mix has failed")
				}
				seed := *simFirst + uint64(i)
				w := newWorld(seed, m, strict)
				w.runFor(length)
				w.quiet()
				if w.broken != "" {
					failed.Store(true)
					t.Fatalf("seed %d: %s\n%s", seed, w.broken, w.report())
				}
				sum.add(w)
			}
			sum.check(t, m)
			t.Logf("%d schedules of %v: %d admitted, %d refused as full, %d as throttled, %d leases lost",
				seeds, length, sum.admits, sum.fulls, sum.slowed, sum.lapses)
		})
	}
}

// tried counts what several schedules have exercised.
type tried struct {
	admits, fulls, slowed, crowded, lapses int
	begun, would                           [len(simLimits)]int
	first, limits                          int
}

func (s *tried) add(w *world) {
	s.admits, s.fulls, s.slowed = s.admits+w.admits, s.fulls+w.fulls, s.slowed+w.slowed
	s.crowded, s.lapses = s.crowded+w.crowded, s.lapses+w.lapses
	s.first, s.limits = w.first, w.limits
	for i, k := range w.begun {
		s.begun[i] += k
		s.would[i] += w.would[i]
	}
}

// check fails the test if the schedules of a mix have not exercised what they are for.
func (s *tried) check(t *testing.T, m mix) {
	if m.reports && slices.Contains(s.would[withoutReports:withoutReports+reporting], 0) {
		t.Errorf("nobody would have been refused by some limit: %v", s.would)
	}
	if !m.reports && m.rates && s.slowed == 0 || m.bounded && s.crowded == 0 {
		t.Errorf("%d refused as throttled, %d for too many keys", s.slowed, s.crowded)
	}
	if m.reports {
		s.first, s.limits = withoutReports, reporting // the others are admitted too seldom: their pools are full
	}
	if m.rates && slices.Contains(s.begun[s.first:s.first+s.limits], 0) {
		t.Errorf("nothing was admitted of some limit: %v", s.begun)
	}
	if s.admits == 0 || s.fulls == 0 {
		t.Errorf("nothing was tried: %d admitted, %d refused", s.admits, s.fulls)
	}
}
