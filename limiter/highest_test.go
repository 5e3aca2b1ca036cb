package limiter_test

import (
	"testing"
	"testing/synctest"
	"time"

	"usher/limiter"
	"usher/store/limit"
	"usher/store/memstore"
)

// The highest count of a counter is that of all its keys, and stays when sessions end. A
// counter that is forgotten begins again.
func TestHighest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := start(t, memstore.New())
		mustJoin(t, l)
		rule, keyed := limiter.Limit{Rule: "a/s1", Max: 9}, limiter.Limit{Rule: "a/s2", Max: limit.None, KeyMax: 3, Key: "from=x"}
		l.SetSpace("a", []string{"a/s1", "a/s2"})
		if h := l.Highest("a/s1"); h != (limiter.Highest{}) {
			t.Errorf("before the first session: %v", h)
		}
		time.Sleep(time.Second)
		var held []*limiter.Grant
		admit := func(one limiter.Limit) {
			g, err := l.Admit(t.Context(), one)
			if err != nil {
				t.Fatal(err)
			}
			held = append(held, g)
		}
		for range 3 {
			admit(rule)
		}
		at := time.Now()
		admit(keyed)
		keyed.Key = "from=y"
		admit(keyed)
		for _, g := range held {
			g.Release()
		}
		time.Sleep(time.Hour)
		admit(rule)
		if h := l.Highest("a/s1"); h.Sessions != 3 || !h.At.Equal(at) {
			t.Errorf("highest %v, want 3 at %v", h, at)
		}
		if h := l.Highest("a/s2"); h.Sessions != 2 {
			t.Errorf("highest of the rule with keys %v, want 2", h)
		}
		l.SetSpace("b", []string{"b/s1", "a/s1"})
		if h := l.Highest("a/s1"); h.Sessions != 3 {
			t.Errorf("highest %v in the next space, want 3", h)
		}
		if h := l.Highest("a/s2"); h.Sessions != 0 {
			t.Errorf("highest %v of a counter that is gone", h)
		}
		for _, g := range held {
			g.Release()
		}
	})
}
