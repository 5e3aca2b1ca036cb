package replica

import (
	"time"

	"usher/store"
)

// Highest is the highest count of a counter that the store has told this replica.
type Highest struct {
	Sessions int64         // over all replicas
	At       time.Duration // when it was told for the first time
}

// Highest returns, for each counter named in SetSpace, the highest count so far. Each
// answer about the counter counts: to an admission here, and to each look at the
// members. A count that only other replicas have seen, between two looks, is not known.
func (m *Machine) Highest(counter string) Highest { return m.space.highest[counter] }

// watched keeps the highest counts of the counters that are watched, and no others.
func (m *Machine) watched() {
	before := m.space.highest
	m.space.highest = make(map[string]Highest, len(m.space.watch))
	for _, c := range m.space.watch {
		m.space.highest[c] = before[c]
	}
}

// sawCount looks at the store's answer about c.
func (m *Machine) sawCount(now time.Duration, c *counter, n store.Count) {
	switch {
	case !c.counted:
	case c.rule != "":
		m.saw(now, c.rule, n.RuleTotal)
	default:
		m.saw(now, c.name, n.Total)
	}
}

// sawTotals looks at the totals of the watched counters.
func (m *Machine) sawTotals(now time.Duration, totals map[string]int64) {
	for _, c := range m.space.watch {
		m.saw(now, c, totals[c])
	}
}

func (m *Machine) saw(now time.Duration, counter string, n int64) {
	if h, watched := m.space.highest[counter]; watched && n > h.Sessions {
		m.space.highest[counter] = Highest{n, now}
	}
}
