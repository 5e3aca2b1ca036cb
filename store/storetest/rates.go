package storetest

import (
	"time"

	"usher/store"
	"usher/store/limit"
)

// perHour is a rate of n in a window that does not end while a test runs.
func perHour(n int64) limit.Rate { return limit.Rate{N: n, Per: time.Hour} }

// rated states a counter without keys that has a rate.
func rated(n, most, live, need int64) store.Entry {
	e := entry(most, live, need)
	e.Rate = perHour(n)
	return e
}

// ratedKey states a key that has a rate below that of its rule.
func ratedKey(key string, n, ruleN, need int64) store.Entry {
	e := keyedEntry(key, limit.None, limit.None, need)
	e.Rate, e.RuleRate = perHour(n), perHour(ruleN)
	return e
}

func rateOfAll(f *fixture) {
	a, b := f.ready()
	f.want("a", a.batch(rated(3, 9, 0, 2)).Counts[0], store.Count{Granted: 2, Total: 2, Admitted: 2})
	f.want("b", b.batch(rated(3, 9, 0, 4)).Counts[0], store.Count{Granted: 1, Total: 3, Admitted: 1, Throttled: true})
	f.want("b again", b.batch(rated(3, 9, 1, 2)).Counts[0], store.Count{Granted: 1, Total: 3, Throttled: true})
	f.want("a, whose sessions ended", a.batch(rated(3, 9, 0, 1)).Counts[0], store.Count{Total: 1, Throttled: true})
	f.want("without waiters", a.batch(entry(9, 0, 0)).Counts[0], store.Count{Total: 1})
}

func rateRefusals(f *fixture) {
	a, b := f.ready()
	a.batch(rated(3, 1, 0, 1))
	for range 4 {
		f.want("full", b.batch(rated(3, 1, 0, 1)).Counts[0].Admitted, 0)
	}
	a.batch(entry(1, 0, 0))
	f.want("two are left, and one slot", b.batch(rated(3, 1, 0, 2)).Counts[0], store.Count{Granted: 1, Total: 1, Admitted: 1})
}

func rateBoth(f *fixture) {
	a, b := f.ready()
	reply := a.batch(ratedKey("x", 1, 4, 3), ratedKey("y", 2, 4, 1))
	f.want("x: its own", reply.Counts[0], store.Count{Admitted: 1, Throttled: true})
	f.want("y", reply.Counts[1], store.Count{Admitted: 1})
	f.want("x again", b.batch(ratedKey("x", 1, 4, 3)).Counts[0], store.Count{Throttled: true})
	f.want("z: what the rule has left", b.batch(ratedKey("z", 3, 4, 3)).Counts[0], store.Count{Admitted: 2, RuleThrottled: true})
	f.want("z has one left, the rule none", a.batch(ratedKey("z", 3, 4, 3)).Counts[0], store.Count{RuleThrottled: true})
	f.want("no rate of its own", a.batch(ratedKey("u", 0, 4, 1)).Counts[0], store.Count{RuleThrottled: true})
}

func rateDuplicate(f *fixture) {
	a, b := f.ready()
	e, alone := rated(5, 9, 0, 2), ratedKey("x", 3, 3, 2)
	alone.Counter = "c1aaaa/s2/x"
	plain := ratedKey("y", 0, 0, 0) // of the same rule, with nobody waiting
	plain.Counter = "c1aaaa/s2/y"
	req := a.batchRequest(e, plain, alone)
	a.send(req)
	reply := b.batch(rated(5, 9, 0, 3), alone)
	f.want("b's share of the rate", reply.Counts[0].Admitted, 3)
	again := a.send(req)
	f.want("the duplicate", again.Counts[0], store.Count{Granted: 2, Total: 5, Admitted: 2, Throttled: true})
	f.want("the duplicate of a rate alone", again.Counts[2], store.Count{Admitted: 2, Throttled: true, RuleThrottled: true})
}

func rateNothingInHand(f *fixture) {
	a, b := f.ready()
	a.batch(rated(9, 4, 0, 4))
	f.want("three ended, one waits", a.batch(rated(9, 4, 1, 2)).Counts[0], store.Count{Granted: 2, Total: 2, Admitted: 1})
	f.want("b", b.batch(rated(6, 4, 0, 2)).Counts[0], store.Count{Granted: 1, Total: 3, Admitted: 1, Throttled: true})
	f.want("nothing left, one ended", a.batch(rated(6, 4, 1, 2)).Counts[0], store.Count{Granted: 1, Total: 2, Throttled: true})
}

