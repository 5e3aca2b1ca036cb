package redisstore_test

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"pgregory.net/rapid"

	"usher/store"
	"usher/store/limit"
	"usher/store/redisstore"
	"usher/store/redisstore/redistest"
	"usher/store/storetest"
)

// TestScriptsEqualModel does the same random operations on the scripts and on
// the model, and compares every reply, and all data after every step.
func TestScriptsEqualModel(t *testing.T) {
	server := redistest.Start(t)
	raw := redis.NewClient(&redis.Options{Addr: server.Addr})
	t.Cleanup(func() { raw.Close() })
	var runs int
	rapid.Check(t, func(t *rapid.T) {
		runs++
		p := newPair(t, raw, server.Turn, server.URL(), fmt.Sprint("model", runs))
		t.Repeat(map[string]func(*rapid.T){
			"join":    p.join,
			"batch":   p.batch,
			"batch ":  p.batch, // half of all steps
			"batch. ": p.batch,
			"batch..": p.batch,
			"again":   p.again,
			"expire":  p.expire,
			"recover": p.endRecovery,
			"lose":    p.lose,
			"window":  p.endWindow,
			"turn":    p.turn,
			"":        p.compare,
		})
	})
}

// pair is the two stores, and the state of the replicas in them.
type pair struct {
	ctx      context.Context
	raw      *redis.Client
	begin    func() // another history in Redis
	prefix   string
	model    *storetest.Model
	conns    []store.Conn // the model's, then Redis'
	replicas []*pairReplica
	epochs   int
	ends     map[string]time.Duration        // when each window that runs in Redis will end
	sent     []func(store.Conn) (any, error) // requests that may come again, late
}

type pairReplica struct {
	id     string
	stream uint64
	last   store.Token
}

func newPair(t *rapid.T, raw *redis.Client, begin func(), url, cluster string) *pair {
	p := &pair{ctx: context.Background(), raw: raw, begin: begin, prefix: "usher:{" + cluster + ":0}:", ends: map[string]time.Duration{}}
	p.model = storetest.NewModel(func() time.Duration { return 0 }) // windows end by expire alone
	s, err := redisstore.Open(url, cluster, redisstore.Secrets{})
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range []store.Store{p.model, s} {
		c, err := s.Dial(p.ctx, 0)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		p.conns = append(p.conns, c)
	}
	for i := range 3 {
		p.replicas = append(p.replicas, &pairReplica{id: fmt.Sprint("h", i)})
	}
	// Begin where replicas mostly are: joined, on a ready store.
	for _, h := range p.replicas {
		h.stream++
		j := store.Join{Replica: h.id, Candidate: "b0", Stream: h.stream, Settings: pairSettings(false), Space: "c1a"}
		p.both(t, "join", func(c store.Conn) (any, error) { return c.Join(p.ctx, j) })
		h.last = store.Token{Epoch: "b0", Stream: h.stream}
	}
	p.both(t, "end recovery", func(c store.Conn) (any, error) {
		return c.EndRecovery(p.ctx, store.EndRecovery{Replica: "h0", Token: p.replicas[0].last, Ready: true})
	})
	return p
}

// both makes one request to both stores and requires the same answer.
func (p *pair) both(t *rapid.T, what string, do func(store.Conn) (any, error)) any {
	var replies []string
	var first any
	for i, c := range p.conns {
		reply, err := do(c)
		if i == 0 {
			first = reply
			if err != nil {
				first = nil
			}
		}
		if err != nil {
			reply = nil
		}
		replies = append(replies, fmt.Sprintf("%+v, error %v", reply, err))
	}
	t.Logf("%s -> %s", what, replies[0])
	if replies[0] != replies[1] {
		t.Fatalf("%s:\nmodel  %s\nscript %s", what, replies[0], replies[1])
	}
	return first
}

func (p *pair) replica(t *rapid.T) *pairReplica {
	return rapid.SampledFrom(p.replicas).Draw(t, "replica")
}

