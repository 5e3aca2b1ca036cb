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

// mutation takes one mechanism out of the source. The test that is named must
// then fail, and no other will do: a schedule of the simulation, among as many
// as a normal run has, from the first seed; or, where why says what keeps the
// simulation from it, another test, of this package or of the contract.
type mutation struct {
	name     string
	file     string // below the module's root
	old, new string // old stands there exactly once
	by       string
	why      string
}

const (
	replicaGo  = "limiter/holder.go"
	batchGo    = "limiter/batch.go"
	counterGo  = "limiter/counter.go"
	observerGo = "limiter/observer.go"
	driverGo   = "limiter/shard.go"
	restGo     = "limiter/rest.go"
	shardGo    = "store/internal/model/shard.go"
	entriesGo  = "store/internal/model/entries.go"
)

const (
	ownDriver  = "it has a driver of its own"
	lateRivals = "takes a loss amid a change of settings, and one more fault just then"
)

var mutations = []mutation{
	{"no live: what waits is stated as if it lived", batchGo, "Live: c.live, Need: need}", "Live: need, Need: need}", "TestSimulation/rollbacks/keep", ""},
	{"no fence", replicaGo, "fence: ttl * 7 / 10", "fence: ttl * 70 / 10", "TestSimulation/rollbacks/strict", ""},
	{"witness shorter than the fence", replicaGo, "witness: ttl * 3 / 4", "witness: ttl * 4 / 10", "TestSimulation/rollbacks/strict", ""},
	{"lease from the reply", batchGo, "h.lease.fence.Store(int64(r.sent + h.timing.fence))", "h.lease.fence.Store(int64(now + h.timing.fence))", "TestFenceCountsFromTheFirstSend", "takes a late answer, and one seed in a hundred has it where it matters"},
	{"lease from a resend", replicaGo, "if r.sent == 0 {", "if true {", "TestFenceCountsFromTheFirstSend", "takes a late answer, and one seed in a hundred has it where it matters"},
	{"no gap rule", observerGo, "now-o.lastLook > t.gap ||", "", "TestSimulation/blackouts/keep", ""},
	{"tombstones are dropped early", observerGo, "if now-since >= t.tombstone {", "if true {", "TestSimulation/settings_and_losses/keep", ""},
	{"tombstones are never dropped", observerGo, "o.gone = append(o.gone, h)", "_ = h", "TestTombstonesAreDropped", "they do no harm but to the size of the data"},
	{"refused as full without this reply's total", batchGo, "err := reason(n, c)\n\t\tswitch", "err := ErrFull\n\t\tswitch", "TestSimulation/rollbacks/keep", ""},
	{"waiters get own less what lives now", batchGo, "slots := n.Granted - s.live\n", "slots := n.Granted - c.live\n", "TestFairness", ""},
	{"refilled although over", counterGo, "!c.over && !c.contended", "!c.contended", "TestCutOffReplicaDrainsAndIsNotRefilled", "those cut off are excused, and so is what they refill"},
	{"no fence while detached", replicaGo, "if !h.lease.ended && h.lease.passed(now) {", "if (h.phase == live || h.phase == reclaiming) && h.lease.passed(now) {", "TestSimulation/rollbacks/strict", ""},
	{"over not set at the fence", replicaGo, "c.over = true", "_ = c", "TestNothingIsRefilledAfterTheFence", "those cut off are excused, and so is what they refill"},
	{"over cleared by a recovering total", batchGo, "} else if !h.recovering {\n\t\tc.over = false", "} else {\n\t\tc.over = false", "TestNothingIsRefilledAfterTheFence", "those cut off are excused, and so is what they refill"},
	{"hand-over beyond what a batch in flight states", counterGo, " && (!c.inFlight || c.live < c.sentLive)", "", "TestSimulation/rollbacks/keep", ""},
	{"hand-over although contended", counterGo, "!c.over && !c.contended", "!c.over", "TestFairness", ""},
	{"a batch survives the loss of its lease", replicaGo, "h.resend = nil\n\th.claims", "h.claims", "TestSimulation/rollbacks/strict", ""},
	{"a join of the same stream again", batchGo, "h.stream++", "h.stream = max(h.stream, 1)", "TestSimulation/rollbacks/keep", ""},
	{"a counter of a lost batch is forgotten", replicaGo, "c.unsure = c.unsure || c.inFlight", "", "TestSimulation/rates_and_everything/keep", ""},
	{"lost leases are not fenced", batchGo, "h.older = append(h.older, h.lease)", "_ = h", "TestClaimsStayOnTheOldFence", "takes a loss of data between two chunks of claims"},
	{"claims confirmed before they are", batchGo, "h.lease = &lease{}\n\tfor _, c := range h.counters {\n\t\tc.own = 0", "h.lease = &lease{}\n\tfor _, c := range h.counters {\n\t\tc.lease.Store(h.lease)\n\t\tc.own = 0", "TestClaimsStayOnTheOldFence", "takes a loss of data between two chunks of claims"},
	{"claims of counters that are gone", batchGo, "h.counters[c.name] == c {", "true {", "TestSimulation/rates_and_everything/keep", ""},
	{"a mismatched replica does not expire", replicaGo, "case h.observer.hasDead():\n\t\treturn h.makeExpire(h.observer.nextDead())\n\tcase now >= h.retryAt:", "case now >= h.retryAt:", "TestSimulation/settings/keep", ""},

	{"no token check", shardGo, "|| r.token != b.Prev && r.token != b.New {", "{", "TestSimulation/rollbacks/strict", ""},
	{"duplicates take effect", shardGo, "if r.token == b.New {", "if false {", "TestSimulation/rollbacks/strict", ""},
	{"late join accepted", shardGo, "if s.m != nil && s.m.tombstones[j.Replica] >= j.Stream || r != nil && r.token.Stream >= j.Stream {", "if r != nil && false {", "TestSimulation/rollbacks/strict", ""},
	{"no tombstone", shardGo, "s.m != nil && s.m.tombstones[j.Replica] >= j.Stream || ", "", "TestSimulation/stops_and_restarts/strict", ""},
	{"no grace", shardGo, "recovering: true,", "recovering: false,", "TestSimulation/rollbacks/strict", ""},
	{"a epoch is proved by its join", observerGo, "!h.leased || h.acked.Seq > 0", "true", "TestDataBornTwiceIsNotTheSame", "takes two losses at once, and a copy of one join between them"},
	{"others' lost data is borne", batchGo, "MustNotCreate: h.rivals.mayReturn(now, h.timing)", "MustNotCreate: false", "TestOtherSettingsBearNoLostData", "their limits hold all the same: recovering data is watched for their time"},
	{"housekeeping before all else", replicaGo, "case opBatch:\n\t\t\th.tidied = false", "default:\n\t\t\th.tidied = false", "TestHousekeepingThatFailsStarvesNobody", "no store refuses it for ever"},
	{"batches before all else", replicaGo, "case opExpire, opEndRecovery: // it may fail each time\n\t\t\th.tidied = true\n\t\tcase opBatch:\n\t\t\th.tidied = false\n", "default:\n\t\t\th.tidied = true\n", "TestMaturesUnderLoad", "its load leaves gaps between batches"},
	{"what must wait keeps the driver awake", restGo, "if h.busy && at <= now {", "if false {", "TestSimulation/rollbacks/strict", ""},
	{"nobody sends what had to wait", restGo, "return !h.busy && h.wakeAt() < rests", "return false", "TestSimulation/rollbacks/strict", ""},
	{"a space that had to wait is told with a heartbeat", restGo, " || h.space != h.spaceKnown || h.untidy()", " || h.untidy()", "TestSimulation/stops_and_restarts/strict", ""},
	{"a resend awaits a heartbeat", restGo, "len(h.queue) > 0 || h.resend != nil ||", "len(h.queue) > 0 ||", "TestBusyStoreIsAskedAgainSoon", "its stores never put anybody off"},
	{"the dead of lost data are expired again and again", replicaGo, "h.observer = newObserver() // who is dead", "_ = h // who is dead", "TestDeadOfLostDataAreForgotten", "takes a expire and the data that are lost at once"},
	{"a move tells late what it gave back", driverGo, "s.rouseIfDue() // for old", "", "TestToldAtOnce", ownDriver},
	{"another space is told late", driverGo, "s.replica.space, s.replica.watch = space, watch\n\ts.mu.Unlock()\n\ts.rouse()", "s.replica.space, s.replica.watch = space, watch\n\ts.mu.Unlock()", "TestToldAtOnce", ownDriver},
	{"the end is told late", driverGo, "s.replica.leave()\n\ts.mu.Unlock()\n\ts.rouse()", "s.replica.leave()\n\ts.mu.Unlock()", "TestToldAtOnce", ownDriver},
	{"who is admitted alone is told late", driverGo, "s.rouseIfDue()\n\treturn got, err", "return got, err", "TestAdmittedAloneIsToldAtOnce", ownDriver},
	{"whom youth refuses is not admitted alone", driverGo, "return s.orAlone(limit, a.slot, a.err)", "if answered {\n\t\treturn a.slot, a.err\n\t}\n\treturn s.orAlone(limit, a.slot, a.err)", "TestRefusedForYouthIsAdmittedAlone", ownDriver},
	{"a late answer is lost", driverGo, "return <-w.done, true", "<-w.done\n\treturn answer{}, false", "TestAnswerAfterTheDeadline", ownDriver},
	{"who left keeps a slot", driverGo, "a.slot.release()\n\t\treturn nil, err", "return nil, err", "TestClientLeavesWhileItAsks", ownDriver},
	{"who leaves takes the request along", driverGo, "context.WithoutCancel(ctx)", "ctx", "TestClientLeavesWhileItAsks", ownDriver},
	{"the end does not hear of a request's", driverGo, "s.rests = math.MaxInt64", "s.rests = 0 * math.MaxInt64", "TestCloseIsCutShort", ownDriver},
	{"young data of rivals ripens in our own time", observerGo, "t.witness = max(t.witness, h.rivals.witness)", "_ = h", "TestLateJoinOfOtherSettings", lateRivals},
	{"rivals are forgotten at once", batchGo, "rivals{witness: h.rivals.witness}", "rivals{}", "TestRivalsComeBack", lateRivals},
	{"rivals keep nobody out during a try to join", counterGo, "case h.apart():", "case h.phase == mismatched:", "TestWhoIsKeptOutAdmitsNobody", "nobody there admits alone"},
	{"who is kept out remembers who asked", observerGo, "\t\th.drop(c)\n\t}\n}\n\n// apart", "\t}\n}\n\n// apart", "TestKeptOutForgets", "it does no harm but to memory"},
	{"strict admits alone", driverGo, "!o.AdmitLocally || o.Strict ||", "!o.AdmitLocally ||", "TestStrictAdmitsNobodyAlone", ownDriver},
	{"a slot that was taken is valid again", "limiter/grant.go", "!s.dead.Load() && ", "", "TestTakenSlotStaysInvalid", "its clients end with their slots"},
	{"a cut claim ends no session", batchGo, "h.take(c, c.live-c.own) // a claim that was cut", "_ = c", "TestCutClaimEndsItsSession", "takes another that claims what it has not"},
	{"whoever matured the data before matures it again", shardGo, " || !me.Token.Reaches(q.Token)", "", "TestContract", "takes copies of a join and of a mature, in this order, after a loss"},
	{"matures while a replica claims", shardGo, "claiming = claiming || m.State == store.MemberClaiming", "_ = m", "TestContract", "three counters are claimed long before data is ripe"},
	{"no expiring mark", shardGo, "target.State = store.MemberExpiring", "", "TestContract", "a second line: a join states all counts anew"},
	{"a epoch in m only", shardGo, "if s.m == nil || s.t == nil || s.m.epoch != b.New.Epoch || s.t.epoch != b.New.Epoch || r == nil {",
		"if s.m != nil && s.t == nil {\n\t\ts.t = &totals{epoch: s.m.epoch, count: map[string]int64{}, notes: map[string][]string{}}\n\t}\n" +
			"\tif s.m == nil || s.m.epoch != b.New.Epoch || r == nil {", "TestSimulation/rates_and_everything/keep", ""},
	{"a join builds on data of another history", shardGo, "|| s.m.history != s.history {", "{", "TestSimulation/rollbacks/strict", ""},
	{"a batch builds on data of another history", shardGo, "if s.m.history != s.history {\n\t\treturn", "if false {\n\t\treturn", "TestSimulation/fail-backs/strict", ""},
	{"a expire of any token", shardGo, "if target.Token != q.Token {\n\t\treturn store.Alive, nil\n\t}", "q.Token = target.Token", "TestSimulation/partitions/keep", ""},
	{"counts cleared at a join", shardGo, "if j.Last.Epoch == s.m.epoch {\n\t\t\treturn true", "if false {\n\t\t\treturn true", "TestSimulation/blackouts/keep", ""},
	{"an unanswered join counts twice", shardGo, "s.t.add(c, -n)", "_, _ = c, n", "TestSimulation/rates_and_everything/keep", ""},
	{"a copy of the join that bore the data bears it again", shardGo, "s.m != nil && s.m.epoch == j.Candidate || s.t != nil && s.t.epoch == j.Candidate {", "false {", "TestContract", "takes a lost key and a late copy of one join among hundreds"},
	{"counts without a member are kept", shardGo, " || me == nil && r != nil && r.token.Epoch == s.m.epoch {", " {", "TestContract", "the same, and two keys more"},
	{"no settings check", shardGo, "s.m.settings != j.Settings && s.m.hasOther(j.Replica)", "false", "TestSimulation/settings/keep", ""},
	{"a recovering store grows", entriesGo, "if s.m.recovering || how.more {\n\t\tfree = min(free, 0)", "if how.more {\n\t\tfree = min(free, 0)", "TestContract", "a second line: who knows that it is recovering asks for nothing"},
	{"strict claims above the maximum", entriesGo, "floor = min(e.Live, granted+max(0, room))", "floor = e.Live + 0*room", "TestContract", "a second line: the fence has ended what would be cut"},
	{"one pass", entriesGo, "\t\ts.shrink(replica, e, held)\n\t}\n\tfor _, e := range entries {\n", "\t\ts.shrink(replica, e, held)\n", "TestSimulation/moves/keep", ""},
	{"the rule's total is not moved", entriesGo, "[]string{counter, store.RuleOf(counter)}", "[]string{counter}", "TestSimulation/calm/strict", ""},
	{"no note", entriesGo, "s.t.note(l.name, replica)", "_ = l", "TestFairness", ""},
	{"a note of one name", entriesGo, "names = append(names, h)", "_ = h", "TestFairness", ""},
	{"hand-over of a throttled counter", counterGo, " && !c.throttled && c.live", " && c.live", "TestSimulation/rates_and_everything/keep", ""},
	{"a rate alone gets what is held", batchGo, "slots = n.Admitted", "_ = n.Admitted", "TestSimulation/rates_and_everything/keep", ""},
	{"a counter in flight is dropped", counterGo, " && !c.inFlight && !c.unsure {", " && !c.unsure {", "TestSimulation/rollbacks/keep", ""},
	{"a counter that the store may have is dropped", counterGo, " && !c.inFlight && !c.unsure {", " && !c.inFlight {", "TestSimulation/rates_and_everything/strict", ""},
	{"a rate alone is counted", counterGo, "counted: e.Counted()", "counted: true", "TestThrottleAloneCountsNothing", "what is counted for nothing is dropped with its session"},
	{"a duplicate is answered anew", shardGo, "s.answerRates(now, b.Entries, r.admitted, counts) // the first",
		"counts = s.apply(b.Replica, b.Entries, terms{now: now, strict: b.Strict, more: b.More})\n\t\ts.answerRates(now, b.Entries, r.admitted, counts) // the first", "TestSimulation/rollbacks/strict", ""},
	{"a refusal uses up the rate", entriesGo, "s.begin(levels, admitted, how)", "s.begin(levels, tokens, how)", "TestSimulation/rates_and_everything/keep", ""},
	{"the rule's rate is not used up", entriesGo, "for _, l := range levels {\n\t\tif l.rate.N > 0 && n > 0 {", "for _, l := range levels[:1] {\n\t\tif l.rate.N > 0 && n > 0 {", "TestSimulation/rates_and_everything/keep", ""},
	{"slots in hand begin sessions of a throttled counter", entriesGo, "max(floor, granted+free), e.Live+tokens)", "max(floor, granted+free), max(granted, e.Live+tokens))", "TestSimulation/rates_and_everything/keep", ""},
	{"a window that every use prolongs", "store/limit/windows.go", "o.used += n", "o.used, o.end = o.used+n, now+per", "TestSimulation/rates_and_everything/keep", ""},
	{"what is freed is not held", entriesGo, "held[l.name] += freed", "_ = freed", "TestSimulation/moves/keep", ""},
}

