package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"usher/limiter"
	"usher/store/redisstore/redistest"
)

func TestStoreNews(t *testing.T) {
	same := map[string]string{"aaaaaaaaaaaa": "c1x", "bbbbbbbbbbbb": "c1x"}
	differ := map[string]string{"aaaaaaaaaaaa": "c1x", "bbbbbbbbbbbb": "c1y"}
	n := storeNews{texts: lossTextsOf(config{})}
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
		{9 + splitPatience, limiter.Status{Joined: true, Holders: same, LeasesLost: 2}, "the lease was lost"}, // and back within a tick
		{10 + splitPatience, limiter.Status{Joined: true, Holders: same, LeasesLost: 2}, ""},
	} {
		lines := n.next(step.st, "dial: NOAUTH", time.Unix(1000, 0).Add(step.at))
		switch {
		case step.want == "" && len(lines) > 0:
			t.Errorf("step %d: %v", i, lines)
		case step.want != "" && (len(lines) != 1 || !strings.Contains(lines[0].text, step.want)):
			t.Errorf("step %d: %v, want %q", i, lines, step.want)
		case step.want == "lost the store" && fmt.Sprint(lines[0].attrs) != "[error dial: NOAUTH]":
			t.Errorf("step %d: %v names no cause", i, lines)
		}
	}
}

// A request that ends by its own limit is told with that and what sets it.
func TestFailureOfALateAnswer(t *testing.T) {
	w := storeWatch{ttl: 2 * time.Second}
	late := fmt.Errorf("read: %w", os.ErrDeadlineExceeded)
	for _, c := range []struct {
		op   string
		took time.Duration
		err  error
		want string
	}{
		{"batch", 200 * time.Millisecond, late, "no answer within 200ms, a tenth of USHER_LEASE_TTL: read: i/o timeout"},
		{"join", time.Second, context.DeadlineExceeded, "no answer within 200ms, a tenth of USHER_LEASE_TTL: context deadline exceeded"},
		{"dial", 400 * time.Millisecond, late, "no answer within 400ms, a fifth of USHER_LEASE_TTL: read: i/o timeout"},
		{"dial", 300 * time.Millisecond, late, "read: i/o timeout"}, // a limit of the client's own
		{"batch", time.Second, errors.New("EOF"), "EOF"},
	} {
		if got := w.describe(c.op, c.took, c.err); got != c.want {
			t.Errorf("%s after %v: %q, want %q", c.op, c.took, got, c.want)
		}
	}
}

// A Redis that does not answer is told of with the time that it was given.
func TestStoreThatDoesNotAnswer(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	p := launch(t, "USHER_STORE="+server.URL(), "USHER_LEASE_TTL=4s", "USHER_CONFIG="+ruleFile(t, passLoopback))
	p.logged("joined the store: limited rules admit")
	if err := server.Client().Do(t.Context(), "CLIENT", "PAUSE", patience.Milliseconds(), "ALL").Err(); err != nil {
		t.Fatal(err)
	}
	p.eventually("/status", "of USHER_LEASE_TTL")
}

// What becomes of sessions is told as the settings have it.
func TestLossIsToldByMode(t *testing.T) {
	for _, c := range []struct {
		cfg                config
		fails, lost, lease string // with which the lines end
	}{
		{config{LeaseLoss: "keep", StoreDown: "refuse"}, "; rules without a limit go on", "wait and are then refused", "is not refilled"},
		{config{LeaseLoss: "keep", StoreDown: "admit"}, "; rules without a limit go on", "wait and are then admitted by this replica's own count", "is not refilled"},
		{config{LeaseLoss: "close", StoreDown: "refuse"}, "limited sessions end if it lasts for 0.7 USHER_LEASE_TTL", "those that run end with their lease", "have ended"},
	} {
		var out told
		w := storeWatch{log: slog.New(slog.NewTextHandler(&out, nil)), texts: lossTextsOf(c.cfg)}
		w.observe("batch", 0, errors.New("EOF"))
		out.want(t, 1, c.fails+"\"")
		n := storeNews{texts: w.texts, last: limiter.Status{Joined: true}}
		lines := n.next(limiter.Status{LeasesLost: 1}, "", time.Now())
		if len(lines) != 2 || !strings.HasSuffix(lines[0].text, c.lease) || !strings.HasSuffix(lines[1].text, c.lost) {
			t.Errorf("%+v: %v, want %q and %q", c.cfg, lines, c.lease, c.lost)
		}
	}
}

// told is a log, of which it can be said how many lines it has and what the
// last one says.
type told struct{ bytes.Buffer }

func (o *told) want(t *testing.T, lines int, last ...string) {
	t.Helper()
	text := strings.TrimSpace(o.String())
	got := text[strings.LastIndex(text, "\n")+1:]
	for _, part := range last {
		if !strings.Contains(got, part) {
			t.Errorf("the last line lacks %q:\n%s", part, text)
		}
	}
	if n := strings.Count(o.String(), "\n"); n != lines {
		t.Errorf("%d lines, want %d:\n%s", n, lines, text)
	}
}

