package redisstore_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"usher/store"
	"usher/store/card"
	"usher/store/limit"
	"usher/store/redisstore/redistest"
	"usher/store/storetest"
)

// aclRules returns the rules of the user that the documentation shows.
func aclRules(t *testing.T) []string {
	t.Helper()
	for line := range strings.Lines(redisPage(t)) {
		if rules, ok := strings.CutPrefix(line, "user usher "); ok {
			return strings.Fields(rules)
		}
	}
	t.Fatal("docs/redis.md shows no user")
	return nil
}

// aclAddition returns the rights that the documentation names after these words.
func aclAddition(t *testing.T, words string) []string {
	t.Helper()
	_, rest, ok := strings.Cut(redisPage(t), words+" `")
	rights, _, closed := strings.Cut(rest, "`")
	if !ok || !closed {
		t.Fatalf("docs/redis.md names no rights after %q", words)
	}
	return strings.Fields(rights)
}

func redisPage(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile("../../docs/redis.md")
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// setUser gives a user of the servers these rules, and none else.
func setUser(t *testing.T, name string, rules []string, servers ...*redistest.Server) {
	t.Helper()
	args := []any{"ACL", "SETUSER", name, "reset"}
	for _, r := range rules {
		args = append(args, r)
	}
	for _, s := range servers {
		if err := s.Client().Do(t.Context(), args...).Err(); err != nil {
			t.Fatal(err)
		}
	}
}

// forget removes from a server the data of exercise, and the scripts.
func forget(t *testing.T, server *redistest.Server) {
	t.Helper()
	admin := server.Client()
	if err := errors.Join(
		admin.ScriptFlush(t.Context()).Err(),
		admin.Del(t.Context(), "usher:{default:0}:c", "usher:{default:0}:m", "usher:{default:0}:t", "usher:{default:0}:r:a", "usher:{default:0}:w:c1aaaa/s1/key").Err(),
	); err != nil {
		t.Fatal(err)
	}
}

// login returns name and password, as they stand in a URL, of the user usher with these rules.
func login(t *testing.T, rules []string) string {
	t.Helper()
	i := slices.IndexFunc(rules, func(r string) bool { return strings.HasPrefix(r, ">") })
	if i < 0 {
		t.Fatalf("no password in %q", rules)
	}
	return "usher:" + rules[i][1:] + "@"
}

// allNeeded checks that with the addition the user at url may do all that a replica
// does, and that each right is needed.
func allNeeded(t *testing.T, addition []string, become func(addition []string), url string) {
	t.Helper()
	become(addition)
	if err := exercise(patient(t), open(t, url, "default")); err != nil {
		t.Errorf("with %q: %v", addition, err)
	}
	for i, r := range addition {
		become(slices.Delete(slices.Clone(addition), i, i+1))
		if err := exercise(patient(t), open(t, url, "default")); err == nil || !strings.Contains(err.Error(), "NOPERM") {
			t.Errorf("without %s: %v, want NOPERM", r, err)
		}
	}
	become(addition)
}

// minimalClusterUser is TestMinimalUser for the additional rights on a Redis Cluster.
func minimalClusterUser(t *testing.T, cluster *redistest.Cluster) {
	rules := aclRules(t)
	url := strings.Replace(cluster.URL(), "://", "://"+login(t, rules), 1)
	allNeeded(t, aclAddition(t, "On a Redis Cluster add"), func(addition []string) {
		setUser(t, "usher", slices.Concat(rules, addition), cluster.Nodes...)
		forget(t, cluster.Serving(cluster.Slot("{default:0}")))
	}, url)
	s := open(t, url, "check")
	defer s.Close()
	// Its rights suffice to count. Each of the three primaries is warned about, as
	// one more right is needed to check a setting.
	got, err := s.Check(patient(t))
	foreign := func(warning string) bool {
		return !strings.Contains(warning, "cluster-require-full-coverage cannot be read (NOPERM")
	}
	if err != nil || len(got) != 3 || slices.ContainsFunc(got, foreign) {
		t.Errorf("Check: %q, %v; want the setting that the primaries do not report", got, err)
	}
}

// minimalSentinelUser is the same for the user of the sentinels. The user of the
// servers behind them needs no additional rights.
func minimalSentinelUser(t *testing.T, group *redistest.Sentinels) {
	rules := aclRules(t)
	setUser(t, "usher", rules, group.Servers...)
	url := strings.Replace(group.URL(), "://", "://"+login(t, rules), 1) + "?sentinel_username=watcher&sentinel_password=geheim"
	allNeeded(t, aclAddition(t, "their user needs"), func(addition []string) {
		setUser(t, "watcher", append([]string{"on", ">geheim"}, addition...), group.Watch...)
		forget(t, group.Primary())
	}, url)
	warns(t, url, "min-replicas-to-write or min-replicas-max-lag is 0")
}

// TestMinimalUser checks the ACL line of the documentation: it suffices, and each of
// its rights is needed.
func TestMinimalUser(t *testing.T) {
	server := redistest.Start(t)
	rules := aclRules(t)
	become := func(rules []string) {
		setUser(t, "usher", rules, server)
		forget(t, server)
	}
	address := "redis://" + login(t, rules) + server.Addr
	url := address + "/0"

	become(rules)
	if err := exercise(patient(t), open(t, url, "default")); err != nil {
		t.Errorf("with all that is documented: %v", err)
	}
	if err := exercise(patient(t), open(t, url, "other")); err == nil || !strings.Contains(err.Error(), "NOPERM") {
		t.Errorf("another cluster's keys: %v, want NOPERM", err)
	}
	warns(t, url, "")
	dropped := 0
	for i, r := range rules {
		if !strings.HasPrefix(r, "+") && !strings.HasPrefix(r, "~") {
			continue
		}
		dropped++
		become(slices.Delete(slices.Clone(rules), i, i+1))
		if err := exercise(patient(t), open(t, url, "default")); err == nil {
			t.Errorf("%s is not needed", r)
		}
	}
	if dropped < 10 {
		t.Errorf("only %d rights in %q", dropped, rules)
	}
	t.Run("another database", func(t *testing.T) {
		allNeeded(t, aclAddition(t, "For a database other than 0 add"), func(addition []string) {
			become(slices.Concat(rules, addition))
		}, address+"/1")
	})
	t.Run("contract", func(t *testing.T) {
		const name = "~usher:{default:*"
		if !slices.Contains(rules, name) {
			t.Fatalf("no %s in %q", name, rules)
		}
		rates := aclAddition(t, "(`session.throttle`, `session.state.throttle`) add") // some clauses have rates
		become(slices.Concat(rules, rates, []string{"~usher:{minimal*"}))
		n := 0
		storetest.Run(t, func(t *testing.T) store.Store {
			n++
			return open(t, url, fmt.Sprint("minimal", n))
		})
	})
}

// exercise makes each kind of request of a replica once.
func exercise(ctx context.Context, s store.Store) (err error) {
	defer func() { err = errors.Join(err, s.Close()) }()
	c, err := s.Dial(ctx, 0)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.Close()) }()
	entry := store.Entry{Counter: "c1aaaa/s1/key", Max: 5, RuleMax: 9, Live: 1, Need: 1}
	joined, err := c.Join(ctx, store.Join{
		Replica: "a", Candidate: "b", Stream: 1, Space: "c1aaaa",
		Settings: store.Settings{Protocol: 1, Shards: 1}, Entries: []store.Entry{entry},
	})
	if err != nil {
		return fmt.Errorf("join: %w", err)
	}
	if _, err := c.EndRecovery(ctx, store.EndRecovery{Replica: "a", Token: store.Token{Epoch: joined.Epoch, Stream: 1}, Ready: true}); err != nil {
		return fmt.Errorf("end recovery: %w", err)
	}
	last := store.Token{Epoch: joined.Epoch, Stream: 1}
	entry.Need, entry.Rate = 2, limit.Rate{N: 5, Per: time.Hour}
	if _, err := c.Batch(ctx, store.Batch{Replica: "a", Prev: last, New: last.Next(), Entries: []store.Entry{entry}}); err != nil {
		return fmt.Errorf("batch: %w", err)
	}
	last, entry.Live, entry.Need = last.Next(), 2, 3 // in a window that runs
	if _, err := c.Batch(ctx, store.Batch{Replica: "a", Prev: last, New: last.Next(), Entries: []store.Entry{entry}}); err != nil {
		return fmt.Errorf("batch: %w", err)
	}
	if _, err := c.Observe(ctx, []string{entry.Counter}); err != nil {
		return fmt.Errorf("observe: %w", err)
	}
	if _, err := c.Expire(ctx, store.Expire{Target: "a", Epoch: joined.Epoch, Token: last.Next(), Max: 10}); err != nil {
		return fmt.Errorf("expire: %w", err)
	}
	if _, err := c.(card.Conn).Show(ctx, card.Card{Replica: "a"}); err != nil {
		return fmt.Errorf("show: %w", err)
	}
	return c.(card.Conn).Withdraw(ctx, "a")
}