func pairSettings(strict bool) store.Settings {
	return store.Settings{Protocol: 1, TTL: time.Second, Strict: strict, Shards: 1}
}

// pairRate is a rate of n in a window that does not end by itself while a test runs.
func pairRate(n int64) limit.Rate { return limit.Rate{N: n, Per: time.Hour} }

// pairPools are the numbers of pools in three generations.
var pairPools = [][]store.Entry{
	{
		{Counter: "pool/p", Max: 3, RuleMax: limit.None},
		{Counter: "pool/q/x", Max: 2, RuleMax: 3, Rate: pairRate(2), RuleRate: pairRate(4)},
		{Counter: "pool/q/y", Max: 2, RuleMax: 3, Rate: pairRate(2), RuleRate: pairRate(4)},
	}, {
		{Counter: "pool/p", Max: 1, RuleMax: limit.None, Rate: pairRate(3)},
		{Counter: "pool/q/x", Max: 3, RuleMax: 5, Rate: pairRate(1), RuleRate: pairRate(3), MaxKeys: 2},
		{Counter: "pool/q/y", Max: 3, RuleMax: 5, Rate: pairRate(1), RuleRate: pairRate(3), MaxKeys: 2},
	}, {
		{Counter: "pool/p/x", Max: 1, RuleMax: 2, RuleRate: pairRate(2)},
		{Counter: "pool/q", Max: 4, RuleMax: limit.None, Rate: pairRate(5)},
		{Counter: "pool/p/y", Max: limit.None, RuleMax: 4, RuleRate: pairRate(2)},
	},
}

// entries draws entries. Those of a join have no rates. A replica asks with the numbers
// of one generation, and may have sessions of another.
func (p *pair) entries(t *rapid.T, rates bool) []store.Entry {
	generation := rapid.IntRange(0, len(pairPools)-1).Draw(t, "generation")
	out := p.draw(t, rates, slices.Concat(pairRules, pairPools[generation]))
	if rapid.IntRange(0, 3).Draw(t, "another generation") > 0 {
		return out
	}
	for _, e := range p.draw(t, false, pairPools[(generation+1)%len(pairPools)]) {
		if !slices.ContainsFunc(out, func(o store.Entry) bool { return o.Counter == e.Counter }) {
			e.Max, e.RuleMax, e.MaxKeys, e.Need = limit.None, limit.None, 0, e.Live
			out = append(out, e)
		}
	}
	return out
}

var pairRules = []store.Entry{
	{Counter: "c1a/s1", Max: 3, RuleMax: limit.None},
	{Counter: "c1a/s2/x", Max: 2, RuleMax: 3},
	{Counter: "c1a/s2/y/z", Max: limit.None, RuleMax: 3},
	{Counter: "c1a/s3/x", Max: 1, RuleMax: limit.None},
	{Counter: "c1a/s4", Max: 0, RuleMax: limit.None},
	{Counter: "c1a/s5", Max: limit.None, RuleMax: limit.None},
	{Counter: "c1a/s6", Max: 3, RuleMax: limit.None, Rate: pairRate(4)},
	{Counter: "c1a/s7/x", Max: 2, RuleMax: 3, Rate: pairRate(2), RuleRate: pairRate(3)},
	{Counter: "c1a/s7/y", Max: limit.None, RuleMax: 3, RuleRate: pairRate(3)},
	{Counter: "c1a/s8/x", Max: limit.None, RuleMax: limit.None, Rate: pairRate(2), RuleRate: pairRate(3)},
	{Counter: "c1a/s8/y", Max: limit.None, RuleMax: limit.None, Rate: pairRate(2), RuleRate: pairRate(3)},
	{Counter: "c1a/s9/x", Max: limit.None, RuleMax: limit.None, Rate: pairRate(2), RuleRate: pairRate(5), MaxKeys: 2},
	{Counter: "c1a/s9/y", Max: 2, RuleMax: 3, Rate: pairRate(2), MaxKeys: 2},
	{Counter: "c1a/s9/z", Max: 1, RuleMax: 3, Rate: pairRate(2), RuleRate: pairRate(5), MaxKeys: 2},
}

