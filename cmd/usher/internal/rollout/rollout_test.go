package rollout

import (
	"slices"
	"strings"
	"testing"
	"time"

	"usher/store/published"
)

func report(name string, number, refused uint64) published.Report {
	return published.Report{Replica: "id of " + name, Name: name, Number: number, Refused: refused}
}

func TestStanding(t *testing.T) {
	on := report("on", 8, 0)
	behind := report("behind", 7, 0)
	earlier := report("earlier", 6, 7) // it does not know generation 8 yet
	refuses := report("refuses", 7, 8)
	ahead := report("ahead", 9, 0)
	for _, c := range []struct {
		reports []published.Report
		done    bool
		text    string
	}{
		{nil, true, "generation 8: in force on 0 of 0 replicas"},
		{[]published.Report{on}, true, "generation 8: in force on 1 of 1 replica"},
		{[]published.Report{on, refuses}, false, "generation 8: in force on 1 of 2 replicas, refused by refuses"},
		{[]published.Report{earlier, behind, on, ahead}, false, "generation 8: in force on 1 of 4 replicas, waiting for ahead, behind, earlier"},
	} {
		s := newRoll(8, time.Second, nil).call(published.Replicas{Reports: c.reports, Silent: []string{"x"}}, time.Now())
		if s.Done() != c.done || s.String() != c.text || !slices.Equal(s.Silent, []string{"x"}) {
			t.Errorf("%v: done %v, %q", c.reports, s.Done(), s)
		}
	}
}

// Wait waits for each replica that was seen once. A replica is gone after half a TTL
// without a report, unless it has stopped normally or has taken the generation before.
func TestReplicasThatVanish(t *testing.T) {
	now := time.Now()
	const ttl = 10 * time.Second
	ask := func(r *roll, all published.Replicas, text string, done bool) {
		t.Helper()
		if s := r.call(all, now); s.String() != text || s.Done() != done || s.settled() != !strings.Contains(text, "waiting") {
			t.Errorf("%q, done %v; want %q", s, s.Done(), text)
		}
	}
	list := func(reports ...published.Report) published.Replicas { return published.Replicas{Reports: reports} }
	r := newRoll(8, ttl, []published.Report{report("a", 7, 0), report("b", 7, 0)})
	now = now.Add(time.Second)
	ask(r, list(report("b", 8, 0), report("c", 7, 0)), "generation 8: in force on 1 of 3 replicas, waiting for a, c", false)
	now = now.Add(ttl / 4)
	ask(r, list(report("b", 8, 0)), "generation 8: in force on 1 of 3 replicas, waiting for a, c", false)
	now = now.Add(ttl / 4)
	vanished := list(report("b", 8, 0))
	vanished.Silent = []string{"id of a", "x"} // it may be a member for longer than it reports
	ask(r, vanished, "generation 8: in force on 1 of 3 replicas, waiting for c, gone: a", false)
	if s := r.call(vanished, now); !slices.Equal(s.Silent, []string{"x"}) {
		t.Errorf("not following: %q", s.Silent)
	}
	now = now.Add(ttl / 4)
	ask(r, list(), "generation 8: in force on 0 of 2 replicas, gone: a, c", false) // b has taken it
	ask(r, list(report("a", 8, 0), report("b", 8, 0)), "generation 8: in force on 2 of 3 replicas, gone: c", false)
	now = now.Add(time.Second)
	left := list(report("a", 8, 0))
	left.Left = []string{"id of c"}
	ask(r, left, "generation 8: in force on 1 of 1 replica", true)
	now = now.Add(ttl)
	ask(r, list(report("a", 8, 0)), "generation 8: in force on 1 of 1 replica", true)
}

func TestDiff(t *testing.T) {
	old := Side{Name: "generation 7", Rules: "a\n\nsocks pass {\n    session.max: 10\n}\n"}
	if got := Diff(old, Side{Name: "new.conf", Rules: old.Rules}); got != "" {
		t.Errorf("no change: %q", got)
	}
	got := Diff(old, Side{Name: "new.conf", Rules: strings.Replace(old.Rules, "10", "20", 1)})
	for _, want := range []string{"--- generation 7\n+++ new.conf\n", "-    session.max: 10\n+    session.max: 20\n"} {
		if !strings.Contains(got, want) {
			t.Errorf("%q lacks %q", got, want)
		}
	}
}
