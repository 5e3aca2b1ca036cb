package proxy

import (
	"errors"

	"usher/limiter"
)

// verdict says which limit of a rule in session.mode report would have refused a
// session. 0: none.
type verdict uint8

const (
	wouldRefuse verdict = 1 << iota
	byRate              // a rate, else a maximum
	byKey               // for one key, else for all sessions together
	byKeys              // a rate that counts too many keys already
)

func verdictOf(by *limiter.LimitError) verdict {
	if by == nil {
		return 0
	}
	v := wouldRefuse
	if !errors.Is(by, limiter.ErrFull) {
		v |= byRate
	}
	if by.ByKey {
		v |= byKey
	}
	if errors.Is(by, limiter.ErrKeys) {
		v |= byKeys
	}
	return v
}