// draw draws up to three of the counters, with sessions and waiters.
func (p *pair) draw(t *rapid.T, rates bool, counters []store.Entry) (out []store.Entry) {
	for _, i := range rapid.SliceOfNDistinct(rapid.IntRange(0, len(counters)-1), 0, 3, rapid.ID[int]).Draw(t, "counters") {
		e := counters[i]
		e.Live = rapid.Int64Range(0, 4).Draw(t, "live")
		if !e.Counted() {
			e.Live = 0
		}
		e.Need = e.Live + rapid.Int64Range(0, 3).Draw(t, "waiting")
		if !rates || rapid.IntRange(0, 3).Draw(t, "no rates") == 0 {
			if !e.Counted() {
				e.Need = 0
			}
			e.Rate, e.RuleRate = limit.Rate{}, limit.Rate{}
		}
		out = append(out, e)
	}
	return out
}

var pairSpaces = rapid.SampledFrom([]string{"c1a", "c1b", ""})

func (p *pair) join(t *rapid.T) {
	h := p.replica(t)
	if h.stream == 0 || rapid.IntRange(0, 9).Draw(t, "older stream") > 0 {
		h.stream++
	}
	p.epochs++
	j := store.Join{
		Replica: h.id, Candidate: fmt.Sprint("b", p.epochs), Stream: h.stream,
		Settings: pairSettings(rapid.IntRange(0, 9).Draw(t, "settings") == 0), Last: h.last,
		Space: pairSpaces.Draw(t, "space"), Number: rapid.Uint64Range(0, 3).Draw(t, "number"),
		More: rapid.Bool().Draw(t, "more"), Entries: p.entries(t, false),
		MustNotCreate: rapid.IntRange(0, 9).Draw(t, "mustNotCreate") == 0,
	}
	if rapid.IntRange(0, 9).Draw(t, "went back") == 0 {
		j.Last.Seq++ // as if the data were older than what was acknowledged
	}
	do := func(c store.Conn) (any, error) { return c.Join(p.ctx, j) }
	p.sent = append(p.sent, do)
	reply, _ := p.both(t, fmt.Sprintf("join %+v", j), do).(store.JoinReply)
	if reply.Status == store.Joined && reply.Epoch != "" && rapid.IntRange(0, 4).Draw(t, "lost") > 0 {
		h.last = store.Token{Epoch: reply.Epoch, Stream: h.stream}
	}
}

func (p *pair) batch(t *rapid.T) {
	h := p.replica(t)
	b := store.Batch{
		Replica: h.id, Prev: h.last, New: h.last.Next(), Strict: rapid.Bool().Draw(t, "strict"),
		More: rapid.IntRange(0, 4).Draw(t, "more") == 0, Space: pairSpaces.Draw(t, "space"), Entries: p.entries(t, true),
	}
	do := func(c store.Conn) (any, error) { return c.Batch(p.ctx, b) }
	p.sent = append(p.sent, do)
	if p.both(t, fmt.Sprintf("batch %+v", b), do) != nil {
		h.last = b.New
	}
}

// again sends an earlier request once more, unchanged.
func (p *pair) again(t *rapid.T) {
	if len(p.sent) == 0 {
		t.Skip("nothing was sent yet")
	}
	n := len(p.sent)
	i := rapid.IntRange(max(0, n-6), n-1).Draw(t, "which")
	p.both(t, fmt.Sprint("again ", i), p.sent[i])
}

