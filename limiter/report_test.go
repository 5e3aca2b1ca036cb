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

// reporting is limitOf(n), if it only reports.
func reporting(n int64) limiter.Limit {
	l := limitOf(n)
	l.Report = true
	return l
}

// requireVerdict admits a session by a limit that only reports.
func requireVerdict(t *testing.T, l *limiter.Limiter, by limiter.Limit, want error) *limiter.Grant {
	t.Helper()
	g, err := l.Admit(t.Context(), by)
	if err != nil {
		t.Fatalf("refused by a limit that only reports: %v", err)
	}
	if got := g.WouldRefuse(); want == nil && got != nil || want != nil && (got == nil || !errors.Is(got, want)) {
		t.Fatalf("would refuse: %v, want %v", got, want)
	}
	return g
}

// TestReport: a limit that only reports admits everybody, counts everybody, and reports
// whom the store finds at the maximum, whichever replica asks.
func TestReport(t *testing.T) {
	for name, strict := range map[string]bool{"keep": false, "strict": true} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newLink()
				mode := func(o *limiter.Options) { o.Strict = strict }
				a, b := start(t, s, mode), start(t, s, mode)
				waitReady(t, a, b)
				first := requireVerdict(t, a, reporting(2), nil)
				second := requireVerdict(t, b, reporting(2), nil)
				third := requireVerdict(t, b, reporting(2), limiter.ErrFull)
				fourth := requireVerdict(t, a, reporting(2), limiter.ErrFull)
				time.Sleep(ttl)
				if n := total(a); n != 4 {
					t.Errorf("%d sessions are counted, want 4", n)
				}
				first.Release()
				requireVerdict(t, a, reporting(2), limiter.ErrFull).Release() // no slot is handed on
				second.Release()
				third.Release()
				time.Sleep(ttl / 10)
				requireVerdict(t, a, reporting(2), nil)
				requireVerdict(t, b, reporting(2), limiter.ErrFull)
				if g := fourth; !g.Valid() || !g.Confirmed() {
					t.Errorf("a reported session: valid %t, confirmed %t", g.Valid(), g.Confirmed())
				}
			})
		})
	}
}

// TestReportRates: a rate that only reports is used up by as many sessions as begin
// unreported.
func TestReportRates(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newLink()
		a, b := start(t, s), start(t, s)
		waitReady(t, a, b)
		rate := limit.Rate{N: 2, Per: time.Minute}
		for _, l := range []limiter.Limit{
			{Rule: "c1aaaa/s2", Max: limit.None, Throttle: rate, Report: true},
			{Rule: "c1aaaa/s3", Max: 9, Throttle: rate, Report: true},
			{Rule: "c1aaaa/s4", Max: limit.None, Key: "x", KeyMax: limit.None, KeyThrottle: rate, Report: true},
		} {
			for range 2 {
				requireVerdict(t, a, l, nil)
				requireVerdict(t, b, l, nil)
				requireVerdict(t, a, l, limiter.ErrThrottled).Release()
				requireVerdict(t, b, l, limiter.ErrThrottled)
				time.Sleep(time.Minute)
			}
		}
	})
}

// TestReportInAPool: replicas that enforce the number of a pool obey it while others only
// report it. A session that was reported is asked again by rules that enforce.
func TestReportInAPool(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newLink()
		a, b := start(t, s), start(t, s)
		waitReady(t, a, b)
		dry := web(2)
		dry.Report = true
		first := requireAnswer(t, a, web(2), nil)
		second := requireVerdict(t, b, dry, nil)
		third := requireVerdict(t, b, dry, limiter.ErrFull)
		requireAnswer(t, a, web(2), limiter.ErrFull)
		if err := third.Move(t.Context(), dry); err != nil || third.WouldRefuse() != nil || !third.Kept() {
			t.Errorf("a session that stays in its pool: %v, reported again: %v, kept: %t", err, third.WouldRefuse(), third.Kept())
		}
		if err := third.Move(t.Context(), web(2)); !errors.Is(err, limiter.ErrFull) {
			t.Errorf("a reported session under rules that enforce: %v", err)
		}
		if err := second.Move(t.Context(), web(2)); err != nil || second.Kept() {
			t.Errorf("a session within the number under rules that enforce: %v, kept: %t", err, second.Kept())
		}
		first.Release()
		time.Sleep(ttl / 10)
		requireAnswer(t, a, web(2), nil)
		requireVerdict(t, b, dry, limiter.ErrFull)
	})
}

