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
	"usher/store/redisstore/redistest"
	"usher/store/storetest"
)

// aclRules returns the rules of the user that the documentation shows.
func aclRules(t *testing.T) []string {
	t.Helper()
	text, err := os.ReadFile("../../docs/operations.md")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if rules, ok := strings.CutPrefix(line, "user usher "); ok {
			return strings.Fields(rules)
		}
	}
	t.Fatal("docs/operations.md shows no user")
	return nil
}

// TestMinimalUser holds the documentation's ACL line to what it says: it is
// enough, and nothing of it is too much.
func TestMinimalUser(t *testing.T) {
	server := redistest.Start(t)
	rules := aclRules(t)
	become := func(rules []string) {
		admin := server.Client()
		args := []any{"ACL", "SETUSER", "usher", "reset"}
		for _, r := range rules {
			args = append(args, r)
		}
		for _, err := range []error{
			admin.Do(t.Context(), args...).Err(),
			admin.ScriptFlush(t.Context()).Err(),
			admin.Del(t.Context(), "usher:{default:0}:m", "usher:{default:0}:t", "usher:{default:0}:r:a", "usher:{default:0}:w:c1aaaa/s1/key").Err(),
		} {
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	i := slices.IndexFunc(rules, func(r string) bool { return strings.HasPrefix(r, ">") })
	if i < 0 {
		t.Fatalf("no password in %q", rules)
	}
	url := "redis://usher:" + rules[i][1:] + "@" + server.Addr + "/0"

	become(rules)
	if err := exercise(t.Context(), open(t, url, "default")); err != nil {
		t.Errorf("with all that is documented: %v", err)
	}
	if err := exercise(t.Context(), open(t, url, "other")); err == nil || !strings.Contains(err.Error(), "NOPERM") {
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
		if err := exercise(t.Context(), open(t, url, "default")); err == nil {
			t.Errorf("%s is not needed", r)
		}
	}
	if dropped < 10 {
		t.Errorf("only %d rights in %q", dropped, rules)
	}
	t.Run("contract", func(t *testing.T) {
		const name = "~usher:{default:*"
		if !slices.Contains(rules, name) {
			t.Fatalf("no %s in %q", name, rules)
		}
		become(append(slices.Clone(rules), "~usher:{minimal*"))
		n := 0
		storetest.Run(t, func(t *testing.T) store.Store {
			n++
			return open(t, url, fmt.Sprint("minimal", n))
		})
	})
}

// exercise does everything once that a replica does to a store.
func exercise(ctx context.Context, s store.Store) (err error) {
	c, err := s.Dial(ctx, 0)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.Close(), s.Close()) }()
	entry := store.Entry{Counter: "c1aaaa/s1/key", Max: 5, RuleMax: 9, Live: 1, Need: 1}
	joined, err := c.Join(ctx, store.Join{
		Holder: "a", Candidate: "b", Stream: 1, Space: "c1aaaa",
		Settings: store.Settings{Protocol: 1, Shards: 1}, Entries: []store.Entry{entry},
	})
	if err != nil {
		return fmt.Errorf("join: %w", err)
	}
	if _, err := c.Mature(ctx, store.Mature{Birth: joined.Birth, Ripe: true}); err != nil {
		return fmt.Errorf("mature: %w", err)
	}
	last := store.Token{Birth: joined.Birth, Stream: 1}
	entry.Need, entry.Rate = 2, store.Rate{N: 5, Per: time.Hour}
	if _, err := c.Batch(ctx, store.Batch{Holder: "a", Prev: last, New: last.Next(), Entries: []store.Entry{entry}}); err != nil {
		return fmt.Errorf("batch: %w", err)
	}
	last, entry.Live, entry.Need = last.Next(), 2, 3 // in a window that runs
	if _, err := c.Batch(ctx, store.Batch{Holder: "a", Prev: last, New: last.Next(), Entries: []store.Entry{entry}}); err != nil {
		return fmt.Errorf("batch: %w", err)
	}
	if _, err := c.Observe(ctx, []string{entry.Counter}); err != nil {
		return fmt.Errorf("observe: %w", err)
	}
	if _, err := c.Reap(ctx, store.Reap{Target: "a", Birth: joined.Birth, Token: last.Next(), Most: 10}); err != nil {
		return fmt.Errorf("reap: %w", err)
	}
	return nil
}
