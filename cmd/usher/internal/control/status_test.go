package control

import (
	"strings"
	"testing"
	"time"
	"unicode"

	"usher/proxy/admin"
)

// A rule that limits rates only has no number of sessions that it is held to, and one in
// mode report refuses nobody.
func TestStatusOfLimits(t *testing.T) {
	var st admin.Status
	st.Rules.Limits = []admin.RuleLimit{
		{Rule: "c1", Name: "c:1f0c9a2e", Generation: "g1", Max: -1, Location: "f:1:1"},
		{Rule: "s1", Name: "web", Generation: "g1", Max: 0, Sessions: 2, Location: "f:2:1"},
		{Rule: "s2", Name: "mail", Generation: "g1", Max: 2, Sessions: 5, Mode: "report", Location: "f:3:1"},
	}
	var b strings.Builder
	if err := Print(&b, st); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"c1 c:1f0c9a2e g1 0 - f:1:1", "s1 web g1 2 0 f:2:1", "s2 mail g1 5 2 (report) f:3:1"} {
		if !strings.Contains(strings.Join(strings.Fields(b.String()), " "), want) {
			t.Errorf("no %q in\n%s", want, b.String())
		}
	}
}

// A rule in a pool shows the pool, and other rules beside it show none.
func TestStatusOfPools(t *testing.T) {
	var st admin.Status
	st.Rules.Limits = []admin.RuleLimit{
		{Rule: "s1", Name: "web", Pool: "ten", Generation: "g1", Max: 10, Sessions: 2, Location: "f:1:1"},
		{Rule: "s2", Name: "ftp", Generation: "g1", Max: 5, Location: "f:2:1"},
	}
	var b strings.Builder
	if err := Print(&b, st); err != nil {
		t.Fatal(err)
	}
	const want = "RULE NAME POOL GENERATION SESSIONS LIMIT LOCATION s1 web ten g1 2 10 f:1:1 s2 ftp - g1 0 5 f:2:1"
	if !strings.Contains(strings.Join(strings.Fields(b.String()), " "), want) {
		t.Errorf("no %q in\n%s", want, b.String())
	}
}

// A store that recovers confirms nobody: with USHER_STORE_DOWN=admit, sessions are
// admitted all the same.
func TestStatusOfAStore(t *testing.T) {
	st := admin.Store{Address: "redis://r", Joined: true}
	if line := storeLine(st); strings.Contains(line, "\n") {
		t.Error(line)
	}
	st.Recovering = true
	if line := storeLine(st); !strings.Contains(line, "joined, recovering: it confirms no new sessions yet") {
		t.Error(line)
	}
	st.Recovering = false
	st.Failure, st.FailingSince = "batch: MISCONF", time.Unix(1e9, 0).UTC()
	if line := storeLine(st); !strings.HasSuffix(line, "\nfailing since 2001-09-09T01:46:40Z, last error: batch: MISCONF") {
		t.Error(line)
	}
}

// Redis chooses its error texts, and an admin listener its answer: neither may
// write to the terminal of whoever asks for the status.
func TestStatusIsPrintable(t *testing.T) {
	const evil = "\x1b[2J\u202e\u200b\u009b\x7f"
	var st admin.Status
	st.Version, st.Reason, st.Listen = evil, evil, []string{evil}
	st.Rules.File, st.Rules.ReloadErr, st.Store.Address, st.Store.Mismatch = evil, "a:1:1: one\na:2:1: two"+evil, evil, evil
	st.Store.Failure, st.Store.FailingSince = evil, time.Unix(1e9, 0)
	st.Rules.Limits = []admin.RuleLimit{{Rule: evil, Name: evil, Generation: evil, Location: evil}}
	var b strings.Builder
	if err := Print(&b, st); err != nil {
		t.Fatal(err)
	}
	if i := strings.IndexFunc(b.String(), func(r rune) bool { return r != '\n' && !unicode.IsPrint(r) }); i >= 0 {
		t.Errorf("the status has %q:\n%q", b.String()[i:i+4], b.String())
	}
	if !strings.Contains(b.String(), "a:1:1: one\n               a:2:1: two") {
		t.Errorf("the mistakes are not below each other:\n%s", b.String())
	}
}
