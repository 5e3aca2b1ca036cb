// Package storetest holds every store to the contract of package store, one
// subtest a clause. Both stores run it, and neither has clauses of its own.
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
		{"a first join bears recovering data", firstJoin},
		{"a recovering store admits nothing new", recoveringAdmitsNothing},
		{"a recovering store takes claims", recoveringTakesClaims},
		{"data matures when ripe and nobody is claiming", maturing},
		{"growth stops at the maximum, whoever asks", growthStops},
		{"a maximum of 0 admits nobody", maximumZero},
		{"a byte-identical resend changes nothing", resend},
		{"a late copy is refused", lateCopy},
		{"an old stream is refused after a join", oldStream},
		{"a join that was overtaken is stale", staleJoin},
		{"a join with a known token keeps the counts", keptJoin},
		{"a join that was never answered is not counted twice", unansweredJoin},
		{"living replicas refuse other settings", mismatch},
		{"a mustNotCreate join bears no data", mustNotCreate},
		{"a sole replica may change the settings", changeSettings},
		{"what shrinks goes before what grows", shrinkFirst},
		{"a rule is the sum of its keys, both limits or neither", keyed},
		{"above the maximum a replica shrinks to its live sessions", overDrains},
		{"strict cuts claims above the maximum, keep does not", claimsAbove},
		{"what is freed goes to who was refused", fairness},
		{"so is what is freed of several keys at once, of their rule", fairnessOfRule},
		{"two names are remembered", twoNames},
		{"a expire names exactly one token", reapToken},
		{"a expire gives everything back, 500 counters a call", reapMany},
		{"a expiring replica's batches are refused and it finishes its own expire", expiring},
		{"a tombstone refuses a late join until it is dropped", tombstone},
		{"a replica that leaves keeps the epoch", leave},
		{"a space has a number while a replica is on it", numbers},
		{"requests about another epoch are refused", otherBirth},
		{"data matures for who has come as far as it says", matureToken},
		{"a rate is one over all replicas", rateOfAll},
		{"a refusal uses up nothing of a rate", rateRefusals},
		{"rates of a key and of its rule, both or neither", rateBoth},
		{"a duplicate admits what it did first, and uses up nothing more", rateDuplicate},
		{"with a rate, what ended is given back, and begins nothing", rateNothingInHand},
		{"a rate alone counts no sessions, and is there while data is recovering", rateAlone},
		{"claims begin nothing", rateClaims},
		{"a window ends", rateWindowEnds},
	}
	for _, c := range clauses {
		t.Run(c.name, func(t *testing.T) { c.test(newFixture(t, open(t))) })
	}
}

// RunHistory runs the clause that data of another history is not built on.
// turn begins another one in the store, whose data stays as it is.
func RunHistory(t *testing.T, s store.Store, turn func()) {
	t.Helper()
	otherHistory(newFixture(t, s), turn)
}

// RunLosses runs the clauses about data of which parts are lost, as a server
// may evict them. open returns an empty store, and what drops one of its keys:
// m, t, or r of a replica (r:<replica>).
func RunLosses(t *testing.T, open func(t *testing.T) (s store.Store, drop func(key string))) {
	t.Helper()
	for name, test := range map[string]func(*fixture, func(string)){
		"a copy of the join that bore the data, of which a part is lost, is stale": copyOfTheFirstJoin,
		"who has counts in the data and is not on its membership bears it anew":    countsWithoutAMember,
		"a copy of a mature does not end the youth of data that is born again":     copyOfAMature,
	} {
		t.Run(name, func(t *testing.T) {
			s, drop := open(t)
			test(newFixture(t, s), drop)
		})
	}
}

func newFixture(t *testing.T, s store.Store) *fixture {
	t.Helper()
	conn, err := s.Dial(t.Context(), 0)
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

// fixture drives one shard in the place of several replicas.
type fixture struct {
	*testing.T
	ctx  context.Context
	conn store.Conn
	all  []*replica
	seen map[string]bool // counters that entries named
}

// replica is what a replica remembers of its stream.
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

// mature returns two replicas on mature, empty data.
func (f *fixture) mature() (*replica, *replica) {
	a, b := f.replica(), f.replica()
	a.mustJoin()
	b.mustJoin()
	f.ripen(a)
	return a, b
}

func (f *fixture) ripen(h *replica) {
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

// checkSums holds the totals to the sum over the replicas: invariant T.
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

// entry speaks of a counter without keys.
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
