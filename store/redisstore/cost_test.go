package redisstore_test

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"usher/store"
	"usher/store/limit"
	"usher/store/redisstore"
	"usher/store/redisstore/redistest"
)

// meter is one replica on a shard of its own server, and the cost of its scripts there.
type meter struct {
	testing.TB
	server *redistest.Server
	conn   store.Conn
	last   store.Token
}

func newMeter(t testing.TB) *meter {
	t.Helper()
	server := redistest.Start(t)
	s, err := redisstore.Open(server.URL(), "meter", redisstore.Secrets{})
	if err != nil {
		t.Fatal(err)
	}
	conn, err := s.Dial(t.Context(), 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := conn.Close(); err != nil {
			t.Error(err)
		}
	})
	m := &meter{TB: t, server: server, conn: conn}
	m.join()
	if _, err := conn.EndRecovery(t.Context(), store.EndRecovery{Replica: "meter", Token: m.last, Ready: true}); err != nil {
		t.Fatal(err)
	}
	return m
}

func (m *meter) join(entries ...store.Entry) {
	m.Helper()
	j := store.Join{
		Replica: "meter", Candidate: fmt.Sprint("b", m.last.Stream), Stream: m.last.Stream + 1,
		Settings: pairSettings(false), Last: m.last, Space: "c1a", Entries: entries,
	}
	reply, err := m.conn.Join(m.Context(), j)
	if err != nil {
		m.Fatal(err)
	}
	m.last = store.Token{Epoch: reply.Epoch, Stream: j.Stream}
}

func (m *meter) batch(entries ...store.Entry) []store.Count {
	m.Helper()
	b := store.Batch{Replica: "meter", Prev: m.last, New: m.last.Next(), Entries: entries}
	reply, err := m.conn.Batch(m.Context(), b)
	if err != nil {
		m.Fatal(err)
	}
	m.last = b.New
	return reply.Counts
}

func (m *meter) expire() store.ExpireReply {
	m.Helper()
	reply, err := m.conn.Expire(m.Context(), store.Expire{Target: "meter", Epoch: m.last.Epoch, Token: m.last, Max: store.MaxExpire})
	if err != nil {
		m.Fatal(err)
	}
	return reply
}

// fill gives the replica counters of n keys, with one session each, as batches would
// over a longer time.
func (m *meter) fill(n int) {
	m.Helper()
	const prefix, most = "usher:{meter:0}:", 1000
	redis := m.server.Client()
	for i := 0; i < n; i += most {
		var fields []any
		for j := range most {
			fields = append(fields, fmt.Sprint("c1a/s1/key", i+j), 1)
		}
		for _, key := range []string{"r:meter", "t"} {
			if err := redis.HSet(m.Context(), prefix+key, fields...).Err(); err != nil {
				m.Fatal(err)
			}
		}
	}
	if err := redis.HSet(m.Context(), prefix+"t", "c1a/s1", n).Err(); err != nil {
		m.Fatal(err)
	}
}

// entries are the maximum of one request, from the key with number first on.
func (m *meter) entries(first int, live int64) []store.Entry {
	var list []store.Entry
	for i := range store.MaxEntries {
		list = append(list, store.Entry{Counter: fmt.Sprint("c1a/s1/key", first+i), Max: 9, RuleMax: 1 << 40, Live: live, Need: live})
	}
	return list
}

// leastCost is the lowest of several costs, because other work on the machine only adds
// to them.
func (m *meter) leastCost(times int, do func(i int)) time.Duration {
	least := time.Duration(math.MaxInt64)
	for range 8 {
		least = min(least, m.cost(times, do))
	}
	return least
}

