package main

import (
	"fmt"
	"io"
	"net"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"usher/deploy/need"
	"usher/store/redisstore/redistest"
)

// The error about a Redis that does not answer has the time limit.
func TestStoreThatDoesNotAnswer(t *testing.T) {
	need.Seconds(t)
	t.Parallel()
	server := redistest.Start(t)
	p := launch(t, "USHER_STORE="+server.URL(), "USHER_LEASE_TTL=4s", "USHER_CONFIG="+ruleFile(t, passLoopback))
	p.logged("joined the store")
	if err := server.Client().Do(t.Context(), "CLIENT", "PAUSE", patience.Milliseconds(), "ALL").Err(); err != nil {
		t.Fatal(err)
	}
	p.eventually("/status", "of USHER_LEASE_TTL")
}

// A Redis that answers and refuses all writes, as after it was made a replica, is
// reported in the log and in the status. One line tells when this is over. The lease is
// long because a request may take a tenth of it, and a late request on a busy machine
// is another failure.
func TestStoreThatRefuses(t *testing.T) {
	need.Seconds(t)
	t.Parallel()
	server := redistest.Start(t)
	p := launch(t, "USHER_STORE="+server.URL(), "USHER_LEASE_TTL=20s", "USHER_CONFIG="+ruleFile(t, passLoopback))
	p.logged("joined a recovering store")
	do := func(args ...any) {
		t.Helper()
		if err := server.Client().Do(t.Context(), args...).Err(); err != nil {
			t.Fatal(err)
		}
	}
	do("REPLICAOF", "127.0.0.1", "1")
	if line := p.logged("the store fails"); !strings.Contains(fmt.Sprint(line["error"]), "READONLY") {
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
		t.Error("the end of the store's failure is logged more than once")
	}
}

// A password from a file is used. A warning reports an insecure connection to the
// store. The password is never shown.
func TestPasswordFromAFile(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, "--requirepass", "geheim")
	file := write(t, filepath.Join(t.TempDir(), "password"), "geheim\n")
	p := launch(t, "USHER_STORE=redis://store.invalid", "USHER_STORE_PASSWORD_FILE="+file, "USHER_LEASE_TTL=2s")
	if line := p.logged("the connection to the store is insecure"); !strings.Contains(fmt.Sprint(line["finding"]), "store.invalid unencrypted") {
		t.Error(line)
	}
	p = launch(t, "USHER_STORE="+server.URL(), "USHER_STORE_PASSWORD_FILE="+file+"\n", "USHER_LEASE_TTL=2s", "USHER_LOG_LEVEL=debug")
	p.logged("joined the store")
	p.mu.Lock()
	defer p.mu.Unlock()
	if log := p.raw.String(); strings.Contains(log, "geheim") || strings.Contains(log, "not safe") {
		t.Error("the log shows the password, or has no warning")
	}
}

