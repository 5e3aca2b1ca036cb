package replica

import (
	"errors"
	"testing"

	"usher/store"
	"usher/store/limit"
)

// TestReasonOrder: where several limits refuse a session, the reason is the first
// in Dante's order: the rule's rate, the maxima, the key's rate. Too many keys come last.
func TestReasonOrder(t *testing.T) {
	rule := &bounds{max: 2, ruleMax: limit.None}
	key := &bounds{max: 2, ruleMax: 5}
	for _, c := range []struct {
		what string
		on   *bounds
		n    store.Count
		want error
		key  bool // the limit is the key's
	}{
		{"nothing", rule, store.Count{Total: 1}, nil, false},
		{"full", rule, store.Count{Total: 2}, ErrFull, false},
		{"throttled", rule, store.Count{Total: 1, Throttled: true}, ErrThrottled, false},
		{"full and throttled", rule, store.Count{Total: 2, Throttled: true}, ErrThrottled, false},
		{"key: nothing", key, store.Count{Total: 1, RuleTotal: 4}, nil, false},
		{"key: the rule is full", key, store.Count{Total: 1, RuleTotal: 5}, ErrFull, false},
		{"key: full, and so is the rule", key, store.Count{Total: 2, RuleTotal: 5}, ErrFull, false},
		{"key: full and throttled", key, store.Count{Total: 2, RuleTotal: 4, Throttled: true}, ErrFull, true},
		{"key: throttled", key, store.Count{Total: 1, RuleTotal: 4, Throttled: true}, ErrThrottled, true},
		{"key: no window", key, store.Count{Total: 1, RuleTotal: 4, NoWindow: true}, ErrKeys, true},
		{"key: no window, and full", key, store.Count{Total: 2, RuleTotal: 4, NoWindow: true}, ErrFull, true},
		{"key: full, the rule throttled", key, store.Count{Total: 2, RuleTotal: 4, RuleThrottled: true}, ErrThrottled, false},
	} {
		if got := reason(c.n, c.on, c.on == key); !errors.Is(got, c.want) {
			t.Errorf("%s: %v, want %v", c.what, got, c.want)
		} else if by := new(LimitError); errors.As(got, &by) && by.ByKey != c.key {
			t.Errorf("%s: by the key: %v, want %v", c.what, by.ByKey, c.key)
		} else if errors.Is(got, ErrFull) && (by.Sessions != by.Max || by.Max < 2) {
			t.Errorf("%s: %d of %d sessions", c.what, by.Sessions, by.Max)
		}
	}
}
