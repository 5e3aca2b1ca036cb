package limiter_test

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"usher/limiter"
	"usher/store/limit"
)

// web is a pool with this number of sessions. webKey has a slot for each key.
func web(most int64) limiter.Limit {
	return limiter.Limit{Rule: limiter.Pool("web"), Max: most, KeyMax: limit.None}
}

func webKey(key string, most int64) limiter.Limit {
	l := web(most)
	l.Key, l.KeyMax = key, 1
	return l
}

// TestPoolNumbers: each session of a pool is admitted by the number of its own rules,
// on every replica. A lower number ends no session.
func TestPoolNumbers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newLink()
		a, b := start(t, s), start(t, s)
		waitReady(t, a, b)
		var held []*limiter.Grant
		for range 4 {
			held = append(held, requireAnswer(t, a, web(4), nil))
		}
		requireAnswer(t, a, web(4), limiter.ErrFull)
		requireAnswer(t, b, web(2), limiter.ErrFull)
		requireAnswer(t, a, web(2), limiter.ErrFull)
		raised := requireAnswer(t, b, web(5), nil)
		held[0].Release() // its slot is not handed on to a session with a lower number
		requireAnswer(t, a, web(4), limiter.ErrFull)
		requireAnswer(t, a, webKey("x", 4), limiter.ErrFull)
		requireAnswer(t, a, webKey("x", 5), nil)
		for _, g := range append(held[1:], raised) {
			if !g.Valid() {
				t.Error("a session has lost its slot")
			}
		}
	})
}

// TestPoolMove: a session that moves within a pool keeps its slot, even if the store is
// away or the pool is over its number.
func TestPoolMove(t *testing.T) {
	for name, strict := range map[string]bool{"keep": false, "strict": true} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newLink()
				l := start(t, s, func(o *limiter.Options) { o.Strict = strict })
				waitReady(t, l)
				g, other := requireAnswer(t, l, web(2), nil), requireAnswer(t, l, web(2), nil)
				stated := s.entries.Load()
				s.down()
				if err := g.Move(t.Context(), web(1)); err != nil {
					t.Errorf("moved within its pool: %v", err)
				}
				if s.up(); s.entries.Load() != stated {
					t.Error("the store was told of it")
				}
				lostIt := lost(g)
				requireAnswer(t, l, web(2), limiter.ErrFull)
				if err := g.Move(t.Context(), webKey("x", 2)); err != nil {
					t.Errorf("moved to a key of its pool, in place of its own slot: %v", err)
				}
				select {
				case <-lostIt:
					t.Error("it heard of a loss after it had moved")
				default:
				}
				g.Release()
				other.Release()
				time.Sleep(ttl)
				if n := l.Status().Totals[limiter.Pool("web")]; n != 0 {
					t.Errorf("%d sessions are counted after all have ended", n)
				}
			})
		})
	}
}

// TestPoolMoveAfterTheLease: after the lease deadline, a session that moves within its
// pool does not keep its slot, because others may have it.
func TestPoolMoveAfterTheLease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newLink()
		l := start(t, s, func(o *limiter.Options) { o.Strict = true })
		waitReady(t, l)
		g := requireAnswer(t, l, web(2), nil)
		s.down()
		time.Sleep(ttl)
		if err := g.Move(t.Context(), web(2)); !errors.Is(err, limiter.ErrUnavailable) {
			t.Errorf("moved after its lease has ended: %v", err)
		}
		s.up()
	})
}

// TestPoolWithoutStore: a replica that admits alone counts a pool as a whole.
func TestPoolWithoutStore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newLink()
		s.down()
		l := start(t, s, func(o *limiter.Options) { o.StoreWait, o.AdmitLocally = 0, true })
		first := requireAnswer(t, l, web(3), nil)
		requireAnswer(t, l, webKey("x", 3), nil)
		requireAnswer(t, l, webKey("x", 3), limiter.ErrFull)
		requireAnswer(t, l, web(2), limiter.ErrFull)
		requireAnswer(t, l, webKey("y", 3), nil)
		requireAnswer(t, l, web(3), limiter.ErrFull)
		first.Release()
		requireAnswer(t, l, web(3), nil)
	})
}
