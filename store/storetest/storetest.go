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
)

// Run runs the suite. open returns an empty store, closed by the suite.
func Run(t *testing.T, open func(t *testing.T) store.Store) {
	clauses := []struct {
		name string
		test func(*fixture)
	}{
		{"a first join bears young data", firstJoin},
		{"young data gives out nothing new", youngGivesNothing},
		{"young data takes claims", youngTakesClaims},
		{"data matures when ripe and nobody is claiming", maturing},
		{"growth stops at the maximum, whoever asks", growthStops},
		{"a maximum of 0 admits nobody", maximumZero},
		{"a byte-identical resend changes nothing", resend},
		{"a late copy is refused", lateCopy},
		{"an old stream is refused after a join", oldStream},
		{"a join that was overtaken is stale", staleJoin},
		{"a join with a known token keeps the counts", keptJoin},
		{"a join that was never answered is not counted twice", unansweredJoin},
		{"living holders refuse other settings", mismatch},
		{"a reluctant join bears no data", reluctant},
		{"a sole holder may change the settings", changeSettings},
		{"what shrinks goes before what grows", shrinkFirst},
		{"a rule is the sum of its keys, both limits or neither", keyed},
		{"above the maximum a holder shrinks to its live sessions", overDrains},
		{"strict cuts claims above the maximum, keep does not", claimsAbove},
		{"what is freed goes to who was refused", fairness},
		{"so is what is freed of several keys at once, of their rule", fairnessOfRule},
		{"two names are remembered", twoNames},
		{"a reap names exactly one token", reapToken},
		{"a reap gives everything back, 500 counters a call", reapMany},
		{"a dying holder's batches are refused and it finishes its own reap", dying},
		{"a tombstone refuses a late join until it is dropped", tombstone},
		{"a holder that leaves keeps the birth", leave},
		{"a space has a number while a holder is on it", numbers},
		{"requests about another birth are refused", otherBirth},
		{"data matures for who has come as far as it says", matureToken},
		{"a rate is one over all holders", rateOfAll},
		{"a refusal uses up nothing of a rate", rateRefusals},
		{"rates of a key and of its rule, both or neither", rateBoth},
		{"a duplicate admits what it did first, and uses up nothing more", rateDuplicate},
		{"with a rate, what ended is given back, and begins nothing", rateNothingInHand},
		{"a rate alone counts no sessions, and is there while data is young", rateAlone},
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
// m, t, or r of a holder (r:<holder>).
func RunLosses(t *testing.T, open func(t *testing.T) (s store.Store, drop func(key string))) {
	t.Helper()
	for name, test := range map[string]func(*fixture, func(string)){
		"a copy of the join that bore the data, of which a part is lost, is stale": copyOfTheFirstJoin,
		"who has counts in the data and is not on its roster bears it anew":        countsWithoutAMember,
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

// fixture drives one shard in the place of several holders.
type fixture struct {
	*testing.T
	ctx  context.Context
	conn store.Conn
	all  []*holder
	seen map[string]bool // counters that entries named
}

// holder is what a replica remembers of its stream.
type holder struct {
	f         *fixture
	id        string
	stream    uint64
	last      store.Token
	settings  store.Settings
	space     string
	reluctant bool
	own       map[string]int64
}

var keep = store.Settings{Protocol: 1, TTL: 10 * time.Second, Shards: 1}

func randomID() string {
	var b [16]byte
	rand.Read(b[:])
	return hex.EncodeToString(b[:])
}

func (f *fixture) holder() *holder {
	h := &holder{f: f, id: randomID(), settings: keep, space: "c1aaaa", own: map[string]int64{}}
	f.all = append(f.all, h)
	return h
}

// mature returns two holders on mature, empty data.
func (f *fixture) mature() (*holder, *holder) {
	a, b := f.holder(), f.holder()
	a.mustJoin()
	b.mustJoin()
	f.ripen(a)
	return a, b
}

func (f *fixture) ripen(h *holder) {
	f.Helper()
	young, err := f.conn.Mature(f.ctx, store.Mature{Holder: h.id, Token: h.last, Ripe: true})
	if err != nil || young {
		f.Fatalf("Mature: young %v, %v", young, err)
	}
}

func (h *holder) joinRequest(entries ...store.Entry) store.Join {
	h.stream++
	return store.Join{
		Holder: h.id, Candidate: randomID(), Stream: h.stream, Settings: h.settings,
		Last: h.last, Space: h.space, Reluctant: h.reluctant, Entries: entries,
	}
}

func (h *holder) join(entries ...store.Entry) (store.JoinReply, error) {
	reply, err := h.f.conn.Join(h.f.ctx, h.joinRequest(entries...))
	if err == nil && reply.Status == store.Joined {
		h.last = store.Token{Birth: reply.Birth, Stream: h.stream}
		h.learn(entries, reply.Counts)
	}
	h.f.checkSums()
	return reply, err
}

func (h *holder) mustJoin(entries ...store.Entry) store.JoinReply {
	h.f.Helper()
	reply, err := h.join(entries...)
	if err != nil || reply.Status != store.Joined {
		h.f.Fatalf("Join: %+v, %v", reply, err)
	}
	return reply
}

func (h *holder) batchRequest(entries ...store.Entry) store.Batch {
	return store.Batch{Holder: h.id, Prev: h.last, New: h.last.Next(), Strict: h.settings.Strict, Entries: entries}
}

func (h *holder) send(b store.Batch) store.BatchReply {
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

func (h *holder) batch(entries ...store.Entry) store.BatchReply {
	h.f.Helper()
	return h.send(h.batchRequest(entries...))
}

func (h *holder) learn(entries []store.Entry, counts []store.Count) {
	for i, e := range entries {
		h.own[e.Counter] = counts[i].Own
		h.f.seen[e.Counter] = true
	}
}

func (h *holder) reap(target *holder) (store.ReapReply, error) {
	reply, err := h.f.conn.Reap(h.f.ctx, store.Reap{Target: target.id, Birth: target.last.Birth, Token: target.last, Most: store.MaxReap})
	if err == nil && reply == store.Gone {
		clear(target.own)
		h.f.checkSums()
	}
	return reply, err
}

func (f *fixture) observe(counters ...string) store.Roster {
	f.Helper()
	r, err := f.conn.Observe(f.ctx, counters)
	if err != nil {
		f.Fatalf("Observe: %v", err)
	}
	return r
}

// checkSums holds the totals to the sum over the holders: invariant T.
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
			f.Errorf("total of %s is %d, the holders have %d", name, totals[name], n)
		}
	}
}

// entry speaks of a counter without keys.
func entry(limit, live, need int64) store.Entry {
	return store.Entry{Counter: "c1aaaa/s1", Max: limit, RuleMax: store.NoLimit, Live: live, Need: need}
}

func keyedEntry(key string, limit, ruleMax, need int64) store.Entry {
	return store.Entry{Counter: "c1aaaa/s1/" + key, Max: limit, RuleMax: ruleMax, Need: need}
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
