package replica

import (
	"errors"

	"usher/store"
	"usher/store/limit"
)

// Why an admission is refused, for errors.Is.
var (
	// ErrFull says that the limit is reached: the store counted at least as
	// many sessions as the maximum when it was asked.
	ErrFull = errors.New("the limit is reached")
	// ErrThrottled says that as many sessions have begun in the current window
	// as the rate allows.
	ErrThrottled = errors.New("the rate is reached")
	// ErrKeys says that no further key of the rule may begin a window: there are as
	// many as allowed, or the store has no memory left.
	ErrKeys = errors.New("too many other addresses or users are counted")
	// ErrUnavailable says that the store gave no answer in time.
	ErrUnavailable = errors.New("the store cannot be reached")
	// ErrRecovering says that the store's data is new, because it lost its data
	// or starts for the first time, and that it admits no new sessions yet.
	ErrRecovering = errors.New("the store is recovering and admits no new sessions yet")
	// ErrMismatch says that live replicas have other lease settings.
	ErrMismatch = errors.New("other replicas run with other lease settings")
	// ErrClosed says that the replica has left or is leaving.
	ErrClosed = errors.New("this replica stops")
)

// LimitError says which limit refuses an admission.
type LimitError struct {
	Reason error // ErrFull for a maximum, ErrThrottled for a rate, ErrKeys for a rate whose keys are too many
	ByKey  bool  // the limit is that of the key, not that of the whole rule

	// Max is the maximum, and Sessions how many sessions were counted against it over
	// all replicas, or here if the store did not answer. Both are 0 for a rate.
	Max, Sessions int64
}

func (e *LimitError) Error() string { return e.Reason.Error() }

// Unwrap lets errors.Is find the reason.
func (e *LimitError) Unwrap() error { return e.Reason }

// reason says which limit refuses another session, nil if none does. If several
// do, it is the first in Dante's order: the rule's rate, the rule's maximum, the
// key's maximum, the key's rate. A key that may have no window comes last.
func reason(n store.Count, b *bounds, keyed bool) error {
	switch {
	case n.RuleThrottled, !keyed && n.Throttled:
		return &LimitError{Reason: ErrThrottled}
	case b.ruleMax != limit.None && n.RuleTotal >= b.ruleMax:
		return &LimitError{Reason: ErrFull, Max: b.ruleMax, Sessions: n.RuleTotal}
	case b.max != limit.None && n.Total >= b.max:
		return &LimitError{Reason: ErrFull, ByKey: keyed, Max: b.max, Sessions: n.Total}
	case n.Throttled:
		return &LimitError{Reason: ErrThrottled, ByKey: true}
	case n.NoWindow:
		return &LimitError{Reason: ErrKeys, ByKey: true}
	}
	return nil
}

// overLimit reports whether more sessions exist than the maximum.
func overLimit(n store.Count, b *bounds) bool {
	return b.max != limit.None && n.Total > b.max || b.ruleMax != limit.None && n.RuleTotal > b.ruleMax
}

// nearlyFull reports whether nine tenths of the maximum are in use.
func nearlyFull(n store.Count, b *bounds) bool {
	return b.max != limit.None && 10*n.Total >= 9*b.max || b.ruleMax != limit.None && 10*n.RuleTotal >= 9*b.ruleMax
}
