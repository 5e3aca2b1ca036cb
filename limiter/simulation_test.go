package limiter

import (
	"flag"
	"slices"
	"sync/atomic"
	"testing"
	"time"
)

// simLength is how long faults go on in a schedule.
const simLength = 10 * simTTL

var (
	simSeeds = flag.Int("sim.seeds", 0, "schedules of the simulation per fault mix and mode (default 100, or 10 with the race detector)")
	simFirst = flag.Uint64("sim.first", 1, "seed of the first schedule")
)

// TestFairness: at a full counter, what share of their clients is admitted
// differs by at most 4x between replicas with 1, 1/5 and 1/20 of the clients,
// as long as a round trip is short against the time between two of them: Q.
func TestFairness(t *testing.T) {
	for seed := *simFirst; seed < *simFirst+5; seed++ {
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
		if len(w.broken) > 0 {
			t.Errorf("seed %d: %s", seed, w.broken[0])
		}
	}
}

// TestSimulation runs schedules of every fault mix, strict and keep. A
// failure names its seed: -sim.first=SEED -sim.seeds=1 repeats it.
func TestSimulation(t *testing.T) {
	var failed atomic.Bool
	seeds := *simSeeds
	if seeds == 0 {
		seeds = defaultSeeds
	}
	for _, m := range mixes {
		seeds := seeds
		if m.rare {
			seeds *= 3
		}
		for _, strict := range []bool{true, false} {
			mode := "keep"
			if strict {
				mode = "strict"
			}
			t.Run(m.name+"/"+mode, func(t *testing.T) {
				t.Parallel()
				var admits, fulls, slowed, fences int
				var begun [len(simLimits)]int
				for i := range seeds {
					if failed.Load() {
						t.Skip("another mix has failed")
					}
					seed := *simFirst + uint64(i)
					w := newWorld(seed, m, strict)
					w.runFor(simLength)
					w.quiet()
					if len(w.broken) > 0 {
						failed.Store(true)
						t.Fatalf("seed %d: %s", seed, w.broken[0])
					}
					for i, k := range w.begun {
						begun[i] += k
					}
					admits, fulls, slowed, fences = admits+w.admits, fulls+w.fulls, slowed+w.slowed, fences+w.fences
				}
				if m.rates && slowed == 0 {
					t.Error("nothing was throttled")
				}
				if m.rates && slices.Contains(begun[:], 0) {
					t.Errorf("nothing was admitted of some limit: %v", begun)
				}
				if admits == 0 || fulls == 0 {
					t.Errorf("nothing was tried: %d admitted, %d refused", admits, fulls)
				}
				t.Logf("%d schedules of %v: %d admitted, %d refused as full, %d as throttled, %d leases lost",
					seeds, simLength, admits, fulls, slowed, fences)
			})
		}
	}
}
