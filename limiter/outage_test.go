package limiter_test

import (
	"fmt"
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
		waitReady(t, l)
		cuts := 3
		s.set(func(op string) (error, error) {
			if op == "batch" && cuts > 0 {
				cuts--
				return nil, errCut // the request is executed, and its reply lost
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
		waitReady(t, a, b)
		g := admit(t, a, 3)
		admit(t, b, 3)
		s.down()
		begin := time.Now()
		requireRefused(t, a, 3, limiter.ErrUnavailable)
		if waited := time.Since(begin); waited != 3*time.Second {
			t.Errorf("refused after %v, want the store wait", waited)
		}
		time.Sleep(5 * ttl)
		if !g.Valid() || a.Status().Joined {
			t.Errorf("after the outage: valid %v, %+v", g.Valid(), a.Status())
		}
		s.up()
		waitReady(t, a, b)
		time.Sleep(ttl)
		if n := total(a); n != 2 {
			t.Errorf("total %d after the outage, want both sessions", n)
		}
		admit(t, b, 3)
		requireRefused(t, a, 3, limiter.ErrFull)
	})
}

func TestOutageStrictClosesAtTheDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newLink()
		l := start(t, s, strict)
		waitReady(t, l)
		g := admit(t, l, 3)
		s.down()
		cut := time.Now()
		time.Sleep(ttl * 5 / 10)
		if !g.Valid() {
			t.Error("not valid before the deadline")
		}
		<-lost(g)
		if since := time.Since(cut); since > ttl*7/10 {
			t.Errorf("lost after %v", since)
		}
		<-lost(g) // a late question is answered at once
		if g.Valid() {
			t.Error("valid after the deadline")
		}
		g.Release()
		s.up()
		waitReady(t, l)
		admit(t, l, 1)
	})
}

// TestLostLeasesAreCounted: a lost lease counts once, and only if a session relied on
// it. It does not matter how soon the replica is back and how many counters it claims
// then.
func TestLostLeasesAreCounted(t *testing.T) {
	for name, change := range map[string]func(*limiter.Options){"keep": func(*limiter.Options) {}, "close": strict} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newLink()
				l := start(t, s, change)
				waitReady(t, l)
				loses := func(want uint64) {
					t.Helper()
					s.down()
					time.Sleep(ttl)
					s.restart() // so that the claims stand on another lease
					s.up()
					waitReady(t, l)
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
					loses(1) // the sessions have ended
				}
			})
		})
	}
}

func TestStoreThatLostItsData(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newLink()
		a, b := start(t, s), start(t, s)
		waitReady(t, a, b)
		first := admit(t, a, 5)
		admit(t, a, 5)
		admit(t, a, 5)
		admit(t, b, 5)
		s.restart()
		time.Sleep(ttl * 4 / 10) // a heartbeat fails, both join, a looks
		if n := total(a); n != 4 || !a.Status().Recovering {
			t.Errorf("re-claimed %d of 4, %+v", n, a.Status())
		}
		requireRefused(t, a, 5, limiter.ErrRecovering)
		first.Release()
		admit(t, a, 5) // a slot that this replica holds may be reused
		requireRefused(t, a, 5, limiter.ErrRecovering)
		waitReady(t, a, b)
		admit(t, b, 5)
		requireRefused(t, a, 5, limiter.ErrFull)
	})
}

func TestCutOffReplicaDrainsAndReusesNoSlot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sa := newLink()
		sb := sa.fork()
		a, b := start(t, sa), start(t, sb)
		waitReady(t, a, b)
		mine := admit(t, a, 2)
		other := admit(t, a, 2)
		sa.down()
		time.Sleep(2 * ttl)
		admit(t, b, 2)
		theirs := admit(t, b, 2)
		sa.up()
		waitReady(t, a, b)
		time.Sleep(ttl / 5)
		if n := total(b); n != 4 {
			t.Errorf("total %d, want 4: two kept, two given to others", n)
		}
		mine.Release()
		requireRefused(t, a, 2, limiter.ErrFull)
		other.Release()
		requireRefused(t, a, 2, limiter.ErrFull)
		theirs.Release()
		synctest.Wait()
		admit(t, a, 2)
		requireRefused(t, b, 2, limiter.ErrFull)
	})
}

// TestClaimsStayOnTheOldDeadline: after the store lost its data, the new lease covers
// a session only when the store has confirmed the session's counter.
func TestClaimsStayOnTheOldDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newLink()
		l := start(t, s, strict)
		waitReady(t, l)
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
				return errCut, nil // the join arrives, the claims after it do not
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

// TestNoSlotIsReusedAfterTheDeadline: a replica that was cut off does not know which
// slots others got meanwhile, and a recovering store does not know it yet.
func TestNoSlotIsReusedAfterTheDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sa := newLink()
		sb := sa.fork()
		a, b := start(t, sa), start(t, sb)
		waitReady(t, a, b)
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
			t.Fatalf("a should be alone on a recovering store: %+v", a.Status())
		}
		mine.Release()
		requireRefused(t, a, 2, limiter.ErrRecovering) // the store does not know of b's two sessions, which still live
		sb.up()
		waitReady(t, a, b)
		time.Sleep(ttl / 5)
		if n := total(a); n != 3 {
			t.Errorf("total %d, want 3: one of a's left, two of b's", n)
		}
		requireRefused(t, b, 2, limiter.ErrFull)
	})
}

// TestRecoveryLasts: a recovery takes as long as the lease of a replica that may be
// away, and not much longer.
func TestRecoveryLasts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newLink()
		l := start(t, s)
		began := time.Now()
		for l.Status().Recovering || !l.Status().Joined {
			time.Sleep(ttl / 1000)
		}
		if took := time.Since(began); took < ttl*3/4 || took > ttl*81/100 {
			t.Errorf("recovering for %v at a TTL of %v", took, ttl)
		}
	})
}
