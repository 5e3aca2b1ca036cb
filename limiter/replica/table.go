package replica

import (
	"maps"
	"slices"
	"time"

	"usher/store"
	"usher/store/limit"
)

// table has the live sessions of this replica. The store is made to agree with it,
// never the other way round.
type table struct {
	counters   map[string]*counter
	ruleLive   map[string]int64 // live sessions of each rule that counts by key, and of each pool
	arrivals   uint64           // of waiters
	admissions uint64
	windows    limit.Windows // of what was admitted locally
	opened     limit.Windows // how many keys of each rule have opened one of them
}

// counter is a row of the table: live sessions, and the last answer of the store about
// them.
type counter struct {
	name    string
	rule    string // whose key it counts, "" if it counts no key
	pool    bool   // sessions of several generations share it, each with its own bounds
	bounds  *bounds
	first   bounds // what bounds begins with
	counted bool   // the store keeps the number of sessions; else live and granted stay 0

	live    int64              // sessions that exist here
	slots   map[*Slot]struct{} // theirs, kept only in strict mode, where they can be taken away
	waiters []*Waiter          // in order of arrival

	granted    int64 // what the store counts for us, as last acknowledged
	nearlyFull bool  // at the last answer, little was left: a freed slot is given back at once
	overLimit  bool  // more sessions than the maximum may exist: no slot is reused
	contended  bool  // another replica was refused here: freed slots are for it
	lease      *lease

	// untold are sessions that a limit would have refused and that are admitted all the
	// same. They get their answers when the store counts them. See report.
	untold []*Slot

	queue          queue // in which it waits
	inFlight       bool  // in a batch whose outcome is not known
	sentLive       int64 // live as stated in that batch
	outcomeUnknown bool  // a batch was given up in this state: the store may count more than granted
}

// bounds are the maxima and rates that a session asks with. All sessions of a counter
// ask with the same, except in a pool: there each asks with those of its generation.
type bounds struct {
	max, ruleMax   int64
	rate, ruleRate limit.Rate
	maxKeys        int64 // of the rule: how many keys may have windows, 0 for any number
	report         bool  // they refuse nobody, see Want
}

// Want is what a session asks for: a slot of the entry's counter, by its maxima and
// rates.
type Want struct {
	store.Entry
	// Report admits the session even if a limit would refuse it, see Slot.WouldRefuse.
	// It never loses its slot.
	Report bool
}

func boundsOf(w Want) bounds {
	return bounds{max: w.Max, ruleMax: w.RuleMax, rate: w.Rate, ruleRate: w.RuleRate, maxKeys: w.MaxKeys, report: w.Report}
}

// throttled reports whether there is a rate: no session begins without an answer of the store.
func (b *bounds) throttled() bool { return b.rate.N > 0 || b.ruleRate.N > 0 }

// Slot is the right of one session to run under a counter. It has no counter if only
// the beginning of the session was counted.
type Slot struct {
	owner   any
	counter *counter // nil: only that the session began was counted
	order   uint64   // in which it was admitted
	local   bool     // admitted without the store
	ended   bool     // released or taken away
	report  bool     // by a limit that only reports: the slot is never taken away
	refused *LimitError
}

// Leased reports whether the slot is valid only until its lease ends. Else it is valid
// for ever: the store does not count the session while it lives, or the limit only
// reports.
func (s *Slot) Leased() bool { return s.counter != nil && !s.report }

// WouldRefuse returns the limit that would have refused the session, if its Want was not
// to report that instead; nil if none would have.
func (s *Slot) WouldRefuse() *LimitError { return s.refused }

// Local reports whether the session was admitted without asking the store.
func (s *Slot) Local() bool { return s.local }

// Waiter is an admission that waits for the store's answer.
type Waiter struct {
	owner    any
	counter  *counter
	bounds   *bounds       // that it asks with
	order    uint64        // of arrival
	deadline time.Duration // when the wait ends
}

func newTable() table {
	return table{counters: map[string]*counter{}, ruleLive: map[string]int64{}}
}

// sorted returns the counters by name, so that the order of claims does not
// depend on the order of a map.
func (t *table) sorted() []*counter {
	out := make([]*counter, 0, len(t.counters))
	for _, name := range slices.Sorted(maps.Keys(t.counters)) {
		out = append(out, t.counters[name])
	}
	return out
}

// counterOf returns the row of e's counter, and adds it if there is none. Its bounds
// are then those of e.
func (m *Machine) counterOf(e Want) *counter {
	c := m.table.counters[e.Counter]
	switch {
	case c == nil:
		c = &counter{
			name: e.Counter, rule: store.RuleOf(e.Counter), pool: store.InPool(e.Counter), first: boundsOf(e),
			slots: map[*Slot]struct{}{}, lease: m.leases.current,
			counted: e.Counted(), //mutate:a-rate-alone-is-counted
		}
		c.bounds = &c.first
		m.table.counters[e.Counter] = c
	case c.pool && *c.bounds != boundsOf(e): //mutate:a-pool-keeps-the-numbers-that-it-began-with
		b := boundsOf(e) // a new one, because waiters may still have the old one
		c.bounds = &b
	}
	return c
}

// alike returns how many of the first waiters of c ask with the same bounds. One entry
// can state only these.
func (c *counter) alike() int {
	if !c.pool {
		return len(c.waiters)
	}
	other := func(w *Waiter) bool { return *w.bounds != *c.waiters[0].bounds } //mutate:an-entry-for-waiters-with-different-numbers
	if n := slices.IndexFunc(c.waiters, other); n >= 0 {
		return n
	}
	return len(c.waiters)
}

// whole returns the name under which the table sums c with the other counters of its
// rule or pool, "" if it does not. A pool may count by key in one generation and not
// in another.
func (c *counter) whole() string {
	if c.pool && c.rule == "" {
		return c.name
	}
	return c.rule
}

// count adds n to the live sessions of c, and of its rule.
func (t *table) count(c *counter, n int64) {
	if c.live += n; c.live < 0 {
		panic("replica: more sessions of " + c.name + " ended than began")
	}
	whole := c.whole()
	if whole == "" {
		return
	}
	if t.ruleLive[whole] += n; t.ruleLive[whole] == 0 {
		delete(t.ruleLive, whole)
	}
}

// drop removes c from the table if neither the replica nor the store counts anything
// there. c may be queued: counters of clients that came and went during an outage must
// not be kept until its end.
func (m *Machine) drop(c *counter) {
	if c.live == 0 && c.granted == 0 && len(c.waiters) == 0 &&
		!c.inFlight && //mutate:a-counter-in-flight-is-dropped
		!c.outcomeUnknown { //mutate:a-counter-that-the-store-may-count-is-dropped
		c.queue = noQueue
		delete(m.table.counters, c.name)
	}
}
