package limiter_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"usher/limiter"
	"usher/store"
	"usher/store/limit"
	"usher/store/storetest"
)

// inStore returns the store's total of a counter, or "" for 0.
func inStore(l *link, counter string) string { return l.data.Dump()["t"][counter] }

// TestMoveIsOneBatch: a session gets its new slot and returns the old one in one batch,
// even if limits have much room.
func TestMoveIsOneBatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newLink()
		a, b := start(t, s), start(t, s)
		waitReady(t, a, b)
		first, second := limiter.Limit{Rule: "c1aaaa/c1", Max: 100}, limiter.Limit{Rule: "c1aaaa/s1", Max: 100}
		g, err := a.Admit(t.Context(), first)
		if err != nil {
			t.Fatal(err)
		}
		if err := g.Move(t.Context(), second); err != nil {
			t.Fatal(err)
		}
		if n1, n2 := inStore(s, first.Rule), inStore(s, second.Rule); n1 != "" || n2 != "1" {
			t.Errorf("directly after the move the store counts %q and %q, want nothing and 1", n1, n2)
		}
		g.Release()
	})
}

// TestFreedSlotsAreNotKept: other replicas may use the slot of a session that ended
// here 2 ms later, whatever else this replica asks for meanwhile.
func TestFreedSlotsAreNotKept(t *testing.T) {
	busy := limiter.Limit{Rule: "c1aaaa/s2", Max: 1000}
	for name, free := range map[string]func(*testing.T, *limiter.Limiter, *limiter.Grant){
		"released": func(_ *testing.T, _ *limiter.Limiter, g *limiter.Grant) { g.Release() },
		"released before another is admitted": func(t *testing.T, l *limiter.Limiter, g *limiter.Grant) {
			g.Release()
			other, err := l.Admit(t.Context(), busy)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(other.Release)
		},
		"moved": func(t *testing.T, _ *limiter.Limiter, g *limiter.Grant) {
			if err := g.Move(t.Context(), busy); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(g.Release)
		},
		"moved to where there is room without asking": func(t *testing.T, l *limiter.Limiter, g *limiter.Grant) {
			one, err := l.Admit(t.Context(), busy)
			if err != nil {
				t.Fatal(err)
			}
			one.Release()
			if err := g.Move(t.Context(), busy); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(g.Release)
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newLink()
				a, b := start(t, s), start(t, s)
				waitReady(t, a, b)
				free(t, a, admit(t, a, 2))
				time.Sleep(3 * time.Millisecond)
				one, two := admit(t, b, 2), admit(t, b, 2)
				one.Release()
				two.Release()
			})
		})
	}
}

// TestStoreWaitCountsFromTheQuestion: a client that sends the batch itself, and gets no
// answer, does not wait longer than others.
func TestStoreWaitCountsFromTheQuestion(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const wait = 3 * time.Second
		s := newLink()
		l := start(t, s, func(o *limiter.Options) { o.StoreWait = wait })
		waitReady(t, l)
		s.slow.Store(int64(ttl / 10)) // the time limit of a request
		s.set(func(string) (error, error) { return context.DeadlineExceeded, nil })
		began := time.Now()
		_, err := l.Admit(t.Context(), limitOf(5))
		if took := time.Since(began); !errors.Is(err, limiter.ErrUnavailable) || took != wait {
			t.Errorf("%v after %v, want it after %v", err, took, wait)
		}
		s.slow.Store(0)
		s.up()
	})
}

// TestBusyStoreIsAskedAgainSoon: a busy server is asked again after 20 ms, also if
// nothing else happens meanwhile.
func TestBusyStoreIsAskedAgainSoon(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newLink()
		l := start(t, s)
		waitReady(t, l)
		time.Sleep(ttl / 20) // between two heartbeats
		var refusals atomic.Int64
		s.set(func(op string) (error, error) {
			if op == "batch" && refusals.Add(1) == 1 {
				return store.ErrBusy, nil
			}
			return nil, nil
		})
		began := time.Now()
		g := admit(t, l, 5)
		if took := time.Since(began); took != 20*time.Millisecond {
			t.Errorf("admitted after %v, want 20 ms", took)
		}
		g.Release()
	})
}

// TestMoveWhileInFlight: if a session moves while a batch with its old counter is in
// flight, the next batch returns the old slot.
func TestMoveWhileInFlight(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newLink()
		l := start(t, s)
		waitReady(t, l)
		first, second := limiter.Limit{Rule: "c1aaaa/c1", Max: 100}, limiter.Limit{Rule: "c1aaaa/s1", Max: 100}
		g, err := l.Admit(t.Context(), first)
		if err != nil {
			t.Fatal(err)
		}
		s.slow.Store(int64(time.Millisecond))
		var other sync.WaitGroup
		other.Go(func() {
			h, err := l.Admit(t.Context(), first)
			if err != nil {
				t.Error(err)
				return
			}
			time.Sleep(time.Second)
			h.Release()
		})
		time.Sleep(500 * time.Microsecond) // its batch is under way
		if err := g.Move(t.Context(), second); err != nil {
			t.Fatal(err)
		}
		if n1, n2 := inStore(s, first.Rule), inStore(s, second.Rule); n1 != "1" || n2 != "1" {
			t.Errorf("directly after the move the store counts %q and %q, want the other client's 1, and 1", n1, n2)
		}
		g.Release()
		other.Wait()
		s.slow.Store(0)
	})
}

