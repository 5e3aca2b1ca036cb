package rollout

import (
	"slices"
	"strings"
	"testing"

	"usher/store/published"
)

func TestAssess(t *testing.T) {
	on := published.Report{Name: "on", Number: 8}
	behind := published.Report{Name: "behind", Number: 7}
	earlier := published.Report{Name: "earlier", Number: 6, Refused: 7} // what it says of 8 is not known yet
	refuses := published.Report{Name: "refuses", Number: 7, Refused: 8, Reason: "no users"}
	ahead := published.Report{Name: "ahead", Number: 9}
	for _, c := range []struct {
		reports []published.Report
		done    bool
		text    string
	}{
		{nil, true, "generation 8: in force on 0 of 0 replicas"},
		{[]published.Report{on}, true, "generation 8: in force on 1 of 1 replicas"},
		{[]published.Report{on, refuses}, false, "generation 8: in force on 1 of 2 replicas, refused by refuses"},
		{[]published.Report{earlier, behind, on, ahead}, false, "generation 8: in force on 1 of 4 replicas, waiting for ahead, behind, earlier"},
	} {
		s := Assess(8, published.Replicas{Reports: c.reports, Silent: []string{"x"}})
		if s.Done() != c.done || s.String() != c.text || !slices.Equal(s.Silent, []string{"x"}) {
			t.Errorf("%v: done %v, %q", c.reports, s.Done(), s)
		}
	}
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
