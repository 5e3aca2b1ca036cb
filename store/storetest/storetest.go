// Package storetest tests a store against the contract of package store, with a subtest
// for each clause. Both stores must pass all of them. Model is a store for tests of
// code that uses a store.
package storetest

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"testing"
	"time"

	"usher/store"
	"usher/store/limit"
)

// Run runs the suite. open returns an empty store, closed by the suite.
func Run(t *testing.T, open func(t *testing.T) store.Store) {
	clauses := []struct {
		name string
		test func(*fixture)
	}{
		{"a first join creates an epoch, which is recovering", firstJoin},
		{"a recovering store admits nothing new", recoveringAdmitsNothing},
		{"a recovering store takes claims", recoveringTakesClaims},
		{"a recovery ends when it may and no replica is claiming", endingRecovery},
		{"growth stops at the maximum, whichever replica asks", growthStops},
		{"a maximum of 0 admits nobody", maximumZero},
		{"a byte-identical resend changes nothing", resend},
		{"a late copy is refused", lateCopy},
		{"an old stream is refused after a join", oldStream},
		{"a join after a newer one is stale", staleJoin},
		{"a join with a known token keeps the counts", keptJoin},
		{"a join that was never answered is not counted twice", unansweredJoin},
		{"live replicas keep replicas with other settings out", mismatch},
		{"a join that must not create an epoch creates none", mustNotCreate},
		{"a sole replica may change the settings", changeSettings},
		{"everything that shrinks goes before everything that grows", shrinkFirst},
		{"a rule is the sum of its keys, both limits or neither", keyed},
		{"above the maximum a replica shrinks to its live sessions", overDrains},
		{"strict cuts claims above the maximum, keep does not", claimsAbove},
		{"a freed slot goes to the replica that was refused", fairness},
		{"slots of several keys that are freed at once go to the replica that their rule refused", fairnessOfRule},
		{"the names of two refused replicas are remembered", twoNames},
		{"an expire names exactly one token", expireToken},
		{"an expire gives everything back, 500 counters a call", expireMany},
		{"an expiring replica is refused, and gives back the rest itself", expiring},
		{"a tombstone refuses a late join until it is dropped", tombstone},
		{"a replica that leaves keeps the epoch", leave},
		{"a space has a number while a replica is on it", numbers},
		{"requests about another epoch are refused", otherEpoch},
		{"a recovery ends for a sender whose token the store has seen", endRecoveryToken},
		{"a rate is one over all replicas", rateOfAll},
		{"a refusal uses up nothing of a rate", rateRefusals},
		{"rates of a key and of its rule, both or neither", rateBoth},
		{"a duplicate admits what it did first, and uses up nothing more", rateDuplicate},
		{"with a rate, a slot that is given back begins no session", rateNothingInHand},
		{"a rate alone counts no sessions, and admits during a recovery", rateAlone},
		{"claims begin no session", rateClaims},
		{"a window ends", rateWindowEnds},
		{"as many keys of a rule have windows as may, and these go on", rateKeys},
		{"a key that begins no session takes no place for keys", rateKeysRefusals},
		{"a duplicate opens no window", rateKeysDuplicate},
		{"the places for keys are free again after a window", rateKeysEnd},
		{"each session of a pool is admitted by the number that it asks with", poolNumbers},
		{"a slot in hand admits nobody above a lower number", poolSurplus},
		{"a lower number ends no session of a pool, and admits none until there are fewer", poolLowered},
		{"a pool is the sum of its keys and of what is counted without one", poolKeys},
		{"a pool is the same in every space", poolSpace},
		{"a window of a pool goes on under another rate", poolWindow},
		{"a used-up window lasts no longer than the rate that finds it so", poolWindowEnds},
	}
	for _, c := range clauses {
		t.Run(c.name, func(t *testing.T) { c.test(newFixture(t, open(t))) })
	}
}

// RunHistory tests that requests do not build on data of another history. turn begins
// another history in the store, and keeps the data.
func RunHistory(t *testing.T, s store.Store, turn func()) {
	t.Helper()
	otherHistory(newFixture(t, s), turn)
}

// RunLosses tests the clauses about data that is lost in part, because a server may
// evict single keys. open returns an empty store and a function that drops one of its
// keys: m, t, or r of a replica (r:<replica>).
func RunLosses(t *testing.T, open func(t *testing.T) (s store.Store, drop func(key string))) {
	t.Helper()
	for name, test := range map[string]func(*fixture, func(string)){
		"a copy of the join that created the epoch, of which a part is lost, is stale":         copyOfTheFirstJoin,
		"a replica that has counts and is no member creates a new epoch":                       countsWithoutAMember,
		"a copy of an EndRecovery does not end the recovery of an epoch that is created again": copyOfAnEndRecovery,
	} {
		t.Run(name, func(t *testing.T) {
			s, drop := open(t)
			test(newFixture(t, s), drop)
		})
	}
}

func newFixture(t *testing.T, s store.Store) *fixture {
	t.Helper()
	// Without a deadline, some stores wait for each of their servers for one second only.
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	conn, err := s.Dial(ctx, 0)
	if err != nil {
		t.Fatalf("Dial: %v", err)
	}
	t.Cleanup(func() {
		if err := errors.Join(conn.Close(), s.Close()); err != nil {
			t.Errorf("closing: %v", err)
		}
	})
	return &fixture{T: t, conn: conn, ctx: t.Context(), seen: map[string]bool{}}
}