// sharded returns a link to four shards, and limits that are spread over them.
func sharded() (*link, []limiter.Limit) {
	s := newLink()
	s.more = []*storetest.Model{storetest.NewModelInRealTime(), storetest.NewModelInRealTime(), storetest.NewModelInRealTime()}
	var limits []limiter.Limit
	for i := range 8 {
		limits = append(limits, limiter.Limit{Rule: fmt.Sprintf("c1aaaa/s%d", i), Max: 5})
	}
	return s, limits
}

// TestStoreDownAdmitInEveryShard: sessions are admitted locally, even if the store was
// never reached.
func TestStoreDownAdmitInEveryShard(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, limits := sharded()
		s.down()
		l := start(t, s, func(o *limiter.Options) { o.AdmitLocally = true })
		for _, limit := range limits {
			g, err := l.Admit(t.Context(), limit)
			if err != nil || g.Confirmed() {
				t.Errorf("%s: %v, want a session that is not confirmed", limit.Rule, err)
			}
			g.Release()
		}
		s.up()
	})
}

// TestStoreWaitIsOneForAllShards: the time for the first shard, which decides whether
// the replicas agree, is part of the wait.
func TestStoreWaitIsOneForAllShards(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const wait = 3 * time.Second
		s, limits := sharded()
		s.down()
		l := start(t, s, func(o *limiter.Options) { o.StoreWait = wait })
		began := time.Now()
		time.AfterFunc(wait-100*time.Millisecond, func() {
			s.set(func(op string) (error, error) {
				if op == "batch" {
					return errCut, nil
				}
				return nil, nil
			})
		})
		var tasks sync.WaitGroup
		for _, limit := range limits {
			tasks.Go(func() {
				_, err := l.Admit(t.Context(), limit)
				if took := time.Since(began); err == nil || took > wait {
					t.Errorf("%s: %v after %v, want a refusal within %v", limit.Rule, err, took, wait)
				}
			})
		}
		tasks.Wait()
		s.up()
	})
}

// TestNoWaitIsNoRefusal: with a store wait of 0, a store that answers is asked all the
// same.
func TestNoWaitIsNoRefusal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, limits := sharded()
		l := start(t, s, func(o *limiter.Options) { o.StoreWait = 0 })
		waitReady(t, l)
		for i := range 200 {
			g, err := l.Admit(t.Context(), limits[i%len(limits)])
			if err != nil {
				t.Fatalf("%d: %v", i, err)
			}
			g.Release()
			time.Sleep(3 * time.Millisecond)
		}
	})
}

// The same when many sessions ask at once and each waits for the question of
// another: the limit is exact, also where sessions may be admitted locally.
func TestNoWaitIsNoRefusalForMany(t *testing.T) {
	for _, locally := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			s := newLink()
			hasty := func(o *limiter.Options) { o.StoreWait, o.AdmitLocally = 0, locally }
			replicas := []*limiter.Limiter{start(t, s, hasty), start(t, s, hasty)}
			waitReady(t, replicas...)
			s.slow.Store(int64(time.Millisecond))
			var held, full atomic.Int64
			var tasks sync.WaitGroup
			for i := range 40 {
				tasks.Go(func() {
					switch _, err := replicas[i%2].Admit(t.Context(), limitOf(5)); {
					case err == nil:
						held.Add(1)
					case errors.Is(err, limiter.ErrFull):
						full.Add(1)
					default:
						t.Errorf("admitting locally %v: %v", locally, err)
					}
				})
			}
			tasks.Wait()
			if held.Load() != 5 || full.Load() != 35 {
				t.Errorf("admitting locally %v: %d of 5 held, %d refused as full", locally, held.Load(), full.Load())
			}
		})
	}
}

// TestRecoveryEndsUnderLoad: the recovery ends in time although sessions ask all the
// time, so that a new batch is due whenever one returns.
func TestRecoveryEndsUnderLoad(t *testing.T) {
	for name, c := range map[string]struct {
		limit   limiter.Limit
		locally bool
	}{
		"rates":         {limiter.Limit{Rule: "c1aaaa/s1", Max: limit.None, Throttle: limit.Rate{N: 1 << 40, Per: time.Second}}, false},
		"without store": {limiter.Limit{Rule: "c1aaaa/s1", Max: 1000}, true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newLink()
				s.slow.Store(int64(5 * time.Millisecond))
				l := start(t, s, func(o *limiter.Options) { o.AdmitLocally = c.locally })
				ctx, cancel := context.WithCancel(t.Context())
				var tasks sync.WaitGroup
				for i := range 64 {
					tasks.Go(func() {
						random := rand.New(rand.NewPCG(1, uint64(i)))
						think := func() { time.Sleep(time.Duration(random.IntN(10_000)) * time.Microsecond) }
						for ctx.Err() == nil {
							if g, err := l.Admit(ctx, c.limit); err == nil {
								think()
								g.Release()
							}
							think()
						}
					})
				}
				time.Sleep(2 * ttl)
				if l.Status().Recovering {
					t.Error("still recovering after two TTL")
				}
				cancel()
				tasks.Wait()
			})
		})
	}
}
