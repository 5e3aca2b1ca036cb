package limiter_test

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"usher/limiter"
	"usher/store/limit"
)

// rateOf is a limit of n new sessions in 20 s, and at most most at a time.
func rateOf(n, most int64) limiter.Limit {
	return limiter.Limit{Rule: "c1aaaa/s1", Max: most, Throttle: limit.Rate{N: n, Per: 2 * ttl}}
}

// requireAnswer asks for a session of limit and requires the answer want.
func requireAnswer(t *testing.T, l *limiter.Limiter, limit limiter.Limit, want error) *limiter.Grant {
	t.Helper()
	g, err := l.Admit(t.Context(), limit)
	if !errors.Is(err, want) {
		t.Fatalf("Admit: %v, want %v", err, want)
	}
	return g
}

func TestThrottleOverReplicas(t *testing.T) {
	for name, limit := range map[string]limiter.Limit{"with a maximum": rateOf(3, 5), "alone": rateOf(3, limit.None)} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newLink()
				a, b := start(t, s), start(t, s)
				waitReady(t, a, b)
				for range 2 { // two windows
					requireAnswer(t, a, limit, nil).Release()
					time.Sleep(ttl)
					requireAnswer(t, b, limit, nil).Release()
					requireAnswer(t, a, limit, nil).Release()
					requireAnswer(t, a, limit, limiter.ErrThrottled)
					requireAnswer(t, b, limit, limiter.ErrThrottled)
					time.Sleep(ttl)
				}
				if n := total(a); n != 0 {
					t.Errorf("total %d after all have ended", n)
				}
			})
		})
	}
}

// TestThrottleLostReply: if the answer to an admission by a rate is lost twice, the
// admission still counts once, and the session begins.
func TestThrottleLostReply(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newLink()
		l := start(t, s)
		waitReady(t, l)
		for range 3 {
			cuts := 2
			s.set(func(op string) (error, error) {
				if op == "batch" && cuts > 0 {
					cuts--
					return nil, errCut
				}
				return nil, nil
			})
			requireAnswer(t, l, rateOf(3, limit.None), nil)
		}
		requireAnswer(t, l, rateOf(3, limit.None), limiter.ErrThrottled)
	})
}

// TestThrottleAloneCountsNothing: sessions of a rate alone are admitted during a
// recovery, do not end with a lease, and give nothing back.
func TestThrottleAloneCountsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newLink()
		l := start(t, s, strict)
		time.Sleep(ttl / 5)
		if !l.Status().Recovering {
			t.Fatalf("not recovering: %+v", l.Status())
		}
		g := requireAnswer(t, l, rateOf(1, limit.None), nil)
		requireAnswer(t, l, rateOf(1, limit.None), limiter.ErrThrottled)
		counted := rateOf(1, 5)
		counted.Rule = "c1aaaa/s2"
		requireAnswer(t, l, counted, limiter.ErrRecovering)
		waitReady(t, l)
		for c, n := range s.data.Dump()["t"] {
			if c != ".b" {
				t.Errorf("the store counts %s of %s", n, c)
			}
		}
		s.down()
		time.Sleep(5 * ttl)
		if !g.Valid() || !g.Confirmed() {
			t.Errorf("after an outage: valid %v, confirmed %v", g.Valid(), g.Confirmed())
		}
		select {
		case <-lost(g):
			t.Error("lost")
		default:
		}
		g.Release()
		g.Release()
		requireAnswer(t, l, rateOf(1, limit.None), limiter.ErrUnavailable)
		s.up()
	})
}

func TestThrottleByKey(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newLink()
		a, b := start(t, s), start(t, s)
		waitReady(t, a, b)
		of := func(key string) limiter.Limit {
			l := rateOf(3, limit.None)
			l.Key, l.KeyMax, l.KeyThrottle = key, 1, limit.Rate{N: 2, Per: 2 * ttl}
			return l
		}
		first := requireAnswer(t, a, of("x"), nil)
		requireAnswer(t, b, of("x"), limiter.ErrFull)
		first.Release()
		synctest.Wait()
		requireAnswer(t, b, of("x"), nil).Release()
		synctest.Wait()
		requireAnswer(t, a, of("x"), limiter.ErrThrottled) // the key's
		requireAnswer(t, a, of("y"), nil)
		requireAnswer(t, b, of("z"), limiter.ErrThrottled) // the rule's
	})
}

