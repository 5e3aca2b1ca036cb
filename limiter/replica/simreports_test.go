package replica

import (
	"errors"
	"slices"
	"testing"
	"time"

	"usher/store"
)

// Invariant V: a limit that only reports refuses nobody and ends no session. A session
// is reported if, and only if, the store counted the maximum or more when it was asked,
// or a rate was used up. checkNumbers checks that no session begins unreported while as
// many run.

// inReports returns the mix with clients that ask for limits that only report. Each
// replica asks for some pools with both modes, as if it had a reload between any two
// sessions.
func (m mix) inReports() mix {
	m.reports, m.rates, m.move = true, true, true
	m.keys, m.bounded = false, false
	return m
}

// reports reports whether a limit of simLimits only reports.
func reports(which int) bool { return which >= withoutReports && which < withoutReports+reporting }

func simWant(which int) Want { return Want{Entry: simLimits[which], Report: reports(which)} }

// asksAlways reports whether each session of a counter needs an answer of the store.
func asksAlways(counter string) bool {
	i := slices.IndexFunc(simLimits[:], func(e store.Entry) bool { return e.Counter == counter })
	return store.InPool(counter) || reports(i)
}

// refuse is the end of a client, unless its limit only reports.
func (n *node) refuse(c *simWaiter, err error) {
	if !reports(c.limit) || errors.Is(err, ErrClosed) {
		n.does("refuses a client:", err)
		return
	}
	if by := new(LimitError); errors.As(err, &by) {
		n.w.fail("V", "%s refuses a client of a limit that only reports", n.m.id)
	}
	s, err := n.m.AdmitLocally(n.clock(), c, simWant(c.limit))
	if err != nil {
		n.w.fail("V", "%s refuses a client of a limit that only reports: %v", n.m.id, err)
		return
	}
	n.begin(s, c.limit)
	n.wakeIfDue()
}

// countReported counts what would have been refused.
func (w *world) countReported(s *Slot, which int) {
	switch {
	case s.refused != nil && !reports(which):
		w.fail("V", "a session of %s begins although it is refused", simLimits[which].Counter)
	case s.refused != nil:
		w.would[which]++
		if errors.Is(s.refused, ErrFull) {
			w.fulls++
		}
	case s.local:
		w.alone++
	}
}

// checkReported checks that the reply says why each session is reported that is from
// now on.
func (n *node) checkReported(r *Request, o *Outcome) {
	n.takeEffects()
	entries, counts := r.Batch.Entries, o.Batch.Counts
	if r.Op == Join {
		entries, counts = r.Join.Entries, o.Join.Counts
	}
	said := func(c *counter, s *Slot) bool {
		i := slices.IndexFunc(entries, func(e store.Entry) bool { return e.Counter == c.name })
		if i < 0 || o.Err != nil {
			return false
		}
		for which, e := range simLimits { // the limit that it asked for is one of these
			w := simWant(which)
			b := boundsOf(w)
			by := new(LimitError)
			if reports(which) && e.Counter == c.name && errors.As(reason(counts[i], &b, c.rule != ""), &by) && *by == *s.refused {
				return true
			}
		}
		return false
	}
	for _, c := range n.m.table.counters {
		for _, s := range c.untold {
			if !n.judged[s] && !said(c, s) {
				n.w.fail("V", "%s is reported without the store's word", c.name)
			}
			n.judged[s] = true
		}
	}
	for _, c := range n.waiting {
		if s := c.slot; c.answered && s != nil && s.refused != nil && s.counter != nil {
			if !n.judged[s] {
				n.w.fail("V", "%s is reported, and was never judged", s.counter.name)
			}
			delete(n.judged, s)
		}
	}
}

// TestReportsAreExact: if sessions only begin, as many are reported as are above the
// maximum, over all replicas, whatever happens to messages.
func TestReportsAreExact(t *testing.T) {
	tried := 0
	for seed := *simFirst; seed < *simFirst+40; seed++ {
		m := mix{name: "messages", lose: 0.02, late: 0.05, double: 0.1}.inReports()
		m.move = false
		w := newWorld(seed, m, seed%2 == 0)
		w.first, w.limits = 0, 1
		w.runFor(calmFirst) // else sessions begin that the recovering store does not judge
		w.first, w.limits, w.length = withoutReports, 3, 1000*time.Hour
		w.runFor(5 * simTTL)
		w.closing = true
		w.runFor(simTTL)
		if w.broken != "" {
			t.Fatalf("seed %d: %s\n%s", seed, w.broken, w.report())
		}
		if w.lapses > 0 || w.alone > 0 {
			continue // the store was not asked, or has forgotten sessions
		}
		tried++
		plain, keyed := withoutReports, withoutReports+1
		if got := w.begun[plain] - w.would[plain]; got != 2 {
			t.Errorf("seed %d: %d sessions of %d are not reported, want 2", seed, got, w.begun[plain])
		}
		x, y := w.begun[keyed]-w.would[keyed], w.begun[keyed+1]-w.would[keyed+1]
		if x > 2 || y > 2 || x+y > 3 || x+y < 2 { // a third one of a key is reported, and counts for the rule
			t.Errorf("seed %d: %d and %d sessions of two keys are not reported, want 2 or 3 together and at most 2 of each", seed, x, y)
		}
		if w.fulls < 10 {
			t.Errorf("seed %d: only %d are reported", seed, w.fulls)
		}
	}
	if tried < 5 {
		t.Errorf("only %d schedules without a lost lease", tried)
	}
}
