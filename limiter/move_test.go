package limiter_test

import (
	"errors"
	"testing"
	"testing/synctest"

	"usher/limiter"
)

// moves calls f for every pair of the limits, which then admit one session each.
func moves(limits []limiter.Limit, f func(from, to limiter.Limit)) {
	for _, from := range limits {
		for _, to := range limits {
			if from.Rule != to.Rule {
				from.Max, to.Max = 1, 1
				f(from, to)
			}
		}
	}
}

// TestMoveAcrossShards: a session's slot in one shard is free again when the session
// moves to another, also if it is refused there.
func TestMoveAcrossShards(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, limits := sharded()
		a, b := start(t, s), start(t, s)
		waitReady(t, a, b)
		moves(limits, func(from, to limiter.Limit) {
			first := requireAnswer(t, a, from, nil)
			if err := first.Move(t.Context(), to); err != nil {
				t.Fatalf("%s to %s: %v", from.Rule, to.Rule, err)
			}
			synctest.Wait()
			second := requireAnswer(t, b, from, nil)
			if err := second.Move(t.Context(), to); !errors.Is(err, limiter.ErrFull) {
				t.Fatalf("%s to %s: %v, want it refused as full", from.Rule, to.Rule, err)
			}
			synctest.Wait()
			requireAnswer(t, a, from, nil).Release()
			first.Release()
			synctest.Wait()
		})
	})
}

// TestMoveAcrossShardsWithoutStore: the same while the first shard, which decides
// whether the replicas agree, was never reached.
func TestMoveAcrossShardsWithoutStore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, limits := sharded()
		s.down()
		l := start(t, s, func(o *limiter.Options) { o.StoreWait, o.AdmitLocally = 0, true })
		moves(limits, func(from, to limiter.Limit) {
			g := requireAnswer(t, l, from, nil)
			if err := g.Move(t.Context(), to); err != nil {
				t.Fatalf("%s to %s: %v", from.Rule, to.Rule, err)
			}
			second := requireAnswer(t, l, from, nil)
			if err := second.Move(t.Context(), to); !errors.Is(err, limiter.ErrFull) {
				t.Fatalf("%s to %s: %v, want it refused as full", from.Rule, to.Rule, err)
			}
			requireAnswer(t, l, from, nil).Release()
			g.Release()
		})
	})
}
