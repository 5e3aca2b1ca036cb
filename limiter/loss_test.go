package limiter_test

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"usher/limiter"
	"usher/store"
	"usher/store/limit"
	"usher/store/storetest"
)

// spied records the last join.
type spied struct {
	*link
	join atomic.Pointer[store.Join]
}

type spiedConn struct {
	store.Conn
	way *spied
}

func (s *spied) Dial(ctx context.Context, shard int) (store.Conn, error) {
	c, err := s.link.Dial(ctx, shard)
	return spiedConn{c, s}, err
}

func (c spiedConn) Join(ctx context.Context, j store.Join) (store.JoinReply, error) {
	c.way.join.Store(&j)
	return c.Conn.Join(ctx, j)
}

// again sends a copy of a join, which creates its epoch again.
func again(t *testing.T, data *storetest.Model, j store.Join) {
	t.Helper()
	conn, err := data.Dial(t.Context(), 0)
	if err != nil {
		t.Fatal(err)
	}
	if reply, err := conn.Join(t.Context(), j); err != nil || reply.Epoch != j.Candidate {
		t.Fatalf("the copy: %+v, %v", reply, err)
	}
}

// requireOneValid asks a, until it admits a session of a limit of one, or for two TTL.
// g is a session of the same limit. It fails if both are valid at the same time.
func requireOneValid(t *testing.T, a *limiter.Limiter, g *limiter.Grant) {
	t.Helper()
	for range 2000 {
		if h, err := a.Admit(t.Context(), limitOf(1)); err == nil {
			if h.Valid() && g.Valid() {
				t.Error("two sessions of one may write")
			}
			h.Release()
			return
		}
		time.Sleep(ttl / 1000)
	}
	t.Error("no session is admitted within two TTL")
}

// TestEpochCreatedTwiceIsNotTheSame: a join arrives twice, the second time at a server
// that has lost its data again. So it creates the same epoch twice. The time for which
// its replica has witnessed the first one must not count for the second one.
func TestEpochCreatedTwiceIsNotTheSame(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		wayB := newLink()
		wayA, data := &spied{link: wayB.fork()}, wayB.data
		createdByA := func() bool { return data.Dump()["m"]["birth"] == wayA.join.Load().Candidate }
		a, b := start(t, wayA, strict), start(t, wayB, strict)
		waitReady(t, a, b)
		g := admit(t, b, 1)
		// The first loss: a is back first, but its first batch gets lost. Then b.
		wayB.down()
		data.Restart(storetest.Snapshot{})
		wayA.set(func(op string) (error, error) {
			if op == "batch" && createdByA() {
				return errCut, nil
			}
			return nil, nil
		})
		for !createdByA() {
			time.Sleep(ttl / 1000)
		}
		wayB.up()
		time.Sleep(ttl * 22 / 100)
		// The second loss: a copy of a's join is there first, and b is cut off.
		wayB.down()
		data.Restart(storetest.Snapshot{})
		again(t, data, *wayA.join.Load())
		wayA.up()
		requireOneValid(t, a, g)
		wayB.up()
	})
}

// TestFailedExpiryDelaysNoBatch: the store refuses to expire replicas and to end the
// recovery, as it does if the Redis user lacks a right. Batches are sent all the same,
// and renew the lease.
func TestFailedExpiryDelaysNoBatch(t *testing.T) {
	for _, failing := range []string{"expire", "end_recovery"} {
		t.Run(failing, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newLink()
				way := s.fork()
				a, b := start(t, s, strict), limiter.New(limiter.Options{Store: way, TTL: ttl, StoreWait: time.Second, Strict: true})
				b.SetSpace("c1aaaa", nil)
				waitReady(t, a, b)
				g := admit(t, a, 5)
				s.set(func(op string) (error, error) {
					if op == failing {
						return errors.New("NOPERM"), nil
					}
					return nil, nil
				})
				if failing == "end_recovery" {
					s.data.Drop("t") // so that the store recovers again
				}
				crash(b, way)
				time.Sleep(3 * ttl)
				if !g.Valid() || !a.Status().Joined {
					t.Errorf("valid %v, %+v, although the store accepts every batch", g.Valid(), a.Status())
				}
				s.up()
			})
		})
	}
}

// TestDeadOfLostDataAreForgotten: a replica with other settings knew of a dead one when
// Redis lost its data, and another replica created an epoch. The first one does not ask
// again and again to expire the dead one, and joins when the other has died as well.
func TestDeadOfLostDataAreForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newLink()
		ways := []*link{s.fork(), s.fork(), s.fork()}
		dead, conflicting := start(t, ways[0]), start(t, ways[1])
		waitReady(t, dead, conflicting)
		var requests atomic.Int64
		other := start(t, ways[2], func(o *limiter.Options) {
			o.TTL = 2 * ttl
			o.Observe = func(string, time.Duration, error) { requests.Add(1) }
		})
		ways[2].slow.Store(int64(5 * time.Millisecond))
		time.Sleep(ttl)
		var expired atomic.Bool
		ways[2].set(func(op string) (error, error) { // cut off at its first expire
			if expired.Store(expired.Load() || op == "expire"); expired.Load() {
				return errCut, nil
			}
			return nil, nil
		})
		crash(dead, ways[0])
		ways[1].down()
		for !expired.Load() {
			time.Sleep(ttl / 100)
		}
		fresh := storetest.NewModelInRealTime()
		for _, w := range ways {
			w.mu.Lock()
			w.data = fresh
			w.mu.Unlock()
		}
		ways[1].up()
		time.Sleep(ttl / 2)
		ways[2].up()
		requests.Store(0)
		time.Sleep(ttl)
		if n := requests.Load(); n > 50 || other.Status().Joined {
			t.Errorf("beside the conflicting replica: joined %v, %d requests in a TTL", other.Status().Joined, n)
		}
		crash(conflicting, ways[1])
		time.Sleep(4 * ttl)
		if !other.Status().Joined {
			t.Errorf("dead replicas keep it out: %+v", other.Status())
		}
	})
}

// TestCutClaimEndsItsSession: the data was lost, and another replica was the first
// to claim the only slot.
func TestCutClaimEndsItsSession(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newLink()
		l := start(t, s, strict)
		waitReady(t, l)
		g := admit(t, l, 1)
		s.data.Flush()
		conn, err := s.data.Dial(t.Context(), 0)
		if err != nil {
			t.Fatal(err)
		}
		reply, err := conn.Join(t.Context(), store.Join{
			Replica: "x", Candidate: "bx", Stream: 1, Settings: store.Settings{Protocol: 1, TTL: ttl, Strict: true, Shards: 1}, Space: "c1aaaa",
			Entries: []store.Entry{{Counter: "c1aaaa/s1", Max: 1, RuleMax: limit.None, Live: 1, Need: 1}},
		})
		if err != nil || reply.Counts[0].Granted != 1 {
			t.Fatalf("%+v, %v", reply, err)
		}
		time.Sleep(ttl / 4)
		if g.Valid() {
			t.Error("it goes on")
		}
	})
}
