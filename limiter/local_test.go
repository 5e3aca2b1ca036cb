package limiter_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"usher/limiter"
)

// These tests are about what a replica admits without the store, and what remains of an
// outage.

func TestStoreDownAdmit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newLink()
		way := s.fork()
		locally := func(o *limiter.Options) { o.AdmitLocally = true }
		a, b := start(t, s, locally), start(t, way, locally)
		waitReady(t, a, b)
		if g := admit(t, a, 2); !g.Confirmed() {
			t.Error("an admission by the store is not confirmed")
		}
		s.down()
		way.down()
		begin := time.Now()
		first := admit(t, a, 2)
		if waited := time.Since(begin); waited != 3*time.Second || first.Confirmed() {
			t.Errorf("admitted after %v, confirmed %v; want the store wait, and not", waited, first.Confirmed())
		}
		requireRefused(t, a, 2, limiter.ErrFull) // by its own count
		tooMany := admit(t, b, 2)
		time.Sleep(2 * ttl)
		s.up()
		way.up()
		waitReady(t, a, b)
		time.Sleep(ttl / 2)
		if n := total(a); n != 3 {
			t.Errorf("total %d, want 3: all are counted now", n)
		}
		tooMany.Release()
		first.Release()
		time.Sleep(ttl / 5)
		admit(t, b, 2)
		requireRefused(t, a, 2, limiter.ErrFull)
		requireRefused(t, b, 2, limiter.ErrFull)
	})
}

// TestOutageIsForgotten: replicas do not report sessions that began and ended while the
// store was away or recovering.
func TestOutageIsForgotten(t *testing.T) {
	for name, c := range map[string]struct {
		outage  func(*link)
		since   time.Duration // until the clients come
		wait    time.Duration // for the store; the clients themselves wait no longer than 100 ms
		locally bool
	}{
		"refused before the deadline":   {(*link).down, ttl / 5, 0, false},
		"refused after the deadline":    {(*link).down, 2 * ttl, 0, false},
		"waited before the deadline":    {(*link).down, ttl / 5, ttl, false},
		"waited after the deadline":     {(*link).down, 2 * ttl, ttl, false},
		"waited for a recovering store": {(*link).restart, ttl / 4, ttl, false},
		"admitted before the deadline":  {(*link).down, ttl / 5, 0, true},
		"admitted after the deadline":   {(*link).down, 2 * ttl, 0, true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newLink()
				l := start(t, s, func(o *limiter.Options) { o.StoreWait, o.AdmitLocally = c.wait, c.locally })
				waitReady(t, l)
				c.outage(s)
				time.Sleep(c.since)
				s.entries.Store(0)
				var clients sync.WaitGroup
				for i := range 1000 {
					clients.Go(func() {
						ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
						defer cancel()
						g, err := l.Admit(ctx, limiter.Limit{Rule: "c1aaaa/s1", Max: 1000, Key: fmt.Sprint(i), KeyMax: 1})
						if admitted := err == nil; admitted != c.locally {
							t.Errorf("client %d: %v, want it admitted: %v", i, err, c.locally)
						}
						g.Release()
					})
				}
				clients.Wait()
				s.up()
				waitReady(t, l)
				time.Sleep(ttl)
				if n := s.entries.Load(); n != 0 {
					t.Errorf("a batch has %d counters of clients that have left", n)
				}
			})
		})
	}
}

// TestStrictAdmitsNobodyLocally: in strict mode nobody is admitted locally, even with
// Options.AdmitLocally.
func TestStrictAdmitsNobodyLocally(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newLink()
		l := start(t, s, strict, func(o *limiter.Options) { o.AdmitLocally = true })
		waitReady(t, l)
		s.down()
		requireRefused(t, l, 2, limiter.ErrUnavailable)
		s.up()
	})
}

// TestOneWaitIsEnough: with local admission, the first session of an outage waits for
// the store and all others do not, whatever the store's failure. Once the store
// answers, sessions ask it again.
func TestOneWaitIsEnough(t *testing.T) {
	for name, outage := range map[string]func(*link){
		"down": (*link).down,
		"refuses to count": func(s *link) {
			s.set(func(op string) (error, error) {
				if op == "join" || op == "batch" {
					return errCut, nil
				}
				return nil, nil
			})
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				const wait = 3 * time.Second
				s := newLink()
				l := start(t, s, func(o *limiter.Options) { o.StoreWait, o.AdmitLocally = wait, true })
				waitReady(t, l)
				outage(s)
				asks := func(rule string) (took time.Duration, confirmed bool) {
					began := time.Now()
					g, err := l.Admit(t.Context(), limiter.Limit{Rule: "c1aaaa/" + rule, Max: 1000})
					if err != nil {
						t.Error(err)
						return 0, false
					}
					defer g.Release()
					return time.Since(began), g.Confirmed()
				}
				if took, _ := asks("s1"); took < wait {
					t.Errorf("the first session waits %v, want %v", took, wait)
				}
				for range 100 {
					if took, confirmed := asks("s1"); took > ttl/10 || confirmed {
						t.Fatalf("another one waits %v, confirmed %v", took, confirmed)
					}
					time.Sleep(ttl / 7)
				}
				s.up()
				waitReady(t, l)
				if took, confirmed := asks("s1"); took > ttl/10 || !confirmed {
					t.Errorf("when the store is back: %v, confirmed %v", took, confirmed)
				}
				// Those who find a request under way wait for the next one again.
				s.slow.Store(int64(10 * time.Millisecond))
				var together sync.WaitGroup
				for _, rule := range []string{"s2", "s3", "s4"} {
					together.Go(func() {
						if _, confirmed := asks(rule); !confirmed {
							t.Error("when the store is back, a session does not wait for its answer")
						}
					})
				}
				together.Wait()
			})
		})
	}
}

// TestOneWaitIsEnoughForAllShards: the same holds for the first shard, which decides
// whether replicas agree, even if the other shards answer.
func TestOneWaitIsEnoughForAllShards(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, limits := sharded()
		s.down()
		l := start(t, s, func(o *limiter.Options) { o.AdmitLocally = true })
		began := time.Now()
		for range 10 {
			for _, limit := range limits {
				g, err := l.Admit(t.Context(), limit)
				if err != nil || g.Confirmed() {
					t.Errorf("%s: %v, want a session that is not confirmed", limit.Rule, err)
				}
				g.Release()
				time.Sleep(time.Millisecond)
			}
		}
		// One wait of 3 s for each shard, at most.
		if took := time.Since(began); took > time.Duration(len(limits))*(3*time.Second+ttl/10) {
			t.Errorf("%d sessions in %d shards took %v", 10*len(limits), len(limits), took)
		}
		s.up()
	})
}