// cost returns how long one call of do takes in the server, by the server's own
// measurement.
func (m *meter) cost(times int, do func(i int)) time.Duration {
	m.Helper()
	m.server.Client().ConfigResetStat(m.Context())
	for i := range times {
		do(i)
	}
	info, err := m.server.Client().Info(m.Context(), "commandstats").Result()
	if err != nil {
		m.Fatal(err)
	}
	_, rest, _ := strings.Cut(info, "cmdstat_evalsha:")
	_, rest, _ = strings.Cut(rest, "usec_per_call=")
	text, _, _ := strings.Cut(rest, ",")
	us, err := strconv.ParseFloat(text, 64)
	if err != nil {
		m.Fatalf("no cost of EVALSHA in %q", info)
	}
	return time.Duration(us * float64(time.Microsecond))
}

// BenchmarkBatch reports the cost of batches in Redis, by their content.
func BenchmarkBatch(b *testing.B) {
	m := newMeter(b)
	entry := func(name string, live int64) store.Entry {
		return store.Entry{Counter: "c1a/" + name, Max: 9, RuleMax: limit.None, Live: live, Need: live}
	}
	several := func(n int, live int64) (list []store.Entry) {
		for i := range n {
			list = append(list, entry(fmt.Sprint("s", i), live))
		}
		return list
	}
	for _, c := range []struct {
		name    string
		entries func(live int64) []store.Entry
	}{
		{"heartbeat", func(int64) []store.Entry { return nil }},
		{"1", func(live int64) []store.Entry { return several(1, live) }},
		{"2", func(live int64) []store.Entry { return several(2, live) }},
		{"16", func(live int64) []store.Entry { return several(16, live) }},
		{"64", func(live int64) []store.Entry { return several(64, live) }},
		{"key", func(live int64) []store.Entry {
			e := entry("s1/from=192.0.2.1", live)
			e.RuleMax = 99
			return []store.Entry{e}
		}},
		{"rate", func(live int64) []store.Entry {
			e := entry("s1", 0)
			e.Need, e.Rate = live, limit.Rate{N: 1 << 40, Per: time.Hour}
			return []store.Entry{e}
		}},
	} {
		b.Run(c.name, func(b *testing.B) {
			cost := m.cost(b.N, func(i int) { m.batch(c.entries(int64(i+1) % 2)...) })
			b.ReportMetric(float64(cost)/float64(time.Microsecond), "redis-us/op")
		})
	}
}

// TestScriptCostIsBounded: the cost of a script depends on its request, not on the
// amount of data in the shard.
func TestScriptCostIsBounded(t *testing.T) {
	// A walk over all of them would take twenty times as long.
	grows := func(small, large time.Duration) bool { return large > 8*small }
	var small, large map[string]time.Duration
	for range 3 { // another process may have interrupted a measurement
		small, large = least(small, scriptCosts(t, 5_000)), least(large, scriptCosts(t, 100_000))
		if !slices.ContainsFunc(slices.Collect(maps.Keys(large)), func(name string) bool { return grows(small[name], large[name]) }) {
			break
		}
	}
	for name, cost := range large {
		t.Logf("%s: %v with 5000 counters in the shard, %v with 100000", name, small[name], cost)
		if grows(small[name], cost) {
			t.Errorf("%s: it grows with the shard", name)
		}
	}
}

// least returns the lower one of each cost.
func least(a, b map[string]time.Duration) map[string]time.Duration {
	lower := maps.Clone(b)
	for name, cost := range a {
		lower[name] = min(cost, lower[name])
	}
	return lower
}

// scriptCosts measures on a shard with this number of counters of one replica.
func scriptCosts(t *testing.T, counters int) map[string]time.Duration {
	t.Helper()
	m := newMeter(t)
	m.fill(counters)
	return map[string]time.Duration{
		"heartbeat":        m.leastCost(20, func(int) { m.batch() }),
		"batch of 64":      m.leastCost(5, func(i int) { m.batch(m.entries(0, int64(1+i%2))...) }),
		"full batch of 64": m.leastCost(5, func(i int) { m.batch(m.entries(0, int64(9+i%2))...) }),
		"join of 64":       m.leastCost(5, func(int) { m.join(m.entries(0, 1)...) }),
		"expire of 500": m.leastCost(1, func(int) {
			if reply := m.expire(); reply != store.More {
				t.Errorf("expire answered %v", reply)
			}
		}),
	}
}
