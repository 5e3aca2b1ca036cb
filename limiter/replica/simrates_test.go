package replica

import (
	"maps"
	"time"

	"usher/store"
	"usher/store/limit"
)

// ratesTruth is the truth about rates, by which invariant H is checked. Whatever is
// lost or doubled: a session begins only if the store counted it in a window, a window
// admits no more sessions than the rate says, and no more keys have a window than may.
type ratesTruth struct {
	counted map[string]int64     // admissions by the store, by counter
	begun   map[string]int64     // sessions that began, by counter
	windows map[string]simWindow // by key of the store: w and k
	saved   map[string]simWindow
}

type simWindow struct {
	end  time.Duration
	used int64
}

func newRatesTruth() *ratesTruth {
	return &ratesTruth{counted: map[string]int64{}, begun: map[string]int64{}, windows: map[string]simWindow{}, saved: map[string]simWindow{}}
}

func (r *ratesTruth) save()   { r.saved = maps.Clone(r.windows) }
func (r *ratesTruth) forget() { clear(r.windows) }
func (r *ratesTruth) goBack() { r.windows = maps.Clone(r.saved) }

// countRates records the answer to a batch that has just taken effect.
func (w *world) countRates(b store.Batch, reply store.BatchReply) {
	for i, e := range b.Entries {
		rule := store.RuleOf(e.Counter)
		if n := reply.Counts[i].Admitted; n > 0 {
			w.rates.counted[e.Counter] += n
			if e.MaxKeys > 0 && w.used("w:"+e.Counter) == 0 {
				w.useWindow("k:"+rule, limit.Rate{N: e.MaxKeys, Per: e.Rate.Per}, 1)
			}
			w.useWindow("w:"+e.Counter, e.Rate, n)
			w.useWindow("w:"+rule, e.RuleRate, n)
		}
	}
	for i, e := range b.Entries {
		keys := w.used("k:" + store.RuleOf(e.Counter))
		if reply.Counts[i].NoWindow && (w.used("w:"+e.Counter) > 0 || keys < e.MaxKeys) {
			w.fail("E", "no window for %s, and %d keys of %d have one", e.Counter, keys, e.MaxKeys)
		}
	}
}

// shortenWindows does what every batch does first, even a copy: a used-up window ends
// after at most one length of the rate that a batch asks with.
func (w *world) shortenWindows(b store.Batch) {
	ruleRates := map[string]limit.Rate{}
	for _, e := range b.Entries {
		rule := store.RuleOf(e.Counter)
		w.shorten("w:"+e.Counter, e.Rate)
		w.shorten("w:"+rule, e.RuleRate)
		if rate, ok := ruleRates[rule]; ok && e.RuleRate.N > 0 && e.RuleRate != rate {
			w.fail("H", "a batch states the rates %v and %v of %s", rate, e.RuleRate, rule)
		}
		if e.RuleRate.N > 0 {
			ruleRates[rule] = e.RuleRate
		}
	}
}

func (w *world) shorten(name string, rate limit.Rate) {
	if o, ok := w.rates.windows[name]; ok && rate.N > 0 && o.used >= rate.N && o.end-w.now > rate.Per {
		o.end = w.now + rate.Per
		w.rates.windows[name] = o
	}
}

// used is how much of a window is used, or 0 if it has ended.
func (w *world) used(name string) int64 {
	if o := w.rates.windows[name]; w.now < o.end {
		return o.used
	}
	return 0
}

func (w *world) useWindow(name string, rate limit.Rate, n int64) {
	if rate.N == 0 {
		return
	}
	o := w.rates.windows[name]
	if w.now >= o.end {
		o = simWindow{end: w.now + rate.Per}
	}
	o.used += n
	w.rates.windows[name] = o
	if o.used > rate.N {
		w.fail("H", "%d sessions or keys in a window of %s, rate %d", o.used, name, rate.N)
	}
}

// checkWindows checks that the store's windows contain what batches admitted and
// nothing else.
func (w *world) checkWindows() {
	if !w.mix.rates {
		return
	}
	open := w.data.Windows()
	for name, o := range w.rates.windows {
		if w.now >= o.end {
			continue
		}
		if open[name] != o.used {
			w.fail("H", "%d sessions or keys began in the window of %s, the store has %d", o.used, name, open[name])
		}
		delete(open, name)
	}
	for key := range open {
		w.fail("H", "the store has a window %s in which nothing began", key)
	}
}

// checkBegun checks that a session of this limit may begin.
func (w *world) checkBegun(e store.Entry) {
	if !e.Throttled() {
		return
	}
	if w.rates.begun[e.Counter]++; w.rates.begun[e.Counter] > w.rates.counted[e.Counter] {
		w.fail("H", "%d sessions of %s began, %d were counted", w.rates.begun[e.Counter], e.Counter, w.rates.counted[e.Counter])
	}
}