// If a Redis, or somebody between, announces more than a reply may have, the store
// counts as failed: the process survives, and rules without a limit work. The text is
// made safe before it reaches a terminal.
func TestHostileStore(t *testing.T) {
	t.Parallel()
	rules := ruleFile(t, "client pass { from: 127.0.0.0/8 to: 0/0 }\nsocks pass { from: 127.0.0.0/8 to: 0/0 }\n")
	for command, reply := range map[string]string{
		"INFO": "$4611686018427387904\r\n", "EVALSHA": "*4611686018427387904\r\n", "HELLO": "%2000000000\r\n",
		"SCRIPT": "-ERR \x1b[2J" + strings.Repeat("\u202e", 20000) + "\r\n",
	} {
		l := redistest.Loopback(t)
		redistest.Fake(t, l, func(got []string) string {
			switch word := strings.ToUpper(got[0]); {
			case word == command:
				return reply
			case word == "EVALSHA":
				return "-NOSCRIPT no such script\r\n"
			}
			return redistest.Ordinary(got)
		})
		// The lease is long for the same reason as in TestStoreThatRefuses.
		p := launch(t, "USHER_STORE=redis://"+l.Addr().String(), "USHER_LEASE_TTL=20s", "USHER_CONFIG="+rules)
		want := "protocol: reply exceeds 1048576 bytes"
		if command == "SCRIPT" {
			want = `ERR \x1b[2J\u202e`
		}
		failed := fmt.Sprint(p.logged("the store fails")["error"])
		if !strings.Contains(failed, want) || len(failed) > 700 {
			t.Errorf("%s: the log says %q, want %q", command, failed, want)
		}
		c, code := connect(t, p, webServer(t))
		if code != 0 {
			t.Errorf("%s: reply %d where no limit is", command, code)
		}
		redistest.Eventually(t, patience, "several attempts", func() bool {
			_, metrics := p.get("/metrics")
			return regexp.MustCompile(`usher_store_errors_total{op="(dial|join)"} ([3-9]|\d\d)`).MatchString(metrics)
		})
		if _, err := io.WriteString(c, "GET / HTTP/1.0\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
		if body, err := io.ReadAll(c); err != nil || !strings.HasSuffix(string(body), "hello") {
			t.Errorf("%s: the session that ran: %v %q", command, err, body)
		}
		p.mu.Lock()
		if n := strings.Count(p.raw.String(), `"the store fails"`); n != 1 {
			t.Errorf("%s: %d lines for one failure", command, n)
		}
		p.mu.Unlock()
	}
}

// A Redis that is back and requires a password is another failure than one that is
// away, and it is the one that an operator must know.
func TestStoreThatIsBackWithAPassword(t *testing.T) {
	need.Seconds(t)
	t.Parallel()
	server := redistest.Start(t)
	p := launch(t, "USHER_STORE="+server.URL(), "USHER_LEASE_TTL=10s", "USHER_CONFIG="+ruleFile(t, passLoopback))
	p.logged("joined the store")
	if err := server.Client().Do(t.Context(), "CONFIG", "SET", "requirepass", "geheim").Err(); err != nil {
		t.Fatal(err)
	}
	if err := server.Client().Do(t.Context(), "CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes").Err(); err != nil {
		t.Fatal(err)
	}
	if line := p.logged("lost the store"); !strings.Contains(fmt.Sprint(line["error"]), "NOAUTH") {
		t.Error(line)
	}
	p.eventually("/readyz?strict=1", "NOAUTH")
}

// A replica that stops leaves the store. It does not log that it lost the store,
// however slowly the store answers.
func TestLeavingIsNoLoss(t *testing.T) {
	need.Seconds(t)
	t.Parallel()
	server := redistest.Start(t)
	p := launch(t, "USHER_STORE="+server.URL(), "USHER_LEASE_TTL=10s", "USHER_DRAIN_GRACE=0s", "USHER_CONFIG="+ruleFile(t, passLoopback))
	p.logged("joined the store")
	if err := server.Client().Do(t.Context(), "CLIENT", "PAUSE", "900", "ALL").Err(); err != nil {
		t.Fatal(err)
	}
	p.signal(syscall.SIGTERM)
	p.logged("stopped")
	p.mu.Lock()
	defer p.mu.Unlock()
	if log := p.raw.String(); strings.Contains(log, `"lost the store"`) {
		t.Errorf("a stop is told as a loss:\n%s", log)
	}
}

// A replica that was paused for longer than its lease joins again at once. It still
// logs that others may have got its slots.
func TestReplicaThatWasPausedLogsItsLostLease(t *testing.T) {
	need.Seconds(t)
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
	p.logged("lease lost")
	if _, metrics := p.get("/metrics"); strings.Contains(metrics, "usher_store_leases_lost_total 0\n") {
		t.Error("the metric says that no lease was lost")
	}
}

// Port 1 of an unused loopback address stands for a Redis that is away.
func TestStoreThatIsAway(t *testing.T) {
	t.Parallel()
	p := launch(t, "USHER_STORE=redis://:geheim@127.9.9.9:1/0", "USHER_LEASE_TTL=1s", "USHER_CONFIG="+ruleFile(t, passLoopback))
	if line := p.logged("the store fails"); line["op"] == "" {
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

// While the store is away, a replica with USHER_STORE_DOWN=admit holds the limit by its
// own count, and reports which sessions the store does not know.
func TestAdmitWhileTheStoreIsAway(t *testing.T) {
	t.Parallel()
	rules := strings.Replace(passLoopback, "maxsessions: 3", "maxsessions: 2\n rule.name: web", 1)
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
	p.eventually("/metrics", `usher_sessions_rejected_total{reason="limit",rule="web"} 1`+"\n")
	p.eventually("/metrics", "usher_sessions_unconfirmed_total{mode=\"enforce\"} 2\n")
	for i, c := range held {
		c.Close()
		if line := p.loggedTimes("session ended", i+1); line["rule"] != "s1" || line["rule_name"] != "web" || line["confirmed"] != false {
			t.Error(line)
		}
	}
}

// The bound on the users that a rule counts holds over all replicas. When the time of
// the rate is over, other users are counted.
func TestThrottleKeysOverReplicas(t *testing.T) {
	need.Seconds(t)
	t.Parallel()
	server := redistest.Start(t)
	const rules = "client pass { from: 0/0 to: 0/0 }\n" +
		"socks pass { from: 0/0 to: 0/0\n socksmethod: username\n session.state.key: user\n session.state.throttle: 9/3600 }\n"
	const hash = "$2b$05$abcdefghijklmnopqrstuutXu9KzOt.1yBoZUeFWoT/914/JfszCO" // of open-sesame
	users := write(t, filepath.Join(t.TempDir(), "users"), "monica:"+hash+"\nfred:"+hash+"\n")
	target := webServer(t)
	var replicas []*process
	for range 2 {
		replicas = append(replicas, launch(t, "USHER_STORE="+server.URL(), "USHER_LEASE_TTL=4s", "USHER_THROTTLE_KEYS=1",
			"USHER_USERS_FILE="+users, "USHER_CONFIG="+ruleFile(t, rules)))
	}
	for _, p := range replicas {
		p.logged("joined the store")
	}
	a, b := replicas[0], replicas[1]
	for i, c := range []struct {
		at   *process
		user string
		want byte
	}{{a, "monica", 0}, {a, "fred", 1}, {b, "fred", 1}, {b, "monica", 0}} {
		if code := connectAs(t, c.at, c.user, "open-sesame", target); code != c.want {
			t.Errorf("request %d, of %s: reply %d, want %d", i, c.user, code, c.want)
		}
	}
	for _, p := range replicas {
		if line := p.logged("session refused"); line["reason"] != "throttle_keys" || line["limit_key"] != "user=fred" {
			t.Error(line)
		}
	}
	client := server.Client()
	for _, key := range client.Keys(t.Context(), "*:k:*").Val() { // its time is over
		client.Del(t.Context(), key)
	}
	if code := connectAs(t, a, "fred", "open-sesame", target); code != 0 {
		t.Errorf("reply %d when a place is free again", code)
	}
}
