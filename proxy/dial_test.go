package proxy

import (
	"testing"
	"time"
)

// Addresses share the time that there is, but the first ones of a long list get
// enough to answer.
func TestShare(t *testing.T) {
	for _, c := range []struct {
		all  time.Duration
		left int
		want time.Duration
	}{
		{30 * time.Second, 2, 15 * time.Second},
		{30 * time.Second, 15, minAttempt},
		{30 * time.Second, 100, minAttempt},
		{time.Millisecond, 2, minAttempt}, // its context ends before
	} {
		if got := share(c.all, c.left); got != c.want {
			t.Errorf("%v for %d: %v, want %v", c.all, c.left, got, c.want)
		}
	}
}
