package proxy

import (
	"testing"
	"time"

	"usher/proxy/record"
)

// Holders are looked up ten times a second at most. In between, the last answer for the
// same key counts, and none for another one.
func TestHoldersAreLookedUpRarely(t *testing.T) {
	var l limitRefusals
	looked := 0
	ask := func(counter, key string, at time.Time) holding {
		return l.holding(l.add(counter, at), key, at, func() holding {
			looked++
			return holding{known: true, key: key, here: looked, holders: []record.Holder{{Sessions: looked}}}
		})
	}
	now := time.Now()
	for _, c := range []struct {
		counter, key string
		after        time.Duration
		here         int
	}{
		{"a/s1", "", 0, 1}, {"a/s1", "", holdersEvery - 1, 1}, {"a/s1", "user=x", holdersEvery - 1, 0}, {"a/s2", "", holdersEvery - 1, 0},
		{"a/s1", "user=x", holdersEvery, 2}, {"a/s1", "user=x", holdersEvery, 2}, {"a/s1", "", holdersEvery, 0}, {"a/s2", "", 3 * holdersEvery, 3},
	} {
		if who := ask(c.counter, c.key, now.Add(c.after)); who.here != c.here || who.known != (c.here > 0) {
			t.Errorf("%s %s after %v: %+v, want look-up %d", c.counter, c.key, c.after, who, c.here)
		}
	}
	l.keep([]string{"a/s2", "b/s1"})
	if n, other := l.lately("a/s1", now), l.lately("a/s2", now); n != 0 || other != 2 {
		t.Errorf("%d refusals of a counter that is gone, want none; %d of another, want 2", n, other)
	}
}