// fixture plays several replicas at one shard.
type fixture struct {
	*testing.T
	ctx  context.Context
	conn store.Conn
	all  []*replica
	seen map[string]bool // counters that entries named
}

// replica is the state of a replica's stream.
type replica struct {
	f             *fixture
	id            string
	stream        uint64
	last          store.Token
	settings      store.Settings
	space         string
	mustNotCreate bool
	own           map[string]int64
}

var keep = store.Settings{Protocol: 1, TTL: 10 * time.Second, Shards: 1}

func randomID() string {
	var b [16]byte
	rand.Read(b[:])
	return hex.EncodeToString(b[:])
}

func (f *fixture) replica() *replica {
	h := &replica{f: f, id: randomID(), settings: keep, space: "c1aaaa", own: map[string]int64{}}
	f.all = append(f.all, h)
	return h
}

// ready returns two replicas on a ready, empty store.
func (f *fixture) ready() (*replica, *replica) {
	a, b := f.replica(), f.replica()
	a.mustJoin()
	b.mustJoin()
	f.endRecovery(a)
	return a, b
}

func (f *fixture) endRecovery(h *replica) {
	f.Helper()
	recovering, err := f.conn.EndRecovery(f.ctx, store.EndRecovery{Replica: h.id, Token: h.last, Ready: true})
	if err != nil || recovering {
		f.Fatalf("EndRecovery: recovering %v, %v", recovering, err)
	}
}

func (h *replica) joinRequest(entries ...store.Entry) store.Join {
	h.stream++
	return store.Join{
		Replica: h.id, Candidate: randomID(), Stream: h.stream, Settings: h.settings,
		Last: h.last, Space: h.space, MustNotCreate: h.mustNotCreate, Entries: entries,
	}
}

func (h *replica) join(entries ...store.Entry) (store.JoinReply, error) {
	reply, err := h.f.conn.Join(h.f.ctx, h.joinRequest(entries...))
	if err == nil && reply.Status == store.Joined {
		h.last = store.Token{Epoch: reply.Epoch, Stream: h.stream}
		h.learn(entries, reply.Counts)
	}
	h.f.checkSums()
	return reply, err
}

func (h *replica) mustJoin(entries ...store.Entry) store.JoinReply {
	h.f.Helper()
	reply, err := h.join(entries...)
	if err != nil || reply.Status != store.Joined {
		h.f.Fatalf("Join: %+v, %v", reply, err)
	}
	return reply
}

func (h *replica) batchRequest(entries ...store.Entry) store.Batch {
	return store.Batch{Replica: h.id, Prev: h.last, New: h.last.Next(), Strict: h.settings.Strict, Entries: entries}
}

func (h *replica) send(b store.Batch) store.BatchReply {
	h.f.Helper()
	reply, err := h.f.conn.Batch(h.f.ctx, b)
	if err != nil {
		h.f.Fatalf("Batch: %v", err)
	}
	h.last = b.New
	h.learn(b.Entries, reply.Counts)
	h.f.checkSums()
	return reply
}

func (h *replica) batch(entries ...store.Entry) store.BatchReply {
	h.f.Helper()
	return h.send(h.batchRequest(entries...))
}

func (h *replica) learn(entries []store.Entry, counts []store.Count) {
	for i, e := range entries {
		h.own[e.Counter] = counts[i].Granted
		h.f.seen[e.Counter] = true
	}
}

func (h *replica) expire(target *replica) (store.ExpireReply, error) {
	reply, err := h.f.conn.Expire(h.f.ctx, store.Expire{Target: target.id, Epoch: target.last.Epoch, Token: target.last, Max: store.MaxExpire})
	if err == nil && reply == store.Gone {
		clear(target.own)
		h.f.checkSums()
	}
	return reply, err
}

func (f *fixture) observe(counters ...string) store.Membership {
	f.Helper()
	r, err := f.conn.Observe(f.ctx, counters)
	if err != nil {
		f.Fatalf("Observe: %v", err)
	}
	return r
}

// checkSums compares the totals with the sums over the replicas: invariant T.
func (f *fixture) checkSums() {
	f.Helper()
	want := map[string]int64{}
	var names []string
	for c := range f.seen {
		for _, name := range []string{c, store.RuleOf(c)} {
			if _, ok := want[name]; !ok && name != "" {
				want[name] = 0
				names = append(names, name)
			}
		}
	}
	for _, h := range f.all {
		for c, n := range h.own {
			want[c] += n
			if rule := store.RuleOf(c); rule != "" {
				want[rule] += n
			}
		}
	}
	totals := f.observe(names...).Totals
	for name, n := range want {
		if totals[name] != n {
			f.Errorf("total of %s is %d, the replicas have %d", name, totals[name], n)
		}
	}
}

// entry states a counter without keys.
func entry(most, live, need int64) store.Entry {
	return store.Entry{Counter: "c1aaaa/s1", Max: most, RuleMax: limit.None, Live: live, Need: need}
}

func keyedEntry(key string, most, ruleMax, need int64) store.Entry {
	return store.Entry{Counter: "c1aaaa/s1/" + key, Max: most, RuleMax: ruleMax, Need: need}
}

func (f *fixture) want(what string, got, want any) {
	f.Helper()
	if fmt.Sprint(got) != fmt.Sprint(want) {
		f.Errorf("%s: got %v, want %v", what, got, want)
	}
}

func (f *fixture) wantErr(what string, got, want error) {
	f.Helper()
	if !errors.Is(got, want) {
		f.Errorf("%s: got error %v, want %v", what, got, want)
	}
}
