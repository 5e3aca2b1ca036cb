package lately

import (
	"testing"
	"time"
)

// An event counts for a minute.
func TestCount(t *testing.T) {
	var c Count
	began := start.Add(time.Hour)
	for _, step := range []struct {
		at  time.Duration
		add int
		n   uint64
	}{
		{0, 0, 0}, {0, 3, 3}, {30 * time.Second, 2, 5}, {59 * time.Second, 0, 5}, {60 * time.Second, 1, 3},
		{89 * time.Second, 0, 3}, {91 * time.Second, 0, 1}, {90 * time.Second, 0, 1}, // a clock that was read before
		{time.Hour, 0, 0}, {time.Hour, 7, 7},
	} {
		now := began.Add(step.at)
		for range step.add {
			c.Add(now)
		}
		if n := c.N(now); n != step.n {
			t.Errorf("at %v: %d events, want %d", step.at, n, step.n)
		}
	}
}
