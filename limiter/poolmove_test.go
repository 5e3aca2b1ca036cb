package limiter_test

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"usher/limiter"
	"usher/store"
	"usher/store/storetest"
)

// TestPoolMoveElsewhere: a session that moves within a pool of another shard keeps its
// slot, also if the first shard is away.
func TestPoolMoveElsewhere(t *testing.T) {
	for _, locally := range []bool{false, true} {
		t.Run(fmt.Sprint(locally), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := newLink()
				l.more = []*storetest.Model{storetest.NewModelInRealTime(), storetest.NewModelInRealTime()}
				var fails atomic.Bool
				limits := start(t, l, func(o *limiter.Options) {
					o.AdmitLocally = locally
					o.Exchange = func(context.Context, store.Conn) error {
						if fails.Load() {
							return errCut
						}
						return nil
					}
				})
				waitReady(t, limits)
				pool := limiter.Limit{Max: 3}
				for i, h := 0, fnv.New32a(); h.Sum32()%3 == 0 || pool.Rule == ""; i++ {
					pool.Rule = limiter.Pool(fmt.Sprint(i))
					h.Reset()
					h.Write([]byte(pool.Rule))
				}
				g := requireAnswer(t, limits, pool, nil)
				fails.Store(true)
				time.Sleep(ttl)
				if _, err := limits.Admit(t.Context(), pool); !locally && !errors.Is(err, limiter.ErrUnavailable) {
					t.Fatal(err)
				}
				if err := g.Move(t.Context(), pool); err != nil || !g.Confirmed() {
					t.Errorf("a session that stays: %v, confirmed %t", err, g.Confirmed())
				}
			})
		})
	}
}

// TestPoolMoveAfterTheLeaseKeep: without Strict, too, a session that has only negotiated
// is not admitted by a slot that another replica may have got since.
func TestPoolMoveAfterTheLeaseKeep(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newLink()
		way := s.fork()
		a, b := start(t, way), start(t, s)
		waitReady(t, a, b)
		g := requireAnswer(t, a, web(1), nil)
		way.down()
		time.Sleep(2 * ttl)
		requireAnswer(t, b, web(1), nil) // the store has given it the slot of a
		if err := g.Move(t.Context(), web(1)); !errors.Is(err, limiter.ErrUnavailable) {
			t.Errorf("a second session in a pool of one: %v", err)
		}
		way.up()
	})
}
