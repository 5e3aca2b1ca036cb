package limiter_test

import (
	"errors"
	"flag"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
)

// mutation removes one mechanism from the source, at a comment //mutate:name. The test
// in its row must then fail. This is a schedule of the simulation, among as many as a
// normal run has, from the first seed. If the simulation cannot notice, it is another
// test, and why says the reason.
type mutation struct {
	name string
	with string // what replaces the marked code; "" takes it out, see mutate_test.go
	by   string // the test, after its folder
	why  string
}

const (
	sim     = "limiter/replica TestSimulation/"
	pools   = "limiter/replica TestPools/"
	reports = "limiter/replica TestReports/"
	table   = "limiter/replica "
	driver  = "limiter "
	clauses = "store/memstore TestContract"
)

const (
	ownDriver     = "it has a driver of its own"
	lateConflict  = "takes a loss amid a change of settings, and one more fault just then"
	cutOffExcused = "those cut off are excused, and so is what they reuse"
	lateAnswer    = "takes a late answer, and one seed in a hundred has it where it matters"
	twoChunks     = "takes a loss of data between two chunks of claims"
)

var mutations = []mutation{
	{"waiting-sessions-are-stated-as-live", "need", sim + "rollbacks/keep", ""},
	{"no-lease-deadline", "ttl * 70 / 10", sim + "rollbacks/strict", ""},
	{"witness-shorter-than-the-lease", "ttl * 4 / 10", sim + "rollbacks/strict", ""},
	{"lease-from-the-reply", "m.leases.current.deadline = now + m.timing.lease", driver + "TestDeadlineCountsFromTheFirstSend", lateAnswer},
	{"lease-from-a-resend", "true", driver + "TestDeadlineCountsFromTheFirstSend", lateAnswer},
	{"no-gap-rule", "", sim + "blackouts/keep", ""},
	{"tombstones-are-dropped-early", "true", sim + "settings_and_losses/keep", ""},
	{"tombstones-are-never-dropped", "", driver + "TestTombstonesAreDropped", "they do no harm but to the size of the data"},
	{"refused-as-full-without-the-total-of-this-reply", "err := ErrFull", sim + "rollbacks/keep", ""},
	{"waiters-get-granted-less-what-lives-now", "slots := n.Granted - c.live", table + "TestFairness", ""},
	{"reused-although-over-the-limit", "", driver + "TestCutOffReplicaDrainsAndReusesNoSlot", cutOffExcused},
	{"no-deadline-while-detached", "m.joined() && l.current.passed(now)", sim + "rollbacks/strict", ""},
	{"over-limit-not-set-at-the-deadline", "", driver + "TestNoSlotIsReusedAfterTheDeadline", cutOffExcused},
	{"over-limit-cleared-by-a-total-in-recovery", "true", driver + "TestNoSlotIsReusedAfterTheDeadline", cutOffExcused},
	{"hand-over-beyond-what-a-batch-in-flight-states", "", sim + "rollbacks/keep", ""},
	{"hand-over-although-contended", "", table + "TestFairness", ""},
	{"a-batch-survives-the-loss-of-its-lease", "", sim + "rollbacks/strict", ""},
	{"a-join-of-the-same-stream-again", "m.stream.number = max(m.stream.number, 1)", sim + "rollbacks/keep", ""},
	{"a-counter-of-a-lost-batch-is-forgotten", "", sim + "rates_and_everything/keep", ""},
	{"lost-leases-have-no-deadline", "", driver + "TestClaimsStayOnTheOldDeadline", twoChunks},
	{"claims-confirmed-before-they-are", "c.granted, c.lease = 0, m.leases.current", driver + "TestClaimsStayOnTheOldDeadline", twoChunks},
	{"claims-of-counters-that-are-gone", "true", sim + "rates_and_everything/keep", ""},
	{"a-mismatched-replica-expires-nobody", "", sim + "settings/keep", ""},
	{"an-epoch-is-proved-by-its-join", "return true", driver + "TestEpochCreatedTwiceIsNotTheSame", "takes two losses at once, and a copy of one join between them"},
	{"lost-data-of-conflicting-replicas-is-created", "false", driver + "TestOtherSettingsCreateNoEpoch", "their limits hold all the same: the recovery is watched for their time"},
	{"tidying-before-all-else", "default:", driver + "TestFailedExpiryDelaysNoBatch", "no store refuses it for ever"},
	{"batches-before-all-else", "o.tidied = true", driver + "TestRecoveryEndsUnderLoad", "its load leaves gaps between batches"},
	{"what-must-wait-keeps-the-driver-awake", "false", sim + "rollbacks/strict", ""},
	{"nobody-sends-what-had-to-wait", "return false", sim + "rollbacks/strict", ""},
	{"a-space-that-had-to-wait-awaits-a-heartbeat", "", sim + "stops_and_restarts/strict", ""},
	{"a-resend-awaits-a-heartbeat", "", driver + "TestBusyStoreIsAskedAgainSoon", "its stores never put anybody off"},
	{"the-dead-of-lost-data-are-expired-again", "", driver + "TestDeadOfLostDataAreForgotten", "takes an expire and the data that are lost at once"},
	{"a-move-tells-late-what-it-gave-back", "", driver + "TestChangesAreSentAtOnce", ownDriver},
	{"another-space-is-told-late", "", driver + "TestChangesAreSentAtOnce", ownDriver},
	{"the-end-is-told-late", "", driver + "TestChangesAreSentAtOnce", ownDriver},
	{"a-local-admission-is-told-late", "", driver + "TestLocalAdmissionIsSentAtOnce", ownDriver},
	{"admitted-elsewhere-without-an-exchange", "", driver + "TestOtherShardsNeedAnExchange", "its replicas exchange nothing"},
	{"admitted-elsewhere-after-a-wait-without-an-exchange", "return nil", driver + "TestOtherShardsNeedAnExchange", "its replicas exchange nothing"},
	{"each-session-of-an-outage-waits", "false", driver + "TestOneWaitIsEnough", ownDriver},
	{"an-outage-never-ends-for-those-who-wait", "", driver + "TestOneWaitIsEnough", ownDriver},
	{"refused-during-a-recovery-and-not-admitted-locally", "if answered {\n\treturn err\n}\nreturn s.orLocally(g, limit, err)", driver + "TestRefusedDuringRecoveryIsAdmittedLocally", ownDriver},
	{"a-late-answer-is-lost", "<-g.answered\nreturn nil, false", driver + "TestAnswerAfterTheDeadline", ownDriver},
	{"a-client-that-left-keeps-a-slot", "", driver + "TestClientLeavesWhileItAsks", ownDriver},
	{"a-client-that-leaves-takes-the-request-along", "s.send(ctx, true)", driver + "TestClientLeavesWhileItAsks", ownDriver},
	{"the-end-does-not-hear-of-a-requests-end", "s.sleepUntil = 0 * math.MaxInt64", driver + "TestCloseIsCutShort", ownDriver},
	{"a-recovery-of-conflicting-replicas-ends-in-our-time", "", driver + "TestLateJoinOfOtherSettings", lateConflict},
	{"conflicting-replicas-are-forgotten-at-once", "o.conflict = conflict{}", driver + "TestConflictingReplicasComeBack", lateConflict},
	{"conflicting-replicas-keep-nobody-out-during-a-try-to-join", "case m.phase == mismatched:", driver + "TestMismatchedReplicaAdmitsNobody", "nobody there admits locally"},
	{"who-is-kept-out-remembers-who-asked", "", table + "TestMismatchedReplicaForgetsWaiters", "it does no harm but to memory"},
	{"strict-admits-locally", "", driver + "TestStrictAdmitsNobodyLocally", ownDriver},
	{"a-slot-that-was-taken-is-valid-again", "", driver + "TestTakenSlotStaysInvalid", "its clients end with their slots"},
	{"a-cut-claim-ends-no-session", "", driver + "TestCutClaimEndsItsSession", "takes another that claims what it has not"},
	{"hand-over-of-a-throttled-counter", "", sim + "rates_and_everything/keep", ""},
	{"a-rate-alone-gets-what-is-granted", "", sim + "rates_and_everything/keep", ""},
	{"a-counter-in-flight-is-dropped", "", sim + "rollbacks/keep", ""},
	{"a-counter-that-the-store-may-count-is-dropped", "", sim + "rates_and_everything/strict", ""},
	{"a-rate-alone-is-counted", "true", driver + "TestThrottleAloneCountsNothing", "what is counted for nothing is dropped with its session"},

	{"no-token-check", "", sim + "rollbacks/strict", ""},
	{"duplicates-take-effect", "false", sim + "rollbacks/strict", ""},
	{"a-late-join-is-accepted", "r != nil && false", sim + "rollbacks/strict", ""},
	{"no-tombstone", "", sim + "stops_and_restarts/strict", ""},
	{"no-recovery", "false", sim + "rollbacks/strict", ""},
	{"whoever-ended-the-recovery-before-ends-it-again", "", clauses, "takes copies of a join and of the end of a recovery, in this order, after a loss"},
	{"a-recovery-ends-while-a-replica-claims", "_ = m", clauses, "three counters are claimed long before a recovery may end"},
	{"no-expiring-mark", "", clauses, "a second line: a join states all counts anew"},
	{"an-epoch-in-m-only", "func() bool {\nif s.m != nil && s.t == nil {\n" +
		"s.t = &totals{epoch: s.m.epoch, count: map[string]int64{}, notes: map[string][]string{}}\n}\n" +
		"return s.m == nil || s.m.epoch != b.New.Epoch || r == nil\n}()", sim + "rates_and_everything/keep", ""},
	{"a-join-builds-on-data-of-another-history", "", sim + "rollbacks/strict", ""},
	{"a-batch-builds-on-data-of-another-history", "", sim + "fail-backs/strict", ""},
	{"an-expire-of-any-token", "func() bool { q.Token = target.Token; return false }()", sim + "partitions/keep", ""},
	{"counts-cleared-at-a-join", "false", sim + "blackouts/keep", ""},
	{"an-unanswered-join-counts-twice", "_, _ = c, n", sim + "rates_and_everything/keep", ""},
	{"a-copy-of-the-join-that-created-an-epoch-creates-it-again", "", clauses, "takes a lost key and a late copy of one join among hundreds"},
	{"counts-without-a-member-are-kept", "", clauses, "the same, and two keys more"},
	{"no-settings-check", "", sim + "settings/keep", ""},
	{"a-recovering-store-grows", "how.more", clauses, "a second line: a replica that knows of the recovery asks for nothing"},
	{"strict-claims-above-the-maximum", "floor = e.Live + 0*room", clauses, "a second line: the lease that ended has ended what would be cut"},
	{"one-pass", "var admitted []int64\nfor _, e := range entries {\ns.shrink(replica, e, held)\nif a := s.grow(replica, e, held, how); e.Throttled() {\n" +
		"admitted = append(admitted, a)\n}\n}\nif len(admitted) > 0 {\ns.r[replica].admitted = admitted\n}\nreturn s.answer(replica, entries)", sim + "moves/keep", ""},
	{"the-total-of-the-rule-is-not-moved", "[]string{counter}", sim + "calm/strict", ""},
	{"no-note", "", table + "TestFairness", ""},
	{"a-note-of-one-name", "", table + "TestFairness", ""},
	{"a-duplicate-is-answered-anew", "counts = s.apply(b.Replica, b.Entries, terms{now: now, strict: b.Strict, more: b.More})\n" +
		"s.answerRates(now, b.Entries, r.admitted, counts)", sim + "rollbacks/strict", ""},
	{"a-refusal-uses-up-the-rate", "s.begin(e, tokens, how)", sim + "rates_and_everything/keep", ""},
	{"the-rate-of-the-rule-is-not-used-up", "levelsOf(e)[:1]", sim + "rates_and_everything/keep", ""},
	{"slots-in-hand-begin-sessions-of-a-throttled-counter", "to := min(e.Need, max(floor, granted+free), max(granted, e.Live+tokens))", sim + "rates_and_everything/keep", ""},
	{"any-number-of-keys-open-windows", "false", sim + "bounded_keys/keep", ""},
	{"a-key-with-a-window-uses-up-a-place-for-keys", "e.Opens()", sim + "bounded_keys/keep", ""},
	{"a-window-that-every-use-prolongs", "o.used, o.end = o.used+n, now+per", sim + "rates_and_everything/keep", ""},
	{"what-is-freed-is-not-held", "", sim + "moves/keep", ""},

	{"hand-over-in-a-pool", "", pools + "calm/keep", ""},
	{"an-entry-for-waiters-with-different-numbers", "other := func(*Waiter) bool { return false }", pools + "messages/keep", ""},
	{"a-pool-keeps-the-numbers-that-it-began-with", "case false:", pools + "calm/keep", ""},
	{"refused-by-the-number-of-another", `err := reason(n, c.bounds, c.rule != "")`, pools + "messages/keep", ""},
	{"a-session-that-stays-in-its-pool-asks-again", "false", pools + "calm/keep", ""},
	{"a-session-stays-in-its-pool-after-the-lease", "return !s.ended", driver + "TestPoolMoveAfterTheLeaseKeep", cutOffExcused},
	{"claims-of-a-pool-state-a-maximum", "e.RuleMax = s.bounds.ruleMax + 0*limit.None", pools + "restarts/strict", ""},
	{"a-batch-with-two-rates-of-a-pool", "waiting < 0 && !pools.agree(c)", pools + "messages/keep", ""},
	{"hand-over-of-a-limit-that-only-reports", "", reports + "calm/keep", ""},
	{"sessions-over-the-limit-are-stated-with-others", "return !c.overLimit", reports + "messages/strict", ""},
	{"a-session-over-the-limit-stays-when-it-is-enforced", "", reports + "calm/keep", ""},
	{"a-reported-session-begins-before-it-is-counted", "m.effects = append(m.effects, Effect{Owner: s.owner, Slot: s})", reports + "messages/keep", ""},
	{"claims-of-a-limit-that-only-reports-state-a-maximum", "case c.pool:", reports + "restarts/strict", ""},
	{"a-limit-that-only-reports-ends-sessions", "m.settings.Strict", reports + "partitions/strict", ""},
	{"a-limit-that-only-reports-needs-the-store", "", driver + "TestReportWithoutStore", ownDriver},
	{"a-reported-session-outlives-its-replica", "", driver + "TestCloseEndsAReportedSessionThatWaits", ownDriver},
	{"a-limit-that-only-reports-refuses", "false", reports + "calm/keep", ""},
	{"a-window-lasts-as-long-as-the-rate-that-opened-it", "", pools + "calm/keep", ""},
}

