package limiter_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"usher/limiter"
	"usher/store"
	"usher/store/storetest"
)

func TestLostReplyIsNotCountedTwice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newLink()
		l := start(t, s)
		mature(t, l)
		cuts := 3
		s.set(func(op string) (error, error) {
			if op == "batch" && cuts > 0 {
				cuts--
				return nil, errCut // executed, and the reply is lost
			}
			return nil, nil
		})
		g := admit(t, l, 5)
		time.Sleep(ttl / 5)
		if n := total(l); n != 1 || cuts != 0 {
			t.Errorf("total %d after a reply was lost three times (%d left), want 1", n, cuts)
		}
		g.Release()
		time.Sleep(ttl / 5)
		if n := total(l); n != 0 {
			t.Errorf("total %d after the release, want 0", n)
		}
		if n := s.joins.Load(); n != 1 {
			t.Errorf("%d joins: a resend must do", n)
		}
	})
}

func TestOutageKeep(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newLink()
		a, b := start(t, s), start(t, s)
		mature(t, a, b)
		g := admit(t, a, 3)
		admit(t, b, 3)
		s.down()
		begin := time.Now()
		refused(t, a, 3, limiter.ErrUnavailable)
		if waited := time.Since(begin); waited != 3*time.Second {
			t.Errorf("refused after %v, want the store wait", waited)
		}
		time.Sleep(5 * ttl)
		if !g.Valid() || a.Status().Joined {
			t.Errorf("after the outage: valid %v, %+v", g.Valid(), a.Status())
		}
		s.up()
		mature(t, a, b)
		time.Sleep(ttl)
		if n := total(a); n != 2 {
			t.Errorf("total %d after the outage, want both sessions", n)
		}
		admit(t, b, 3)
		refused(t, a, 3, limiter.ErrFull)
	})
}

func TestOutageStrictClosesAtTheFence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newLink()
		l := start(t, s, strict)
		mature(t, l)
		g := admit(t, l, 3)
		s.down()
		cut := time.Now()
		time.Sleep(ttl * 5 / 10)
		if !g.Valid() {
			t.Error("not valid before the fence")
		}
		<-lost(g)
		if since := time.Since(cut); since > ttl*7/10 {
			t.Errorf("lost after %v", since)
		}
		<-lost(g) // who asks late is told at once
		if g.Valid() {
			t.Error("valid after the fence")
		}
		g.Release()
		s.up()
		mature(t, l)
		admit(t, l, 1)
	})
}

// TestLostLeasesAreCounted: once for each loss, and only where a session relied
// on the lease, however soon the replica is back and however many counters it
// claims then.
func TestLostLeasesAreCounted(t *testing.T) {
	for name, change := range map[string]func(*limiter.Options){"keep": func(*limiter.Options) {}, "close": strict} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newLink()
				l := start(t, s, change)
				mature(t, l)
				loses := func(want uint64) {
					t.Helper()
					s.down()
					time.Sleep(ttl)
					s.restart() // so that it is another lease on which they are claimed
					s.up()
					mature(t, l)
					time.Sleep(ttl)
					if n := l.Status().LeasesLost; n != want {
						t.Errorf("%d leases lost, want %d", n, want)
					}
				}
				admit(t, l, 1).Release()
				loses(0)
				for i := range store.MaxEntries + 6 { // more than a join claims
					if _, err := l.Admit(t.Context(), limiter.Limit{Rule: fmt.Sprint("c1aaaa/s", i), Max: 1}); err != nil {
						t.Fatal(err)
					}
				}
				loses(1)
				if name == "keep" {
					loses(2)
				} else {
					loses(1) // they have ended
				}
			})
		})
	}
}

func TestStoreThatLostItsData(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newLink()
		a, b := start(t, s), start(t, s)
		mature(t, a, b)
		first := admit(t, a, 5)
		admit(t, a, 5)
		admit(t, a, 5)
		admit(t, b, 5)
		s.restart()
		time.Sleep(ttl * 4 / 10) // a heartbeat fails, both join, a looks
		if n := total(a); n != 4 || !a.Status().Recovering {
			t.Errorf("re-claimed %d of 4, %+v", n, a.Status())
		}
		refused(t, a, 5, limiter.ErrRecovering)
		first.Release()
		admit(t, a, 5) // a slot that is ours may be used again
		refused(t, a, 5, limiter.ErrRecovering)
		mature(t, a, b)
		admit(t, b, 5)
		refused(t, a, 5, limiter.ErrFull)
	})
}

func TestCutOffReplicaDrainsAndIsNotRefilled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sa := newLink()
		sb := sa.fork()
		a, b := start(t, sa), start(t, sb)
		mature(t, a, b)
		mine := admit(t, a, 2)
		other := admit(t, a, 2)
		sa.down()
		time.Sleep(2 * ttl)
		admit(t, b, 2)
		theirs := admit(t, b, 2)
		sa.up()
		mature(t, a, b)
		time.Sleep(ttl / 5)
		if n := total(b); n != 4 {
			t.Errorf("total %d, want 4: two kept, two given to others", n)
		}
		mine.Release()
		refused(t, a, 2, limiter.ErrFull)
		other.Release()
		refused(t, a, 2, limiter.ErrFull)
		theirs.Release()
		synctest.Wait()
		admit(t, a, 2)
		refused(t, b, 2, limiter.ErrFull)
	})
}

