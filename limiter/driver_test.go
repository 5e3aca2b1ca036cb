package limiter_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"usher/limiter"
)

// TestChangesAreSentAtOnce: changes are sent to the store without delay, even if nobody
// waits for them. No time passes in these tests.
func TestChangesAreSentAtOnce(t *testing.T) {
	within := func(t *testing.T, run func(t *testing.T, s *link, l *limiter.Limiter)) {
		synctest.Test(t, func(t *testing.T) {
			s := newLink()
			l := start(t, s)
			waitReady(t, l)
			time.Sleep(ttl / 20) // between two heartbeats
			began := time.Now()
			run(t, s, l)
			if took := time.Since(began); took != 0 {
				t.Errorf("it took %v", took)
			}
		})
	}
	t.Run("the last slot", func(t *testing.T) {
		within(t, func(t *testing.T, s *link, l *limiter.Limiter) {
			admit(t, l, 1).Release()
			synctest.Wait()
			if n := inStore(s, "c1aaaa/s1"); n != "" {
				t.Errorf("the store still counts %s", n)
			}
		})
	})
	t.Run("the last slot, by a move that needs no question", func(t *testing.T) {
		within(t, func(t *testing.T, s *link, l *limiter.Limiter) {
			g := admit(t, l, 1)
			roomy := limiter.Limit{Rule: "c1aaaa/s2", Max: 1000}
			other, err := l.Admit(t.Context(), roomy)
			if err != nil {
				t.Fatal(err)
			}
			other.Release()
			synctest.Wait()
			if err := g.Move(t.Context(), roomy); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
			if n := inStore(s, "c1aaaa/s1"); n != "" {
				t.Errorf("the store still counts %s", n)
			}
			g.Release()
		})
	})
	t.Run("another space", func(t *testing.T) {
		within(t, func(t *testing.T, _ *link, l *limiter.Limiter) {
			before := l.Status().Generation
			l.SetSpace("c2bbbb", nil)
			synctest.Wait()
			if n := l.Status().Generation; n != before+1 {
				t.Errorf("generation %d, want the one after %d", n, before)
			}
		})
	})
	t.Run("the end", func(t *testing.T) {
		within(t, func(t *testing.T, s *link, l *limiter.Limiter) {
			admit(t, l, 5)
			if err := l.Close(t.Context()); err != nil {
				t.Error(err)
			}
			if n := inStore(s, "c1aaaa/s1"); n != "" {
				t.Errorf("the store still counts %s", n)
			}
		})
	})
}

// TestLocalAdmissionIsSentAtOnce: a replica reports sessions that it admitted locally
// to a recovering store.
func TestLocalAdmissionIsSentAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newLink()
		l := start(t, s, func(o *limiter.Options) { o.StoreWait, o.AdmitLocally = 0, true })
		time.Sleep(ttl / 20)
		if !l.Status().Recovering {
			t.Fatal("the store should be recovering")
		}
		g := admit(t, l, 5)
		synctest.Wait()
		if n := inStore(s, "c1aaaa/s1"); n != "1" {
			t.Errorf("the store counts %q, want 1", n)
		}
		g.Release()
	})
}

// TestRefusedDuringRecoveryIsAdmittedLocally: a session waits when the data turns out
// to be lost. The store answers that it is recovering. This is no reason to refuse the
// session.
func TestRefusedDuringRecoveryIsAdmittedLocally(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newLink()
		l := start(t, s, func(o *limiter.Options) { o.AdmitLocally = true })
		waitReady(t, l)
		s.data.Flush()
		g := admit(t, l, 5)
		if !l.Status().Recovering || g.Confirmed() {
			t.Errorf("recovering %v, confirmed %v", l.Status().Recovering, g.Confirmed())
		}
		g.Release()
	})
}

// TestAnswerAfterTheDeadline: a client that sent the batch itself gets its slot even if
// the answer comes after its time limit. Otherwise nobody would own the slot.
func TestAnswerAfterTheDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newLink()
		l := start(t, s, func(o *limiter.Options) { o.StoreWait = 0 })
		waitReady(t, l)
		time.Sleep(ttl / 20)
		s.slow.Store(int64(ttl / 5)) // twice the time limit of a request
		g := admit(t, l, 1)
		s.slow.Store(0)
		g.Release()
		synctest.Wait()
		if n := inStore(s, "c1aaaa/s1"); n != "" {
			t.Errorf("the store still counts %s", n)
		}
	})
}

// TestClientLeavesWhileItAsks: a client sends a request for several clients and leaves.
// The request goes on without it, and its slot is given back.
func TestClientLeavesWhileItAsks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newLink()
		l := start(t, s)
		waitReady(t, l)
		time.Sleep(ttl / 20)
		s.slow.Store(int64(5 * time.Millisecond))
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(time.Millisecond, cancel)
		if g, err := l.Admit(ctx, limitOf(1)); !errors.Is(err, context.Canceled) {
			t.Errorf("%v, %v", g, err)
		}
		s.slow.Store(0)
		synctest.Wait()
		if n := inStore(s, "c1aaaa/s1"); n != "" {
			t.Errorf("the store still counts %s", n)
		}
		if n := s.canceled.Load(); n != 0 {
			t.Errorf("%d requests were given up", n)
		}
	})
}

// TestCloseIsCutShort: a request that a client sent hangs. The driver ends when this
// request ends.
func TestCloseIsCutShort(t *testing.T) {
	for _, after := range []time.Duration{ttl / 100, ttl / 20, ttl * 9 / 100} { // since a heartbeat
		synctest.Test(t, func(t *testing.T) {
			s := newLink()
			l := limiter.New(limiter.Options{Store: s, TTL: ttl, StoreWait: ttl})
			waitReady(t, l)
			time.Sleep(after)
			s.slow.Store(int64(ttl / 10))
			s.down()
			go func() { _, _ = l.Admit(context.Background(), limitOf(5)) }() // ends with the limiter: the bubble waits for it
			time.Sleep(ttl / 20)
			ctx, cancel := context.WithCancel(t.Context())
			cancel()
			began := time.Now()
			if err := l.Close(ctx); !errors.Is(err, context.Canceled) {
				t.Errorf("Close: %v", err)
			}
			if took := time.Since(began); took > ttl/10 {
				t.Errorf("Close took %v, more than a request may", took)
			}
		})
	}
}

// TestCloseWhileTheFirstShardIsAway: sessions that wait for the first shard are refused
// when the limiter closes, and are not admitted after that.
func TestCloseWhileTheFirstShardIsAway(t *testing.T) {
	for _, locally := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			s, limits := sharded()
			s.down()
			l := limiter.New(limiter.Options{Store: s, TTL: ttl, StoreWait: 3 * ttl, AdmitLocally: locally})
			answers := make(chan error, len(limits))
			for _, limit := range limits {
				go func() {
					_, err := l.Admit(context.Background(), limit)
					answers <- err
				}()
			}
			time.Sleep(ttl)
			if err := l.Close(t.Context()); err != nil {
				t.Error(err)
			}
			synctest.Wait()
			for range limits {
				select {
				case err := <-answers:
					if !errors.Is(err, limiter.ErrClosed) {
						t.Errorf("admitting locally %v: %v", locally, err)
					}
				default:
					t.Error("a session still waits")
				}
			}
		})
	}
}
