package limiter_test

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"usher/limiter"
	"usher/store/limit"
)

// rateOf is n in 20 s, and at most limit at a time.
func rateOf(n, most int64) limiter.Limit {
	return limiter.Limit{Rule: "c1aaaa/s1", Max: most, Throttle: limit.Rate{N: n, Per: 2 * ttl}}
}

// wants admits by limit, or is refused.
func wants(t *testing.T, l *limiter.Limiter, limit limiter.Limit, want error) *limiter.Grant {
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
				mature(t, a, b)
				for range 2 { // two windows
					wants(t, a, limit, nil).Release()
					time.Sleep(ttl)
					wants(t, b, limit, nil).Release()
					wants(t, a, limit, nil).Release()
					wants(t, a, limit, limiter.ErrThrottled)
					wants(t, b, limit, limiter.ErrThrottled)
					time.Sleep(ttl)
				}
				if n := total(a); n != 0 {
					t.Errorf("total %d after all have ended", n)
				}
			})
		})
	}
}

// TestThrottleLostReply: what was used up for a session begins one, also when
// the answer has to be asked for again.
func TestThrottleLostReply(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newLink()
		l := start(t, s)
		mature(t, l)
		for range 3 {
			cuts := 2
			s.set(func(op string) (error, error) {
				if op == "batch" && cuts > 0 {
					cuts--
					return nil, errCut
				}
				return nil, nil
			})
			wants(t, l, rateOf(3, limit.None), nil)
		}
		wants(t, l, rateOf(3, limit.None), limiter.ErrThrottled)
	})
}

// TestThrottleAloneCountsNothing: there is nothing that a recovering store could
// not know, that a fence could end, or that would have to be given back.
func TestThrottleAloneCountsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newLink()
		l := start(t, s, strict)
		time.Sleep(ttl / 5)
		if !l.Status().Recovering {
			t.Fatalf("not recovering: %+v", l.Status())
		}
		g := wants(t, l, rateOf(1, limit.None), nil)
		wants(t, l, rateOf(1, limit.None), limiter.ErrThrottled)
		counted := rateOf(1, 5)
		counted.Rule = "c1aaaa/s2"
		wants(t, l, counted, limiter.ErrRecovering)
		mature(t, l)
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
		wants(t, l, rateOf(1, limit.None), limiter.ErrUnavailable)
		s.up()
	})
}

func TestThrottleByKey(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newLink()
		a, b := start(t, s), start(t, s)
		mature(t, a, b)
		of := func(key string) limiter.Limit {
			l := rateOf(3, limit.None)
			l.Key, l.KeyMax, l.KeyThrottle = key, 1, limit.Rate{N: 2, Per: 2 * ttl}
			return l
		}
		first := wants(t, a, of("x"), nil)
		wants(t, b, of("x"), limiter.ErrFull)
		first.Release()
		synctest.Wait()
		wants(t, b, of("x"), nil).Release()
		synctest.Wait()
		wants(t, a, of("x"), limiter.ErrThrottled) // the key's
		wants(t, a, of("y"), nil)
		wants(t, b, of("z"), limiter.ErrThrottled) // the rule's
	})
}

// TestThrottleStoreDownAdmit: without the store each replica has windows of its own.
func TestThrottleStoreDownAdmit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newLink()
		alone := func(o *limiter.Options) { o.AdmitLocally = true }
		a, b := start(t, s, alone), start(t, s, alone)
		mature(t, a, b)
		s.down()
		for _, l := range []*limiter.Limiter{a, b} {
			for range 2 {
				if wants(t, l, rateOf(2, limit.None), nil).Confirmed() {
					t.Error("confirmed without the store")
				}
			}
			wants(t, l, rateOf(2, limit.None), limiter.ErrThrottled)
		}
		time.Sleep(2 * ttl)
		wants(t, a, rateOf(2, limit.None), nil)
		counted := rateOf(2, 1)
		counted.Rule = "c1aaaa/s2"
		wants(t, a, counted, nil)
		wants(t, a, counted, limiter.ErrFull)
		s.up()
	})
}

// TestKeysStoreDownAdmit: a replica by itself holds the rule's limits over all
// keys, and each key's.
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
		wants(t, l, of("s2", "x"), nil) // another rule, which counts apart
		first := wants(t, l, of("s1", "x"), nil)
		wants(t, l, of("s1", "x"), nil)
		wants(t, l, of("s1", "x"), limiter.ErrFull) // the key's
		second := wants(t, l, of("s1", "y"), nil)
		wants(t, l, of("s1", "z"), limiter.ErrFull) // the rule's
		first.Release()
		wants(t, l, of("s1", "x"), nil).Release()
		wants(t, l, of("s1", "x"), limiter.ErrThrottled) // the key's
		second.Release()
		wants(t, l, of("s1", "z"), nil).Release()
		wants(t, l, of("s1", "z"), limiter.ErrThrottled) // the rule's
		wants(t, l, of("s2", "z"), nil)
		s.up()
	})
}