// TestThrottleKeysOverReplicas: the bound on the keys of a rule holds over all
// replicas, for those that admit locally for each, and for a window.
func TestThrottleKeysOverReplicas(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newLink()
		bounded := func(o *limiter.Options) { o.MaxKeys, o.AdmitLocally = 2, true }
		a, b := start(t, s, bounded), start(t, s, bounded)
		waitReady(t, a, b)
		of := func(rule, key string) limiter.Limit {
			return limiter.Limit{
				Rule: "c1aaaa/" + rule, Max: limit.None,
				Key: key, KeyMax: limit.None, KeyThrottle: limit.Rate{N: 3, Per: 2 * ttl},
			}
		}
		check := func() {
			t.Helper()
			requireAnswer(t, a, of("s1", "x"), nil)
			requireAnswer(t, a, of("s1", "y"), nil)
			requireAnswer(t, a, of("s1", "z"), limiter.ErrKeys)
			requireAnswer(t, a, of("s1", "x"), nil)
			requireAnswer(t, a, of("s2", "z"), nil)
		}
		check()
		requireAnswer(t, b, of("s1", "z"), limiter.ErrKeys)
		requireAnswer(t, b, of("s1", "y"), nil)
		time.Sleep(2 * ttl)
		check()
		s.down()
		check()
		requireAnswer(t, b, of("s1", "z"), nil)
		time.Sleep(2 * ttl)
		check()
		s.up()
	})
}

// TestThrottleStoreDownAdmit: without the store each replica has its own windows.
func TestThrottleStoreDownAdmit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newLink()
		alone := func(o *limiter.Options) { o.AdmitLocally = true }
		a, b := start(t, s, alone), start(t, s, alone)
		waitReady(t, a, b)
		s.down()
		for _, l := range []*limiter.Limiter{a, b} {
			for range 2 {
				if requireAnswer(t, l, rateOf(2, limit.None), nil).Confirmed() {
					t.Error("confirmed without the store")
				}
			}
			requireAnswer(t, l, rateOf(2, limit.None), limiter.ErrThrottled)
		}
		time.Sleep(2 * ttl)
		requireAnswer(t, a, rateOf(2, limit.None), nil)
		counted := rateOf(2, 1)
		counted.Rule = "c1aaaa/s2"
		requireAnswer(t, a, counted, nil)
		requireAnswer(t, a, counted, limiter.ErrFull)
		s.up()
	})
}

// TestKeysStoreDownAdmit: a replica that admits locally keeps to the limits of the
// rule over all keys, and to those of each key.
func TestKeysStoreDownAdmit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newLink()
		s.down()
		l := start(t, s, func(o *limiter.Options) { o.StoreWait, o.AdmitLocally = 0, true })
		of := func(rule, key string) limiter.Limit {
			return limiter.Limit{
				Rule: "c1aaaa/" + rule, Max: 3, Throttle: limit.Rate{N: 5, Per: ttl},
				Key: key, KeyMax: 2, KeyThrottle: limit.Rate{N: 3, Per: ttl},
			}
		}
		requireAnswer(t, l, of("s2", "x"), nil) // another rule, with a count of its own
		first := requireAnswer(t, l, of("s1", "x"), nil)
		requireAnswer(t, l, of("s1", "x"), nil)
		requireAnswer(t, l, of("s1", "x"), limiter.ErrFull) // the key's
		second := requireAnswer(t, l, of("s1", "y"), nil)
		requireAnswer(t, l, of("s1", "z"), limiter.ErrFull) // the rule's
		first.Release()
		requireAnswer(t, l, of("s1", "x"), nil).Release()
		requireAnswer(t, l, of("s1", "x"), limiter.ErrThrottled) // the key's
		second.Release()
		requireAnswer(t, l, of("s1", "z"), nil).Release()
		requireAnswer(t, l, of("s1", "z"), limiter.ErrThrottled) // the rule's
		requireAnswer(t, l, of("s2", "z"), nil)
		s.up()
	})
}