func (p *pair) expire(t *rapid.T) {
	h := p.replica(t)
	r := store.Expire{Target: h.id, Epoch: h.last.Epoch, Token: h.last, Max: rapid.IntRange(1, 3).Draw(t, "most")}
	p.both(t, fmt.Sprintf("expire %+v", r), func(c store.Conn) (any, error) { return c.Expire(p.ctx, r) })
}

func (p *pair) endRecovery(t *rapid.T) {
	sender := p.replica(t)
	m := store.EndRecovery{Replica: sender.id, Token: sender.last, Ready: rapid.Bool().Draw(t, "ready")}
	if rapid.Bool().Draw(t, "gone") {
		m.Gone = []string{p.replica(t).id}
	}
	p.both(t, fmt.Sprintf("end recovery %+v", m), func(c store.Conn) (any, error) { return c.EndRecovery(p.ctx, m) })
	p.both(t, "observe", func(c store.Conn) (any, error) { return c.Observe(p.ctx, []string{"c1a/s1", "c1a/s2"}) })
}

// lose rarely drops one key.
func (p *pair) lose(t *rapid.T) {
	if rapid.IntRange(0, 5).Draw(t, "seldom") > 0 {
		return
	}
	p.drop(t, rapid.SampledFrom([]string{"m", "t", "r:h0", "r:h1"}).Draw(t, "key"))
}

// turn rarely begins another history of the same data.
func (p *pair) turn(t *rapid.T) {
	if rapid.IntRange(0, 5).Draw(t, "seldom") > 0 {
		return
	}
	t.Log("turn")
	p.model.Restart(p.model.Snapshot())
	p.begin()
}

// endWindow ends a window.
func (p *pair) endWindow(t *rapid.T) {
	if len(p.ends) == 0 {
		t.Skip("no window runs")
	}
	p.drop(t, rapid.SampledFrom(slices.Sorted(maps.Keys(p.ends))).Draw(t, "window"))
}

func (p *pair) drop(t *rapid.T, key string) {
	t.Logf("drop %s", key)
	delete(p.ends, key)
	p.model.Drop(key)
	if err := p.raw.Del(p.ctx, p.prefix+key).Err(); err != nil {
		t.Fatal(err)
	}
}

func (p *pair) compare(t *rapid.T) {
	keys, err := p.raw.Keys(p.ctx, strings.NewReplacer("{", "\\{", "}", "\\}").Replace(p.prefix)+"*").Result()
	if err != nil {
		t.Fatal(err)
	}
	redisHas := map[string]map[string]string{}
	for _, k := range keys {
		name := strings.TrimPrefix(k, p.prefix)
		if strings.HasPrefix(name, "w:") || strings.HasPrefix(name, "k:") {
			redisHas[name] = map[string]string{"": p.window(t, name)}
		} else if redisHas[name], err = p.raw.HGetAll(p.ctx, k).Result(); err != nil {
			t.Fatal(err)
		}
	}
	delete(redisHas["m"], "history") // it is Redis' own; that it is the right one shows in the replies
	// Maps print in the order of their keys.
	if model, script := fmt.Sprint(p.model.Dump()), fmt.Sprint(redisHas); model != script {
		t.Fatalf("the data differs:\nmodel  %s\nscript %s", model, script)
	}
}

// window returns how much of a window is used. Its end is as far off as the
// window is long, and stays where it is.
func (p *pair) window(t *rapid.T, name string) string {
	key := p.prefix + name
	used, err := p.raw.Get(p.ctx, key).Result()
	if err != nil {
		t.Fatal(err)
	}
	end, err := p.raw.PExpireTime(p.ctx, key).Result()
	if err != nil {
		t.Fatal(err)
	}
	if before, ok := p.ends[name]; ok && end != before {
		t.Fatalf("the end of window %s moved from %v to %v", name, before, end)
	}
	if left := p.raw.PTTL(p.ctx, key).Val(); left <= time.Hour/2 || left > time.Hour {
		t.Fatalf("window %s ends in %v, want an hour at most", name, left)
	}
	p.ends[name] = end
	return used
}