var withMutations = flag.Bool("mutations", false, "take the protocol's mechanisms out one by one, and see that a test fails")

// TestMutations builds the tests once a mutation, with the source changed in an
// overlay, and runs the one that must notice it.
func TestMutations(t *testing.T) {
	if !*withMutations {
		t.Log("not asked for: -mutations runs them, in a minute or two")
		return
	}
	root, err := filepath.Abs("..")
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range mutations {
		t.Run(m.name, func(t *testing.T) {
			t.Parallel()
			simulated := strings.HasPrefix(m.by, "TestSimulation/") || m.by == "TestFairness"
			if simulated != (m.why == "") {
				t.Fatalf("%s is named: is there a reason (%q) why the simulation cannot notice it?", m.by, m.why)
			}
			if !mutate(t, root, m).caughtBy(m.by) {
				t.Errorf("%s did not notice it", m.by)
			}
		})
	}
}

// contract is the suite of the contract, which is in a package of its own.
const contract = "TestContract"

// mutant is the source with one mutation.
type mutant struct {
	t       *testing.T
	root    string
	dir     string
	overlay string
}

func mutate(t *testing.T, root string, m mutation) *mutant {
	path := filepath.Join(root, m.file)
	source, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(string(source), m.old); n != 1 {
		t.Fatalf("%q stands %d times in %s, want once: bring the mutation up to date", m.old, n, m.file)
	}
	u := &mutant{t: t, root: root, dir: t.TempDir()}
	file := filepath.Join(u.dir, "mutant.go")
	if err := os.WriteFile(file, []byte(strings.Replace(string(source), m.old, m.new, 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	overlay, err := json.Marshal(map[string]map[string]string{"Replace": {path: file}})
	if err != nil {
		t.Fatal(err)
	}
	u.overlay = filepath.Join(u.dir, "overlay.json")
	if err := os.WriteFile(u.overlay, overlay, 0o600); err != nil {
		t.Fatal(err)
	}
	return u
}

// caughtBy reports whether the test of that name fails.
func (u *mutant) caughtBy(test string) bool {
	pattern := "^" + strings.ReplaceAll(test, "/", "$/^") + "$"
	folder := "limiter"
	if test == contract {
		folder = "store/memstore"
	}
	args := []string{"-test.run", pattern, "-test.failfast", "-test.timeout=3m"}
	if folder == "limiter" {
		args = append(args, "-sim.first=1", "-sim.seeds=100")
	}
	cmd := exec.CommandContext(u.t.Context(), u.build(folder), args...)
	cmd.Dir = filepath.Join(u.root, folder)
	out, err := cmd.CombinedOutput()
	return err != nil && strings.Contains(string(out), "--- FAIL: ")
}

// build compiles the tests of a package, once.
func (u *mutant) build(folder string) string {
	binary := filepath.Join(u.dir, filepath.Base(folder)+".test")
	if _, err := os.Stat(binary); err == nil {
		return binary
	}
	cmd := exec.CommandContext(u.t.Context(), "go", "test", "-c", "-o", binary, "-overlay", u.overlay, "-vet=off", "-ldflags=-s -w", "./"+folder)
	cmd.Dir = u.root
	if out, err := cmd.CombinedOutput(); err != nil {
		u.t.Fatalf("the mutant does not compile:\n%s", out)
	}
	return binary
}