// TestClaimsStayOnTheOldFence: after the store lost its data, a session is
// covered by the new lease only once its own counter was confirmed.
func TestClaimsStayOnTheOldFence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newLink()
		l := start(t, s, strict)
		mature(t, l)
		var grants []*limiter.Grant
		for i := range store.MaxEntries + 6 {
			g, err := l.Admit(t.Context(), limiter.Limit{Rule: fmt.Sprintf("c1aaaa/s%03d", i), Max: 1})
			if err != nil {
				t.Fatal(err)
			}
			grants = append(grants, g)
		}
		joins := s.joins.Load()
		s.set(func(op string) (error, error) {
			if op == "batch" && s.joins.Load() > joins {
				return errCut, nil // the join gets through, the claims after it do not
			}
			return nil, nil
		})
		s.restart()
		began := time.Now()
		<-lost(grants[store.MaxEntries])
		if since := time.Since(began); since > ttl*7/10 {
			t.Errorf("an unconfirmed session lived %v after the loss, longer than its old lease", since)
		}
		for i, g := range grants {
			if confirmed := i < store.MaxEntries; g.Valid() != confirmed {
				t.Errorf("session %d: valid %v, want %v", i, g.Valid(), confirmed)
			}
		}
		s.up()
	})
}

func TestStoreDownAdmit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newLink()
		way := s.fork()
		alone := func(o *limiter.Options) { o.AdmitLocally = true }
		a, b := start(t, s, alone), start(t, way, alone)
		mature(t, a, b)
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
		refused(t, a, 2, limiter.ErrFull) // by its own count
		tooMany := admit(t, b, 2)
		time.Sleep(2 * ttl)
		s.up()
		way.up()
		mature(t, a, b)
		time.Sleep(ttl / 2)
		if n := total(a); n != 3 {
			t.Errorf("total %d, want 3: all are counted now", n)
		}
		tooMany.Release()
		first.Release()
		time.Sleep(ttl / 5)
		admit(t, b, 2)
		refused(t, a, 2, limiter.ErrFull)
		refused(t, b, 2, limiter.ErrFull)
	})
}

// TestNothingIsRefilledAfterTheFence: a replica that was cut off does not know
// what others were given meanwhile, and a recovering store does not know yet.
func TestNothingIsRefilledAfterTheFence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sa := newLink()
		sb := sa.fork()
		a, b := start(t, sa), start(t, sb)
		mature(t, a, b)
		mine := admit(t, a, 2)
		admit(t, a, 2)
		sa.down()
		time.Sleep(2 * ttl)
		admit(t, b, 2)
		admit(t, b, 2)
		sb.down()
		sa.data.Restart(storetest.Snapshot{})
		sa.up()
		time.Sleep(ttl / 5)
		if !a.Status().Recovering || total(a) != 2 {
			t.Fatalf("a is to be alone on a recovering store: %+v", a.Status())
		}
		mine.Release()
		refused(t, a, 2, limiter.ErrRecovering) // b's two, of which nobody knows, still live
		sb.up()
		mature(t, a, b)
		time.Sleep(ttl / 5)
		if n := total(a); n != 3 {
			t.Errorf("total %d, want 3: one of a's left, two of b's", n)
		}
		refused(t, b, 2, limiter.ErrFull)
	})
}

// TestOutageIsForgotten: clients that came and went while the store was away,
// or recovering, are nothing to tell it afterwards.
func TestOutageIsForgotten(t *testing.T) {
	for name, c := range map[string]struct {
		outage func(*link)
		since  time.Duration // until the clients come
		wait   time.Duration // for the store; the clients themselves wait no longer than 100 ms
		alone  bool
	}{
		"refused before the fence":      {(*link).down, ttl / 5, 0, false},
		"refused after the fence":       {(*link).down, 2 * ttl, 0, false},
		"waited before the fence":       {(*link).down, ttl / 5, ttl, false},
		"waited after the fence":        {(*link).down, 2 * ttl, ttl, false},
		"waited for a recovering store": {(*link).restart, ttl / 4, ttl, false},
		"admitted before the fence":     {(*link).down, ttl / 5, 0, true},
		"admitted after the fence":      {(*link).down, 2 * ttl, 0, true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newLink()
				l := start(t, s, func(o *limiter.Options) { o.StoreWait, o.AdmitLocally = c.wait, c.alone })
				mature(t, l)
				c.outage(s)
				time.Sleep(c.since)
				s.entries.Store(0)
				var clients sync.WaitGroup
				for i := range 1000 {
					clients.Go(func() {
						ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
						defer cancel()
						g, err := l.Admit(ctx, limiter.Limit{Rule: "c1aaaa/s1", Max: 1000, Key: fmt.Sprint(i), KeyMax: 1})
						if admitted := err == nil; admitted != c.alone {
							t.Errorf("client %d: %v, want it admitted: %v", i, err, c.alone)
						}
						g.Release()
					})
				}
				clients.Wait()
				s.up()
				mature(t, l)
				time.Sleep(ttl)
				if n := s.entries.Load(); n != 0 {
					t.Errorf("%d counters were stated for clients that are gone", n)
				}
			})
		})
	}
}

// TestStrictAdmitsNobodyAlone, whatever the options say.
func TestStrictAdmitsNobodyAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newLink()
		l := start(t, s, strict, func(o *limiter.Options) { o.AdmitLocally = true })
		mature(t, l)
		s.down()
		refused(t, l, 2, limiter.ErrUnavailable)
		s.up()
	})
}

// TestYouthLasts as long as the fence of whoever may be away, and little longer.
func TestYouthLasts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newLink()
		l := start(t, s)
		began := time.Now()
		for l.Status().Recovering || !l.Status().Joined {
			time.Sleep(ttl / 1000)
		}
		if took := time.Since(began); took < ttl*3/4 || took > ttl*81/100 {
			t.Errorf("young for %v at a TTL of %v", took, ttl)
		}
	})
}
