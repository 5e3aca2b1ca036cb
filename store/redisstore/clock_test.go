package redisstore_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"usher/store"
	"usher/store/limit"
	"usher/store/redisstore/redistest"
)

// If Redis' wall clock is set back, windows end too late. A used-up window then gets
// its own length, so that it does not refuse longer than that. A Redis user of an older
// version, without the right for this, keeps working.
func TestClockOfRedisStepsBack(t *testing.T) {
	server := redistest.Start(t)
	rules := aclRules(t)
	const length, step = time.Minute, 10 * time.Hour
	for name, c := range map[string]struct {
		rights []string
		most   time.Duration // that may be left in the end
	}{
		"with the right":    {aclAddition(t, "`session.state.throttle`) add"), length},
		"without the right": {nil, step},
	} {
		setUser(t, "usher", slices.Concat(rules, c.rights), server)
		forget(t, server)
		s := open(t, strings.Replace(server.URL(), "://", "://"+login(t, rules), 1), "default")
		conn, err := s.Dial(t.Context(), 0)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := conn.Join(t.Context(), store.Join{Replica: "a", Candidate: "b", Stream: 1, Settings: pairSettings(false), Space: "c1a"}); err != nil {
			t.Fatal(err)
		}
		token := store.Token{Epoch: "b", Stream: 1}
		asks := func() store.Count {
			t.Helper()
			e := store.Entry{Counter: "c1aaaa/s1/key", Max: limit.None, RuleMax: limit.None, Need: 1, Rate: limit.Rate{N: 1, Per: length}}
			reply, err := conn.Batch(t.Context(), store.Batch{Replica: "a", Prev: token, New: token.Next(), Entries: []store.Entry{e}})
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			token = token.Next()
			return reply.Counts[0]
		}
		if got := asks(); got.Admitted != 1 {
			t.Fatalf("%s: %+v, want one admitted", name, got)
		}
		key := "usher:{default:0}:w:c1aaaa/s1/key"
		for _, left := range []time.Duration{step, 0} { // 0: somebody took the end away
			redis := server.Client()
			set := redis.Persist(t.Context(), key)
			if left > 0 {
				set = redis.PExpire(t.Context(), key, left)
			}
			if err := set.Err(); err != nil {
				t.Fatal(err)
			}
			if got := asks(); got.Admitted != 0 || !got.Throttled {
				t.Errorf("%s: %+v, want throttled", name, got)
			}
			after, err := redis.PTTL(t.Context(), key).Result()
			if err != nil || after > c.most || c.rights != nil && after <= 0 {
				t.Errorf("%s, with %v left: %v left after a refusal, %v; want at most %v", name, left, after, err, c.most)
			}
			if used, err := redis.Get(t.Context(), key).Result(); used != "1" {
				t.Errorf("%s: %s used, %v", name, used, err)
			}
		}
		conn.Close()
		s.Close()
	}
}
