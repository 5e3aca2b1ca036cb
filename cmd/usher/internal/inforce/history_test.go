package inforce

import (
	"testing"

	"usher/cmd/usher/internal/policyfile"
	"usher/limiter"
	"usher/proxy"
	"usher/proxy/rules"
)

func parse(t *testing.T, text string) *rules.Set {
	t.Helper()
	set, found := policyfile.Parse("test.conf", []byte(text), policyfile.Accounts{})
	if set == nil {
		t.Fatal(policyfile.AsError(found))
	}
	return set
}

// Rules of one pool show its sessions, in whichever generation these began.
func TestShowPools(t *testing.T) {
	const in = "session.pool: web\nmaxsessions: "
	old := parse(t, "socks pass { from: 0/0 to: 0/0\n"+in+"9 }\n")
	now := parse(t, "socks pass { from: 10.0.0.0/8 to: 0/0\n"+in+"5 }\nsocks pass { from: 0/0 to: 0/0\n"+in+"5 }\n")
	gens := []proxy.Generation{
		{Label: "g1-old", Digest: old.Digest(), Rules: old, Sessions: 1},
		{Label: "g2-now", Digest: now.Digest(), Rules: now, Current: true},
	}
	got := showRules("f", gens, limiter.Status{Totals: map[string]int64{limiter.Pool("web"): 7}})
	if len(got.Limits) != 3 {
		t.Fatalf("%+v", got.Limits)
	}
	for i, most := range []int64{5, 5, 9} {
		if l := got.Limits[i]; l.Pool != "web" || l.Sessions != 7 || l.Max != most {
			t.Errorf("%+v", l)
		}
	}
}

func TestShowRules(t *testing.T) {
	old := parse(t, "socks pass { from: 0/0 to: 0/0 maxsessions: 9 }\n")
	now := parse(t, "socks block { from: 10.0.0.0/8 to: 0/0 }\nsocks pass { from: 0/0 to: 0/0 maxsessions: 5 }\n")
	gens := []proxy.Generation{
		{Label: "g1-old", Number: 1, Digest: old.Digest(), Rules: old, Sessions: 1},
		{Label: "g2-now", Number: 2, Digest: now.Digest(), Rules: now, Sessions: 1}, // before an unchanged reload
		{Label: "g2-now", Number: 2, Digest: now.Digest(), Rules: now, Current: true},
	}
	got := showRules(policyfile.Name(""), gens, limiter.Status{Totals: map[string]int64{old.Digest() + "/s1": 3, now.Digest() + "/s2": 4}})
	if got.File != policyfile.BuiltinName || got.Generation != "g2-now" || got.Number != 2 || got.Digest != now.Digest() {
		t.Errorf("%+v", got)
	}
	if len(got.Limits) != 2 {
		t.Fatalf("%+v", got.Limits)
	}
	if l := got.Limits[0]; l.Rule != "s2" || !l.Current || l.Max != 5 || l.Sessions != 4 || l.Location != "test.conf:2" {
		t.Errorf("%+v", l)
	}
	if l := got.Limits[1]; l.Rule != "s1" || l.Current || l.Max != 9 || l.Sessions != 3 || l.Generation != "g1-old" {
		t.Errorf("%+v", l)
	}
}
