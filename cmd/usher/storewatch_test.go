package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"regexp"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"usher/limiter"
	"usher/store/redisstore/redistest"
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

// A store that fails is told of once, and once more when nothing has failed for
// a while and something was written.
func TestStoreFailureIsToldOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		w := storeWatch{log: slog.New(slog.NewTextHandler(&out, nil))}
		refused := errors.New("MISCONF")
		told := func(lines int, last string) {
			t.Helper()
			text := strings.TrimSpace(out.String())
			if n := strings.Count(out.String(), "\n"); n != lines || !strings.Contains(text[strings.LastIndex(text, "\n")+1:], last) {
				t.Errorf("%d lines, want %d, the last with %q:\n%s", n, lines, last, text)
			}
		}
		w.observe("batch", nil)
		told(0, "")
		for range 100 { // it answers, and takes nothing; another server does
			w.observe("batch", refused)
			w.observe("dial", nil)
			w.observe("join", refused)
			w.observe("batch", nil)
			time.Sleep(calm / 50)
		}
		told(1, "the store fails")
		time.Sleep(calm)
		w.observe("dial", nil)
		w.observe("observe", nil)
		told(1, "the store fails")
		w.observe("join", nil)
		w.observe("batch", nil)
		told(2, "the store answers again")
		w.observe("batch", refused)
		told(3, "the store fails")
	})
}

// A Redis that answers and refuses all that writes, as one that was made a
// replica does, is one line in the log, and one when that is over. The lease is
// long because a request may take a tenth of it, and one that is late on a busy
// machine is a failure of its own.
func TestStoreThatRefuses(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	p := launch(t, "USHER_STORE="+server.URL(), "USHER_LEASE_TTL=20s", "USHER_CONFIG="+ruleFile(t, passLoopback))
	p.logged("joined a store that was just born: sessions that exist are counted, nothing new is given out yet")
	do := func(args ...any) {
		t.Helper()
		if err := server.Client().Do(t.Context(), args...).Err(); err != nil {
			t.Fatal(err)
		}
	}
	do("REPLICAOF", "127.0.0.1", "1")
	if line := p.logged("the store fails; rules without a limit go on"); !strings.Contains(fmt.Sprint(line["error"]), "READONLY") {
		t.Error(line)
	}
	several := regexp.MustCompile(`usher_store_errors_total{op="(batch|join)"} ([5-9]|\d\d)`)
	redistest.Eventually(t, patience, "refusals, each after a connection that worked", func() bool {
		_, metrics := p.get("/metrics")
		return several.MatchString(metrics)
	})
	do("REPLICAOF", "NO", "ONE")
	p.logged("the store answers again")
	p.mu.Lock()
	defer p.mu.Unlock()
	if log := p.raw.String(); strings.Count(log, "the store fails") != 1 || strings.Count(log, "the store answers again") != 1 {
		t.Error("the store's failure is told of more than once")
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

// While the store is away, a replica that may admit holds the limit by its own
// count, and says of which sessions the store knows nothing.
func TestAdmitWhileTheStoreIsAway(t *testing.T) {
	t.Parallel()
	rules := strings.Replace(passLoopback, "maxsessions: 3", "maxsessions: 2", 1)
	p := launch(t, "USHER_STORE=redis://127.9.9.9:1/0", "USHER_STORE_DOWN=admit", "USHER_STORE_WAIT=100ms",
		"USHER_LEASE_TTL=1s", "USHER_CONFIG="+ruleFile(t, rules))
	target := webServer(t)
	var held []net.Conn
	for range 2 {
		c, code := connect(t, p, target)
		if code != 0 {
			t.Fatalf("reply %d to session %d of 2", code, len(held)+1)
		}
		held = append(held, c)
	}
	if _, code := connect(t, p, target); code != 2 {
		t.Errorf("reply %d to a third session, want 2: the limit is reached", code)
	}
	if line := p.logged("session refused"); line["reason"] != "limit" || line["confirmed"] != nil {
		t.Error(line)
	}
	p.eventually("/metrics", `usher_sessions_rejected_total{reason="limit",rule="s1"} 1`+"\n")
	p.eventually("/metrics", "usher_sessions_unconfirmed_total 2\n")
	for i, c := range held {
		c.Close()
		if line := p.loggedTimes("session ended", i+1); line["rule"] != "s1" || line["confirmed"] != false {
			t.Error(line)
		}
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