// TestReportWithoutStore: a limit that only reports neither refuses nor ends a session
// because the store gives no answer. Only the first session waits, and none is judged.
// Limits that refuse go on waiting.
func TestReportWithoutStore(t *testing.T) {
	for name, strict := range map[string]bool{"keep": false, "strict": true} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newLink()
				l := start(t, s, func(o *limiter.Options) { o.Strict = strict })
				waitReady(t, l)
				before := requireVerdict(t, l, reporting(1), nil)
				lostIt := lost(before)
				s.down()
				for i, wait := range []time.Duration{3 * time.Second, 0} {
					begin := time.Now()
					if g := requireVerdict(t, l, reporting(1), nil); g.Confirmed() || time.Since(begin) != wait {
						t.Errorf("session %d: confirmed %t after %v, want %v", i, g.Confirmed(), time.Since(begin), wait)
					}
				}
				begin := time.Now()
				if _, err := l.Admit(t.Context(), limiter.Limit{Rule: "c1aaaa/s2", Max: 1}); !errors.Is(err, limiter.ErrUnavailable) || time.Since(begin) != 3*time.Second {
					t.Errorf("a limit that refuses: %v after %v", err, time.Since(begin))
				}
				time.Sleep(2 * ttl)
				select {
				case <-lostIt:
					t.Error("the session was ended")
				default:
				}
				if !before.Valid() {
					t.Error("the session may not write any more")
				}
				s.restart()
				s.up()
				time.Sleep(ttl / 5) // it recovers, and judges nobody
				requireVerdict(t, l, reporting(1), nil)
				waitReady(t, l)
				time.Sleep(ttl)
				if n := total(l); n != 4 {
					t.Errorf("%d sessions are counted, want 4", n)
				}
				requireVerdict(t, l, reporting(1), limiter.ErrFull)
			})
		})
	}
}

// TestReportAmongConflictingReplicas: nor does it refuse a session because other
// replicas have other settings.
func TestReportAmongConflictingReplicas(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newLink()
		a := start(t, s)
		waitReady(t, a)
		b := start(t, s, shorter(2))
		waitMismatch(t, b)
		if g := requireVerdict(t, b, reporting(1), nil); g.Confirmed() {
			t.Error("the store has admitted it")
		}
	})
}

// TestReportedSessionThatIsNotCounted: if the store does not learn of a reported session
// in time, the session begins all the same. If its client has left, it is gone.
func TestReportedSessionThatIsNotCounted(t *testing.T) {
	for name, leaves := range map[string]bool{"stays": false, "leaves": true} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newLink()
				l := start(t, s)
				waitReady(t, l)
				requireVerdict(t, l, reporting(1), nil)
				batches := 0
				s.set(func(op string) (error, error) {
					if op == "batch" {
						batches++
					}
					if batches > 1 {
						return errCut, nil // the first one says that the limit is full
					}
					return nil, nil
				})
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				want := int64(2)
				if leaves {
					want = 1
					time.AfterFunc(time.Second, cancel)
				}
				begin := time.Now()
				g, err := l.Admit(ctx, reporting(1))
				switch {
				case leaves && !errors.Is(err, context.Canceled):
					t.Errorf("the client has left: %v", err)
				case !leaves && (err != nil || g.WouldRefuse() == nil || g.Confirmed() || time.Since(begin) != 3*time.Second):
					t.Errorf("%v, would refuse %v, confirmed %t after %v", err, g.WouldRefuse(), g.Confirmed(), time.Since(begin))
				}
				s.up()
				waitReady(t, l)
				time.Sleep(ttl)
				if n := total(l); n != want {
					t.Errorf("%d sessions are counted, want %d", n, want)
				}
			})
		})
	}
}

