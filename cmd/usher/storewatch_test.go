package main

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"usher/limiter"
)

func TestStoreNews(t *testing.T) {
	same := map[string]string{"aaaaaaaaaaaa": "c1x", "bbbbbbbbbbbb": "c1x"}
	differ := map[string]string{"aaaaaaaaaaaa": "c1x", "bbbbbbbbbbbb": "c1y"}
	var n storeNews
	for i, step := range []struct {
		at   time.Duration
		st   limiter.Status
		want string // in the only line, "" for none
	}{
		{0, limiter.Status{}, ""},
		{1, limiter.Status{Joined: true, Young: true}, "just born"},
		{2, limiter.Status{Joined: true, Young: true}, ""},
		{3, limiter.Status{Joined: true, Holders: same}, "joined the store"},
		{4, limiter.Status{Holders: same}, "lost the store"},
		{5, limiter.Status{Mismatch: "v1 ttl=1"}, "other lease settings"},
		{6, limiter.Status{Mismatch: "v1 ttl=1"}, ""},
		{7, limiter.Status{Joined: true, Holders: differ}, "joined the store"},
		{8 + splitPatience - 2, limiter.Status{Joined: true, Holders: differ}, ""},
		{7 + splitPatience, limiter.Status{Joined: true, Holders: differ}, "different rules"},
		{8 + splitPatience, limiter.Status{Joined: true, Holders: differ}, ""},
	} {
		lines := n.next(step.st, time.Unix(1000, 0).Add(step.at))
		switch {
		case step.want == "" && len(lines) > 0:
			t.Errorf("step %d: %v", i, lines)
		case step.want != "" && (len(lines) != 1 || !strings.Contains(lines[0].text, step.want)):
			t.Errorf("step %d: %v, want %q", i, lines, step.want)
		}
	}
}

func TestStoreFailureIsToldOnce(t *testing.T) {
	var out bytes.Buffer
	w := storeWatch{log: slog.New(slog.NewTextHandler(&out, nil))}
	for _, err := range []error{nil, errors.New("away"), errors.New("away"), nil, nil} {
		w.observe("batch", err)
	}
	if got := strings.Count(out.String(), "\n"); got != 2 || !strings.Contains(out.String(), "answers again") {
		t.Error(out.String())
	}
}

// Port 1 of a loopback address that nobody uses stands for a Redis that is away.
func TestStoreThatIsAway(t *testing.T) {
	t.Parallel()
	p := launch(t, "USHER_STORE=redis://:geheim@127.9.9.9:1/0", "USHER_LEASE_TTL=1s", "USHER_CONFIG="+ruleFile(t, passLoopback))
	if line := p.logged("the store fails; rules without a limit go on"); line["op"] == "" {
		t.Error(line)
	}
	if code, body := p.get("/readyz?strict=1"); code != 503 {
		t.Error(code, body)
	}
	p.eventually("/readyz", `"ready": true`) // after two TTL
	p.eventually("/metrics", "usher_store_joined 0\n")
	p.mu.Lock()
	defer p.mu.Unlock()
	if log := p.raw.String(); strings.Contains(log, "geheim") || strings.Contains(log, "\nredis: ") {
		t.Error("the log shows the password, or lines of the Redis client")
	}
}

func TestStoreSettingsAreCheckedOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		w := storeWatch{log: slog.New(slog.NewTextHandler(&out, nil))}
		attempts := 0
		w.check(t.Context(), func(context.Context) ([]string, error) {
			if attempts++; attempts < 3 {
				return nil, errors.New("away")
			}
			return []string{"one", "two"}, nil
		})
		if lines := strings.Count(out.String(), "\n"); attempts != 3 || lines != 2 || !strings.Contains(out.String(), "finding=two") {
			t.Errorf("%d attempts, log:\n%s", attempts, out.String())
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		w.check(ctx, func(context.Context) ([]string, error) { return nil, errors.New("away") })
	})
}
