package integration

import (
	"fmt"
	"testing"

	"github.com/anishathalye/porcupine"
)

// What clients do to a limit, and see of it. A limit is linearizable if each step took
// effect at one moment between its call and its return, on one counter.
type step int

const (
	admit        step = iota // answered: granted
	refuse                   // answered: the limit is reached
	release                  // a session ended, and its end became known to the store
	maybeAdmit               // no answer: it may have counted, for a while
	maybeRelease             // the end of that, if so
	count                    // the store's count, read while nothing was in flight
)

func (s step) String() string {
	return [...]string{"admit", "refuse", "release", "maybe admit", "maybe release", "count"}[s]
}

// act is one step on one limit.
type act struct {
	limit, max int
	step       step
	counted    int // count
}

// tally is the state of a limit: its sessions, and those whose client got no answer.
type tally struct{ sessions, unknown int }

// linearly returns the possible states of a limit after act, or nothing if act is
// impossible.
func (s tally) linearly(a act) (next []any) {
	switch a.step {
	case admit:
		if s.sessions < a.max {
			next = append(next, tally{s.sessions + 1, s.unknown})
		}
	case refuse:
		if s.sessions >= a.max { // more only in a pool, by the higher number of another replica
			next = append(next, s)
		}
	case release:
		if s.sessions > s.unknown {
			next = append(next, tally{s.sessions - 1, s.unknown})
		}
	case maybeAdmit:
		next = append(next, s)
		if s.sessions < a.max {
			next = append(next, tally{s.sessions + 1, s.unknown + 1})
		}
	case maybeRelease:
		next = append(next, s)
		if s.unknown > 0 {
			next = append(next, tally{s.sessions - 1, s.unknown - 1})
		}
	case count:
		if s.sessions == a.counted && s.unknown == 0 {
			next = append(next, s)
		}
	}
	return next
}

var limitModel = porcupine.NondeterministicModel{
	Partition: func(history []porcupine.Operation) [][]porcupine.Operation {
		parts := map[int][]porcupine.Operation{}
		for _, o := range history {
			limit := o.Input.(act).limit
			parts[limit] = append(parts[limit], o)
		}
		var all [][]porcupine.Operation
		for _, p := range parts {
			all = append(all, p)
		}
		return all
	},
	Init: func() []any { return []any{tally{}} },
	Step: func(state, input, _ any) []any { return state.(tally).linearly(input.(act)) },
	DescribeOperation: func(input, _ any) string {
		a := input.(act)
		return fmt.Sprintf("%s %d", a.step, a.counted)
	},
}

// linearizable reports whether a history is possible. The test fails if the checker
// does not finish in time.
func linearizable(t testing.TB, history []porcupine.Operation) bool {
	t.Helper()
	result := porcupine.CheckOperationsTimeout(limitModel.ToModel(), history, patience)
	if result == porcupine.Unknown {
		t.Fatalf("a history of %d operations is too long to check", len(history))
	}
	return result == porcupine.Ok
}

// TestLimitModel checks the model, and so the checker, with histories that are known to
// be right or wrong.
func TestLimitModel(t *testing.T) {
	type at struct {
		step       step
		call, back int64
	}
	for _, c := range []struct {
		name    string
		max     int
		history []at
		want    bool
	}{
		{"one after the other", 1, []at{{admit, 0, 1}, {release, 2, 3}, {admit, 4, 5}}, true},
		{"two at a limit of one", 1, []at{{admit, 0, 1}, {admit, 2, 3}}, false},
		{"two at once at a limit of one", 1, []at{{admit, 0, 9}, {admit, 0, 9}}, false},
		{"the end of one overlaps the next", 1, []at{{admit, 0, 1}, {release, 2, 5}, {admit, 3, 4}}, true},
		{"the end of one comes after the next", 1, []at{{admit, 0, 1}, {release, 5, 6}, {admit, 3, 4}}, false},
		{"refused when full", 1, []at{{admit, 0, 1}, {refuse, 2, 3}}, true},
		{"refused with room", 2, []at{{admit, 0, 1}, {refuse, 2, 3}}, false},
		{"refused before it was full", 1, []at{{refuse, 0, 1}, {admit, 2, 3}}, false},
		{"refused while it became full", 1, []at{{refuse, 0, 3}, {admit, 2, 4}}, true},
		{"refused after a slot was free", 1, []at{{admit, 0, 1}, {release, 2, 3}, {refuse, 4, 5}}, false},
		{"refused for one without an answer", 1, []at{{maybeAdmit, 0, 9}, {maybeRelease, 0, 9}, {refuse, 4, 5}}, true},
		{"refused after nobody was counted", 1, []at{{maybeAdmit, 0, 3}, {maybeRelease, 0, 3}, {count, 4, 5}, {refuse, 6, 7}}, false},
		{"nobody's session ended", 1, []at{{release, 0, 1}}, false},
		{"an end counted twice", 2, []at{{admit, 0, 1}, {release, 2, 3}, {release, 4, 5}}, false},
	} {
		var history []porcupine.Operation
		for _, o := range c.history {
			history = append(history, porcupine.Operation{Input: act{max: c.max, step: o.step}, Call: o.call, Return: o.back})
		}
		if got := linearizable(t, history); got != c.want {
			t.Errorf("%s: linearizable %v, want %v", c.name, got, c.want)
		}
	}
}