var withMutations = flag.Bool("mutations", false, "take the protocol's mechanisms out one by one, and see that a test fails")

// TestMutationsAreMarked: every mutation has its marker in the source and can be
// applied there, and every marker has its mutation. Otherwise one of them is stale.
func TestMutationsAreMarked(t *testing.T) {
	marked := markers(t, moduleRoot(t))
	for _, m := range mutations {
		at, ok := marked[m.name]
		delete(marked, m.name)
		if !ok {
			t.Errorf("%s is stale: no source has //mutate:%s", m.name, m.name)
		} else if _, err := at.mutate(m.with); err != nil {
			t.Errorf("%s is stale: %s:%d: %v", m.name, at.path, at.line, err)
		}
	}
	for name, at := range marked {
		t.Errorf("%s:%d: //mutate:%s is stale: no mutation has this name", at.path, at.line, name)
	}
}

// TestMutations builds the tests of a package once a mutation, with the source
// changed in an overlay, and runs the test that must notice it. A mutation that
// cannot be applied, built or tested is stale; one that no test notices survives.
func TestMutations(t *testing.T) {
	if !*withMutations {
		t.Log("not asked for: -mutations runs them, in some minutes")
		return
	}
	var killed, survived, stale atomic.Int64
	t.Cleanup(func() { t.Logf("%d killed, %d survived, %d stale", killed.Load(), survived.Load(), stale.Load()) })
	root := moduleRoot(t)
	marked := markers(t, root)
	for _, m := range mutations {
		t.Run(m.name, func(t *testing.T) {
			t.Parallel()
			switch survives, err := m.run(t, root, marked); {
			case err != nil:
				stale.Add(1)
				t.Errorf("stale: %v", err)
			case survives:
				survived.Add(1)
				t.Errorf("survived: %s did not notice it", m.by)
			default:
				killed.Add(1)
			}
		})
	}
}

func (m mutation) run(t *testing.T, root string, marked map[string]marker) (survives bool, err error) {
	at, ok := marked[m.name]
	if !ok {
		return false, errors.New("no source has its marker")
	}
	if simulated := strings.HasPrefix(m.by, sim) || strings.HasPrefix(m.by, pools) || strings.HasPrefix(m.by, reports) || m.by == table+"TestFairness"; simulated != (m.why == "") {
		return false, errors.New("a test beside the simulation needs a reason, and the simulation needs none")
	}
	u, err := newMutant(root, t.TempDir(), at, m.with)
	if err != nil {
		return false, err
	}
	folder, test, _ := strings.Cut(m.by, " ")
	return u.survives(t, folder, test)
}

func moduleRoot(t *testing.T) string {
	t.Helper()
	root, err := filepath.Abs("..")
	if err != nil {
		t.Fatal(err)
	}
	return root
}
