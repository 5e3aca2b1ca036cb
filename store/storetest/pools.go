package storetest

import (
	"time"

	"usher/store"
	"usher/store/limit"
)

// pooled states a pool that is not counted by key.
func pooled(most, live, need int64) store.Entry {
	return store.Entry{Counter: "pool/web", Max: most, RuleMax: limit.None, Live: live, Need: need}
}

// pooledKey states a key of the same pool.
func pooledKey(key string, most, poolMax, live, need int64) store.Entry {
	return store.Entry{Counter: "pool/web/" + key, Max: most, RuleMax: poolMax, Live: live, Need: need}
}

func poolNumbers(f *fixture) {
	a, b := f.ready()
	f.want("a by 5", a.batch(pooled(5, 0, 4)).Counts[0], store.Count{Granted: 4, Total: 4})
	f.want("b by 2", b.batch(pooled(2, 0, 1)).Counts[0], store.Count{Total: 4})
	f.want("b by 6", b.batch(pooled(6, 0, 3)).Counts[0], store.Count{Granted: 2, Total: 6})
	f.want("a by 5, which b has passed", a.batch(pooled(5, 4, 5)).Counts[0].Granted, 4)
	f.want("a by 4, and two have ended", a.batch(pooled(4, 2, 3)).Counts[0].Granted, 2)
	b.batch(pooled(6, 1, 1))
	f.want("a by 4, and three have ended", a.batch(pooled(4, 2, 3)).Counts[0], store.Count{Granted: 3, Total: 4})
}

// A granted slot that a does not use is no reason to admit above a lower number.
func poolSurplus(f *fixture) {
	a, b := f.ready()
	a.batch(pooled(9, 0, 4))
	b.batch(pooled(9, 0, 5))
	f.want("by 7", a.batch(pooled(7, 2, 3)).Counts[0], store.Count{Granted: 2, Total: 7})
	f.want("by 8", a.batch(pooled(8, 2, 3)).Counts[0], store.Count{Granted: 3, Total: 8})
}

func poolLowered(f *fixture) {
	strict := keep
	strict.Strict = true
	a, b := f.replica(), f.replica()
	a.settings, b.settings = strict, strict
	a.mustJoin(pooled(limit.None, 4, 4))
	f.want("a claim beside it", b.mustJoin(pooled(limit.None, 3, 3)).Counts[0], store.Count{Granted: 3, Total: 7})
	f.endRecovery(a)
	f.want("all go on", b.batch(pooled(5, 3, 4)).Counts[0], store.Count{Granted: 3, Total: 7})
	f.want("none is replaced", b.batch(pooled(5, 2, 3)).Counts[0], store.Count{Granted: 2, Total: 6})
	a.batch(pooled(limit.None, 2, 2))
	f.want("until there are fewer", b.batch(pooled(5, 2, 3)).Counts[0], store.Count{Granted: 3, Total: 5, Contended: false})
}

func poolKeys(f *fixture) {
	a, b := f.ready()
	a.batch(pooled(5, 0, 2)) // of a generation that does not count by key
	f.want("x", a.batch(pooledKey("x", 2, 5, 0, 3)).Counts[0], store.Count{Granted: 2, Total: 2, RuleTotal: 4})
	f.want("y", b.batch(pooledKey("y", 2, 5, 0, 2)).Counts[0], store.Count{Granted: 1, Total: 1, RuleTotal: 5})
	f.want("the pool as a whole", b.batch(pooled(6, 0, 1)).Counts[0], store.Count{Granted: 1, Total: 6})
	reply := a.batch(pooled(limit.None, 0, 0), pooledKey("x", 3, 6, 2, 4))
	f.want("both of a", reply.Counts[1].Granted, 3)
	f.want("total", f.observe("pool/web").Totals["pool/web"], 5)
	if reply, err := a.expire(b); reply != store.Gone || err != nil {
		f.Fatalf("Expire: %v, %v", reply, err)
	}
	f.want("total without b", f.observe("pool/web").Totals["pool/web"], 3)
}

func poolSpace(f *fixture) {
	a, b := f.ready()
	a.batch(pooled(2, 0, 2))
	req := a.batchRequest(pooled(2, 2, 2))
	req.Space = "c1bbbb"
	f.want("a, which has other rules now", a.send(req).Counts[0].Granted, 2)
	f.want("b, which has not", b.batch(pooled(2, 0, 1)).Counts[0], store.Count{Total: 2})
	other := pooled(2, 0, 1)
	other.Counter = "pool/mail"
	f.want("another pool", b.batch(other).Counts[0].Granted, 1)
}

func poolWindow(f *fixture) {
	a, b := f.ready()
	rate := func(n, need int64) store.Entry {
		e := pooled(99, 0, need)
		e.Rate = perHour(n)
		return e
	}
	f.want("by 3", a.batch(rate(3, 2)).Counts[0].Admitted, 2)
	f.want("by 2", b.batch(rate(2, 1)).Counts[0], store.Count{Total: 2, Throttled: true})
	f.want("by 4", b.batch(rate(4, 3)).Counts[0].Admitted, 2)
	f.want("without a rate", b.batch(pooled(99, 2, 5)).Counts[0].Granted, 5)
	f.want("by 5, which counted no other", a.batch(rate(5, 3)).Counts[0].Admitted, 1)
}

func poolWindowEnds(f *fixture) {
	a, _ := f.ready()
	e := pooledKey("x", 99, limit.None, 0, 1)
	e.Rate, e.RuleRate = perHour(1), perHour(1)
	f.want("by the hour", a.batch(e).Counts[0].Admitted, 1)
	e.Rate.Per, e.RuleRate.Per = 50*time.Millisecond, 50*time.Millisecond
	e.Live, e.Need = 1, 2
	for deadline := time.Now().Add(time.Minute); a.batch(e).Counts[0].Admitted == 0; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			f.Fatalf("a window of an hour has not ended, and the rate is by 50 ms now")
		}
	}
}
