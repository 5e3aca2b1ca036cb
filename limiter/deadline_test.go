package limiter_test

import (
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"usher/limiter"
)

// TestTakenSlotStaysInvalid: a lost slot stays lost, even if the replica gets a new
// lease.
func TestTakenSlotStaysInvalid(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newLink()
		l := start(t, s, strict)
		waitReady(t, l)
		before := admit(t, l, 2)
		s.down()
		time.Sleep(ttl)
		s.up()
		waitReady(t, l)
		after := admit(t, l, 2)
		if before.Valid() || !after.Valid() {
			t.Errorf("after the outage the old slot is valid: %v, the new one: %v", before.Valid(), after.Valid())
		}
		after.Release()
	})
}

// TestDeadlineCountsFromTheFirstSend: the lease lasts from the first time at which the
// last acknowledged request was sent, not from its answer or its resend.
func TestDeadlineCountsFromTheFirstSend(t *testing.T) {
	for name, resent := range map[string]bool{"a slow answer": false, "a lost answer": true} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newLink()
				var mu sync.Mutex
				var open, acked time.Time // when the batch under way, and the last acknowledged one, were first sent
				l := start(t, s, strict, func(o *limiter.Options) {
					o.Observe = func(op string, took time.Duration, err error) {
						mu.Lock()
						defer mu.Unlock()
						if op != "batch" {
							return
						}
						if open.IsZero() {
							open = time.Now().Add(-took)
						}
						if err == nil {
							acked, open = open, time.Time{}
						}
					}
				})
				waitReady(t, l)
				g := admit(t, l, 1)
				s.slow.Store(int64(ttl / 20))
				time.Sleep(ttl / 2)
				if resent {
					var once atomic.Bool
					s.set(func(op string) (error, error) {
						if op == "batch" && !once.Swap(true) {
							return nil, errCut
						}
						return nil, nil
					})
					for unsettled := true; unsettled; time.Sleep(ttl / 1000) {
						mu.Lock()
						unsettled = !once.Load() || !open.IsZero()
						mu.Unlock()
					}
				}
				s.down()
				<-lost(g)
				mu.Lock()
				deadline := acked.Add(ttl * 7 / 10)
				mu.Unlock()
				if late := time.Since(deadline); late < 0 || late > ttl/100 {
					t.Errorf("the session ends %v after the deadline", late)
				}
				s.slow.Store(0)
				s.up()
			})
		})
	}
}
