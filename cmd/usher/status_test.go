package main

import (
	"strings"
	"testing"
	"time"

	"usher/proxy/admin"
)

// A rule that limits rates only has no number of sessions that it is held to.
func TestStatusOfLimits(t *testing.T) {
	var st admin.Status
	st.Rules.Limits = []admin.RuleLimit{
		{Rule: "c1", Generation: "g1", Max: -1, Place: "f:1:1"},
		{Rule: "s1", Generation: "g1", Max: 0, Sessions: 2, Place: "f:2:1"},
	}
	var b strings.Builder
	if err := printStatus(&b, st); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"c1 g1 0 - f:1:1", "s1 g1 2 0 f:2:1"} {
		if !strings.Contains(strings.Join(strings.Fields(b.String()), " "), want) {
			t.Errorf("no %q in\n%s", want, b.String())
		}
	}
}

func TestStatusOfAStoreThatFails(t *testing.T) {
	st := admin.Store{Address: "redis://r", Joined: true}
	if line := storeLine(st); strings.Contains(line, "\n") {
		t.Error(line)
	}
	st.Failure, st.FailingSince = "batch: MISCONF", time.Unix(1e9, 0).UTC()
	if line := storeLine(st); !strings.HasSuffix(line, "\n\tfailing since 2001-09-09T01:46:40Z, last error: batch: MISCONF") {
		t.Error(line)
	}
}
