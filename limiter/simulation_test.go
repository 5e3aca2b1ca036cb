package limiter

import (
	"flag"
	"testing"
)

// simLength is how long faults go on in a schedule.
const simLength = 10 * simTTL

var defaultSeeds = 100

var (
	simSeeds = flag.Int("sim.seeds", 0, "schedules of the simulation per fault mix and mode (default 100, or 10 with the race detector)")
	simFirst = flag.Uint64("sim.first", 1, "seed of the first schedule")
)

// TestSimulation runs schedules of every fault mix, strict and keep. A
// failure names its seed: -sim.first=SEED -sim.seeds=1 repeats it.
func TestSimulation(t *testing.T) {
	seeds := *simSeeds
	if seeds == 0 {
		seeds = defaultSeeds
	}
	for _, m := range mixes {
		for _, strict := range []bool{true, false} {
			mode := "keep"
			if strict {
				mode = "strict"
			}
			t.Run(m.name+"/"+mode, func(t *testing.T) {
				t.Parallel()
				var admits, fulls, fences int
				for i := range seeds {
					seed := *simFirst + uint64(i)
					w := newWorld(seed, m, strict)
					w.runFor(simLength)
					w.quiet()
					if len(w.broken) > 0 {
						t.Fatalf("seed %d: %s", seed, w.broken[0])
					}
					admits, fulls, fences = admits+w.admits, fulls+w.fulls, fences+w.fences
				}
				if admits == 0 || fulls == 0 {
					t.Errorf("nothing was tried: %d admitted, %d refused", admits, fulls)
				}
				t.Logf("%d schedules of %v: %d admitted, %d refused as full, %d leases lost",
					seeds, simLength, admits, fulls, fences)
			})
		}
	}
}