// TestCloseEndsAReportedSessionThatWaits: a replica that leaves answers everybody.
func TestCloseEndsAReportedSessionThatWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newLink()
		l := limiter.New(limiter.Options{Store: s, TTL: ttl, StoreWait: time.Hour})
		l.SetSpace("c1aaaa", nil)
		waitReady(t, l)
		requireVerdict(t, l, reporting(0), limiter.ErrFull)
		batches := 0
		s.set(func(op string) (error, error) {
			if op == "batch" {
				batches++
			}
			if batches > 1 {
				return errCut, nil
			}
			return nil, nil
		})
		answered := make(chan error)
		go func() {
			_, err := l.Admit(context.Background(), reporting(0))
			answered <- err
		}()
		time.Sleep(ttl / 50)
		closed := make(chan struct{})
		go func() {
			defer close(closed)
			stop(t, l)
		}()
		if err := <-answered; !errors.Is(err, limiter.ErrClosed) {
			t.Errorf("answered %v", err)
		}
		s.up()
		<-closed
	})
}

// TestReportTooManyKeys: if as many keys of a rule have windows as may, a session of
// another key is reported, whichever replica asks. It opens no window.
func TestReportTooManyKeys(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newLink()
		bounded := func(o *limiter.Options) { o.MaxKeys = 2 }
		a, b := start(t, s, bounded), start(t, s, bounded)
		waitReady(t, a, b)
		of := func(key string) limiter.Limit {
			return limiter.Limit{
				Rule: "c1aaaa/s1", Max: limit.None, Report: true,
				Key: key, KeyMax: limit.None, KeyThrottle: limit.Rate{N: 2, Per: 2 * ttl},
			}
		}
		for range 2 {
			requireVerdict(t, a, of("x"), nil)
			requireVerdict(t, b, of("y"), nil)
			requireVerdict(t, a, of("z"), limiter.ErrKeys)
			if by := requireVerdict(t, b, of("z"), limiter.ErrKeys).WouldRefuse(); !by.ByKey {
				t.Error("the limit is not that of the key")
			}
			requireVerdict(t, b, of("x"), nil)
			requireVerdict(t, a, of("x"), limiter.ErrThrottled)
			time.Sleep(2 * ttl)
		}
		requireVerdict(t, b, of("z"), nil)
	})
}

// TestReportOverShards: a limit in another shard than the first reports as exactly. While
// the first shard does not answer, nobody may be judged there, nor refused.
func TestReportOverShards(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newLink()
		s.more = []*storetest.Model{storetest.NewModelInRealTime(), storetest.NewModelInRealTime()}
		var away atomic.Bool
		exchanges := func(o *limiter.Options) {
			o.Exchange = func(context.Context, store.Conn) error {
				if away.Load() {
					return errCut
				}
				return nil
			}
		}
		a, b := start(t, s, exchanges), start(t, s, exchanges)
		waitReady(t, a, b)
		dry := elsewhere()
		dry.Max, dry.Report = 2, true
		b.SetSpace("c1aaaa", []string{dry.Rule})
		requireVerdict(t, a, dry, nil)
		requireVerdict(t, b, dry, nil)
		requireVerdict(t, a, dry, limiter.ErrFull)
		requireVerdict(t, b, dry, limiter.ErrFull)
		away.Store(true)
		time.Sleep(2 * ttl)
		if g := requireVerdict(t, a, dry, nil); g.Confirmed() {
			t.Error("the store has admitted it")
		}
		away.Store(false)
		time.Sleep(ttl)
		requireVerdict(t, b, dry, limiter.ErrFull)
		time.Sleep(ttl / 5)
		if n := b.Status().Totals[dry.Rule]; n != 6 {
			t.Errorf("%d sessions are counted, want 6", n)
		}
	})
}
