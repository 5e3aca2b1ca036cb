package limiter

import (
	"encoding/json"
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// mutation takes one mechanism out of the source. Something must then fail:
// the simulation, within its fixed number of schedules, or another test of
// this package; or, for what another mechanism makes up for in every schedule
// (a second line), the suite of the contract on the model.
type mutation struct {
	name     string
	file     string // below the module's root
	old, new string // old stands there exactly once
}

const (
	holderGo   = "limiter/holder.go"
	batchGo    = "limiter/batch.go"
	counterGo  = "limiter/counter.go"
	observerGo = "limiter/observer.go"
	shardGo    = "store/memstore/shard.go"
	entriesGo  = "store/memstore/entries.go"
)

var mutations = []mutation{
	{"no live: what waits is stated as if it lived", batchGo, "Live: c.live, Need: need}", "Live: need, Need: need}"},
	{"no fence", holderGo, "fence: ttl * 7 / 10", "fence: ttl * 70 / 10"},
	{"witness shorter than the fence", holderGo, "witness: ttl * 3 / 4", "witness: ttl * 4 / 10"},
	{"lease from the reply", batchGo, "h.lease.fence.Store(int64(r.sent + h.timing.fence))", "h.lease.fence.Store(int64(now + h.timing.fence))"},
	{"lease from a resend", holderGo, "if r.sent == 0 {", "if true {"},
	{"no run id", holderGo, "if h.run != h.joinedRun && (", "if false && ("},
	{"no gap rule", observerGo, "now-o.lastLook > t.gap ||", ""},
	{"refused as full without this reply's total", batchGo, "case !h.young && full(n, c):", "case !h.young:"},
	{"waiters get own less what lives now", batchGo, "slots := n.Own - s.live;", "slots := n.Own - c.live;"},
	{"refilled although over", counterGo, "!c.over && !c.contended", "!c.contended"},
	{"no fence while detached", holderGo, "if !h.lease.ended && h.lease.passed(now) {", "if (h.phase == live || h.phase == reclaiming) && h.lease.passed(now) {"},
	{"over not set at the fence", holderGo, "c.over = true", "_ = c"},
	{"over cleared by a young total", batchGo, "} else if !h.young {\n\t\tc.over = false", "} else {\n\t\tc.over = false"},
	{"hand-over beyond what a batch in flight states", counterGo, " && (!c.inFlight || c.live < c.sentLive)", ""},
	{"hand-over although contended", counterGo, "!c.over && !c.contended", "!c.over"},
	{"a batch survives the loss of its lease", holderGo, "h.resend = nil\n\th.claims", "h.claims"},
	{"a join of the same stream again", batchGo, "h.stream++", "h.stream = max(h.stream, 1)"},
	{"a counter of a lost batch is forgotten", holderGo, "c.unsure = c.unsure || c.inFlight", ""},
	{"lost leases are not fenced", batchGo, "h.older = append(h.older, h.lease)", "_ = h"},
	{"claims confirmed before they are", batchGo, "h.lease = &lease{}\n\tfor _, c := range h.counters {\n\t\tc.own = 0", "h.lease = &lease{}\n\tfor _, c := range h.counters {\n\t\tc.lease.Store(h.lease)\n\t\tc.own = 0"},
	{"a mismatched holder does not reap", holderGo, "case h.observer.hasDead():\n\t\treturn h.makeReap(h.observer.nextDead())\n\tcase now >= h.retryAt:", "case now >= h.retryAt:"},

	{"no token check", shardGo, "|| r.token != b.Prev && r.token != b.New {", "{"},
	{"duplicates take effect", shardGo, "if r.token == b.New {", "if false {"},
	{"late join accepted", shardGo, "if s.m != nil && s.m.tombstones[j.Holder] >= j.Stream || r != nil && r.token.Stream >= j.Stream {", "if r != nil && false {"},
	{"no tombstone", shardGo, "s.m != nil && s.m.tombstones[j.Holder] >= j.Stream || ", ""},
	{"no grace", shardGo, "young: true,", "young: false,"},
	{"matures while a holder claims", shardGo, "claiming = claiming || m.State == store.Claiming", "_ = m"},
	{"no dying mark", shardGo, "target.State = store.DyingOne", ""},
	{"a birth in m only", shardGo, "if s.m == nil || s.t == nil || s.m.birth != b.New.Birth || s.t.birth != b.New.Birth || r == nil {",
		"if s.m != nil && s.t == nil {\n\t\ts.t = &totals{birth: s.m.birth, count: map[string]int64{}, notes: map[string][]string{}}\n\t}\n" +
			"\tif s.m == nil || s.m.birth != b.New.Birth || r == nil {"},
	{"no run id in the store", shardGo, "|| s.m.run != j.RunID {", "{"},
	{"a reap of any token", shardGo, "if target.Token != q.Token {\n\t\treturn store.No, nil\n\t}", "q.Token = target.Token"},
	{"counts cleared at a join", shardGo, "if j.Last.Birth == s.m.birth {\n\t\t\treturn true", "if false {\n\t\t\treturn true"},
	{"an unanswered join counts twice", shardGo, "s.t.add(c, -n)", "_, _ = c, n"},
	{"no settings check", shardGo, "s.m.settings != j.Settings && s.m.hasOther(j.Holder)", "false"},
	{"a young store grows", entriesGo, "if s.m.young || how.more {\n\t\tfree = min(free, 0)", "if how.more {\n\t\tfree = min(free, 0)"},
	{"strict claims above the maximum", entriesGo, "floor = min(e.Live, own+max(0, room))", "floor = e.Live + 0*room"},
	{"one pass", entriesGo, "\t\ts.shrink(holder, e, held)\n\t}\n\tfor _, e := range entries {\n", "\t\ts.shrink(holder, e, held)\n"},
	{"the rule's total is not moved", entriesGo, "[]string{counter, store.RuleOf(counter)}", "[]string{counter}"},
	{"no note", entriesGo, "s.t.note(l.name, holder)", "_ = l"},
	{"a note of one name", entriesGo, "names = append(names, h)", "_ = h"},
	{"what is freed is not held", entriesGo, "held[l.name] += freed", "_ = freed"},
}

var withMutations = flag.Bool("mutations", false, "take the protocol's mechanisms out one by one, and see that a test fails")

// TestMutations builds the package once a mutation, with the source changed
// in an overlay, and runs its tests.
func TestMutations(t *testing.T) {
	if !*withMutations {
		t.Log("not asked for: -mutations runs them, in some minutes")
		return
	}
	root, err := filepath.Abs("..")
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range mutations {
		t.Run(m.name, func(t *testing.T) {
			t.Parallel()
			out := runMutated(t, root, m)
			if !strings.Contains(out, "--- FAIL: ") {
				t.Errorf("nothing noticed it; the tests printed:\n%s", out)
			}
		})
	}
}

// runMutated returns what the tests of the mutated package printed.
func runMutated(t *testing.T, root string, m mutation) string {
	path := filepath.Join(root, m.file)
	source, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(string(source), m.old); n != 1 {
		t.Fatalf("%q stands %d times in %s, want once: bring the mutation up to date", m.old, n, m.file)
	}
	dir := t.TempDir()
	mutant := filepath.Join(dir, "mutant.go")
	if err := os.WriteFile(mutant, []byte(strings.Replace(string(source), m.old, m.new, 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	overlay, err := json.Marshal(map[string]map[string]string{"Replace": {path: mutant}})
	if err != nil {
		t.Fatal(err)
	}
	overlayFile := filepath.Join(dir, "overlay.json")
	if err := os.WriteFile(overlayFile, overlay, 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), "go", "test", "-overlay", overlayFile, "-count=1", "-vet=off", "-failfast", "-timeout=120s", "./limiter", "./store/memstore")
	cmd.Dir = root
	out, err := cmd.CombinedOutput()
	if strings.Contains(string(out), "[build failed]") {
		t.Fatalf("the mutant does not compile:\n%s", out)
	}
	if err == nil {
		return ""
	}
	return string(out)
}