// A store that fails is told of once, and once more when nothing has failed for
// a while and something was written.
func TestStoreFailureIsToldOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out told
		w := storeWatch{log: slog.New(slog.NewTextHandler(&out, nil)), texts: lossTextsOf(config{})}
		refused := errors.New("MISCONF")
		w.observe("batch", 0, nil)
		out.want(t, 0)
		for range 100 { // it answers, and takes nothing; another server does
			w.observe("batch", 0, refused)
			w.observe("dial", 0, nil)
			w.observe("join", 0, nil)
			w.observe("batch", 0, nil)
			time.Sleep(calm / 50)
		}
		out.want(t, 1, "the store fails")
		time.Sleep(calm)
		w.observe("dial", 0, nil)
		w.observe("observe", 0, nil)
		out.want(t, 1, "the store fails")
		w.observe("join", 0, nil)
		w.observe("batch", 0, nil)
		out.want(t, 2, "the store answers again", "no_failure_for=5s")
		w.observe("batch", 0, refused)
		out.want(t, 3, "the store fails")
	})
}

// The first failure may be another one than that which lasts. What changes is
// told, but not at each change where failures take turns; what lasts is
// repeated.
func TestStoreFailureThatChangesIsTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out told
		w := storeWatch{log: slog.New(slog.NewTextHandler(&out, nil))}
		fail := func(op, text string) { w.observe(op, 0, errors.New(text)) }
		if text, since := w.trouble(); text != "" || !since.IsZero() {
			t.Error("there is trouble before anything failed:", text, since)
		}
		began := time.Now()
		fail("observe", "EOF")
		out.want(t, 1, "op=observe error=EOF")
		for range 9 {
			time.Sleep(time.Second)
			fail("dial", "NOAUTH at port 4711")
			fail("dial", "refused at port 4712")
			fail("dial", "NOAUTH at port 4713")
		}
		out.want(t, 1)
		time.Sleep(time.Second)
		fail("dial", "NOAUTH at port 4714")
		out.want(t, 2, "op=dial", "NOAUTH at port 4714", "for=10s")
		for range 5 { // the port alone is no change
			time.Sleep(11 * time.Second)
			fail("dial", "NOAUTH at port 4715")
		}
		out.want(t, 2)
		time.Sleep(5 * time.Second)
		fail("dial", "NOAUTH at port 4716")
		out.want(t, 3, "NOAUTH at port 4716", "for=1m10s")
		if text, since := w.trouble(); text != "dial: NOAUTH at port 4716" || !since.Equal(began) {
			t.Error("trouble is", text, "since", since)
		}
		time.Sleep(calm)
		w.observe("join", 0, nil)
		out.want(t, 4, "the store answers again")
		if text, _ := w.trouble(); text != "" {
			t.Error("there is trouble after the end:", text)
		}
		fail("dial", "NOAUTH")
		out.want(t, 5, "NOAUTH")
	})
}

// A Redis that answers and refuses all that writes, as one that was made a
// replica does, is told of in the log and by the status, and has one line when that is over. The lease is
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
	p.eventually("/status", "READONLY")
	do("REPLICAOF", "NO", "ONE")
	p.logged("the store answers again")
	p.mu.Lock()
	defer p.mu.Unlock()
	if log := p.raw.String(); strings.Count(log, "the store answers again") != 1 {
		t.Error("the end of the store's failure is told of more than once")
	}
}

// A Redis that is back with a password is another failure than one that is away,
// and the cause that an operator has to know.
func TestStoreThatIsBackWithAPassword(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	p := launch(t, "USHER_STORE="+server.URL(), "USHER_LEASE_TTL=4s", "USHER_CONFIG="+ruleFile(t, passLoopback))
	p.logged("joined the store: limited rules admit")
	if err := server.Client().Do(t.Context(), "CONFIG", "SET", "requirepass", "geheim").Err(); err != nil {
		t.Fatal(err)
	}
	if err := server.Client().Do(t.Context(), "CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes").Err(); err != nil {
		t.Fatal(err)
	}
	if line := p.logged("lost the store: new limited sessions wait and are then refused"); !strings.Contains(fmt.Sprint(line["error"]), "NOAUTH") {
		t.Error(line)
	}
	p.eventually("/readyz?strict=1", "NOAUTH")
}

// A replica that was stopped for longer than its lease joins again at once, and
// what others were given meanwhile is told of all the same.
func TestReplicaThatWasStoppedTellsOfItsLease(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	env := []string{"USHER_STORE=" + server.URL(), "USHER_LEASE_TTL=2s", "USHER_CONFIG=" + ruleFile(t, passLoopback)}
	p, q := launch(t, env...), launch(t, env...)
	target := webServer(t)
	admitted := func(p *process) bool {
		_, code := connect(t, p, target)
		return code == 0
	}
	for range 3 { // all slots
		redistest.Eventually(t, patience, "a session of the first replica", func() bool { return admitted(p) })
	}
	p.signal(syscall.SIGSTOP)
	redistest.Eventually(t, patience, "its slots are given to the second", func() bool { return admitted(q) })
	p.signal(syscall.SIGCONT)
	p.logged("the lease was lost: limited sessions here go on while others may be given their slots; what is then above a limit is not refilled")
	if _, metrics := p.get("/metrics"); strings.Contains(metrics, "usher_store_leases_lost_total 0\n") {
		t.Error("the metric says that no lease was lost")
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