func rateAlone(f *fixture) {
	a := f.replica()
	a.mustJoin()
	f.want("recovering, with a maximum", a.batch(rated(3, 9, 0, 2)).Counts[0], store.Count{})
	f.want("recovering, without", a.batch(rated(3, limit.None, 0, 2)).Counts[0], store.Count{Admitted: 2})
	f.want("again", a.batch(rated(3, limit.None, 0, 2)).Counts[0], store.Count{Admitted: 1, Throttled: true})
	f.endRecovery(a)
	f.want("ready", a.batch(rated(4, limit.None, 0, 2)).Counts[0], store.Count{Admitted: 1, Throttled: true})
}

func rateClaims(f *fixture) {
	a, _ := f.ready()
	req := a.batchRequest(rated(3, 9, 1, 3))
	req.More = true
	f.want("claims", a.send(req).Counts[0], store.Count{Granted: 1, Total: 1})
	alone := rated(3, limit.None, 0, 2)
	alone.Counter = "c1aaaa/s2"
	req = a.batchRequest(alone)
	req.More = true
	f.want("claims of a rate alone", a.send(req).Counts[0], store.Count{})
}

func rateWindowEnds(f *fixture) {
	a, _ := f.ready()
	e := rated(2, limit.None, 0, 5)
	e.Rate.Per = 50 * time.Millisecond
	f.want("first window", a.batch(e).Counts[0].Admitted, 2)
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		if n := a.batch(e).Counts[0].Admitted; n > 0 {
			f.want("second window", n, 2)
			return
		}
		if time.Now().After(deadline) {
			f.Fatalf("no second window")
		}
	}
}

// boundedKey states a key of a rule for which the store keeps the windows of up to `most`
// keys.
func boundedKey(key string, most, n, need int64) store.Entry {
	e := ratedKey(key, n, 0, need)
	e.MaxKeys = most
	return e
}

func rateKeys(f *fixture) {
	a, b := f.ready()
	reply := a.batch(boundedKey("x", 2, 3, 1), boundedKey("y", 2, 3, 4), boundedKey("z", 2, 3, 1))
	f.want("x", reply.Counts[0], store.Count{Admitted: 1})
	f.want("y", reply.Counts[1], store.Count{Admitted: 3, Throttled: true})
	f.want("z: no place is left", reply.Counts[2], store.Count{NoWindow: true})
	f.want("z elsewhere", b.batch(boundedKey("z", 2, 3, 1)).Counts[0], store.Count{NoWindow: true})
	f.want("x goes on", b.batch(boundedKey("x", 2, 3, 5)).Counts[0], store.Count{Admitted: 2, Throttled: true})
	other := boundedKey("z", 2, 3, 1)
	other.Counter = "c1aaaa/s2/z"
	f.want("z of another rule", b.batch(other).Counts[0], store.Count{Admitted: 1})
	f.want("z where more may have windows", b.batch(boundedKey("z", 3, 3, 1)).Counts[0], store.Count{Admitted: 1})
	f.want("u where any number may", b.batch(boundedKey("u", 0, 3, 1)).Counts[0], store.Count{Admitted: 1})
	counted := boundedKey("v", 3, 3, 1)
	counted.Max = 5
	f.want("v, whose sessions are counted as well", a.batch(counted).Counts[0], store.Count{NoWindow: true})
}

func rateKeysRefusals(f *fixture) {
	a, _ := f.ready()
	full := boundedKey("x", 1, 3, 1)
	full.Max = 0
	f.want("full", a.batch(full).Counts[0], store.Count{})
	used := boundedKey("y", 1, 3, 2)
	used.RuleRate = perHour(1)
	f.want("y", a.batch(used).Counts[0], store.Count{Admitted: 1, RuleThrottled: true})
	f.want("no session waits", a.batch(boundedKey("z", 1, 3, 0)).Counts[0], store.Count{NoWindow: true})
	f.want("y again", a.batch(boundedKey("y", 1, 3, 1)).Counts[0], store.Count{Admitted: 1})
}

func rateKeysDuplicate(f *fixture) {
	a, b := f.ready()
	req := a.batchRequest(boundedKey("x", 2, 3, 1))
	a.send(req)
	f.want("the duplicate", a.send(req).Counts[0], store.Count{Admitted: 1})
	f.want("y has the other place", b.batch(boundedKey("y", 2, 3, 1)).Counts[0], store.Count{Admitted: 1})
	f.want("z has none", a.batch(boundedKey("z", 2, 3, 1)).Counts[0], store.Count{NoWindow: true})
}

func rateKeysEnd(f *fixture) {
	a, _ := f.ready()
	short := func(key string) store.Entry {
		e := boundedKey(key, 1, 1, 1)
		e.Rate.Per = 50 * time.Millisecond
		return e
	}
	f.want("x", a.batch(short("x")).Counts[0], store.Count{Admitted: 1, Throttled: true})
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		if a.batch(short("y")).Counts[0].Admitted > 0 {
			return
		}
		if time.Now().After(deadline) {
			f.Fatalf("y has no place after the window of x")
		}
	}
}
