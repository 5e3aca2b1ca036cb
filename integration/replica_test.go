package integration

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// replica is one running Usher, wherever it runs.
type replica struct {
	name   string
	socks  string // host:port for SOCKS without a balancer; "" if there is no such way
	admin  string // base URL of the admin listener
	signal func(syscall.Signal)
	kill   func() // SIGKILL; returns when it is gone
	exits  func(within time.Duration, code int)
	proc   *process // nil in a container
}

// descriptorLimit is a key in a replica's environment that is not a variable: how many
// descriptors the process may open.
const descriptorLimit = "ulimit -n"

// startReplica starts a replica as a process and waits until it is ready.
func startReplica(t testing.TB, name, host string, socksPort, adminPort int, env map[string]string) *replica {
	t.Helper()
	r := launchReplica(t, name, host, socksPort, adminPort, env)
	r.waitReady(t)
	return r
}

// launchReplica starts a replica as a process, and does not wait. env overrides the
// default environment of test replicas.
func launchReplica(t testing.TB, name, host string, socksPort, adminPort int, env map[string]string) *replica {
	t.Helper()
	r := &replica{
		name:  name,
		socks: fmt.Sprintf("%s:%d", host, socksPort),
		admin: fmt.Sprintf("http://%s:%d", host, adminPort),
	}
	all := map[string]string{
		"USHER_LISTEN":        r.socks,
		"USHER_ADMIN_LISTEN":  strings.TrimPrefix(r.admin, "http://"),
		"USHER_LEASE_TTL":     "2s",
		"USHER_DRAIN_GRACE":   "0s",
		"USHER_DRAIN_TIMEOUT": "0s",
		"USHER_LOG_FORMAT":    "json",
		// A data race ends the process with a code of its own.
		"GORACE": "halt_on_error=1 exitcode=66",
	}
	for k, v := range env {
		all[k] = v
	}
	var list []string
	for k, v := range all {
		if v != "" && k != descriptorLimit {
			list = append(list, k+"="+v)
		}
	}
	program, args := usher, []string{"serve"}
	if n := env[descriptorLimit]; n != "" {
		program, args = "sh", []string{"-c", descriptorLimit + " " + n + ` && exec "$0" serve`, usher}
	}
	r.proc = start(t, name, list, program, args...)
	r.signal, r.kill, r.exits = r.proc.signal, r.proc.kill, r.proc.exits
	return r
}

// adminClient keeps no connection open, because it would count among the descriptors of
// the replica.
var adminClient = &http.Client{
	Timeout:   patience,
	Transport: &http.Transport{DisableKeepAlives: true},
}

// get asks the admin listener.
func (r *replica) get(path string) (code int, body string, err error) {
	resp, err := adminClient.Get(r.admin + path)
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(text), err
}

// waitReady waits until /readyz answers 200.
func (r *replica) waitReady(t testing.TB) {
	t.Helper()
	eventually(t, 2*patience, func() string {
		if r.proc != nil {
			if code, ended := r.proc.ended(); ended {
				t.Fatalf("%s ended with code %d before it was ready", r.name, code)
			}
		}
		code, body, err := r.get("/readyz")
		if err == nil && code == http.StatusOK {
			return ""
		}
		return fmt.Sprintf("%s is not ready: %d %s %v", r.name, code, body, err)
	})
}

// status is the part of /status that the tests read.
type status struct {
	Ready    bool
	Sessions int
	Rules    struct {
		Digest     string
		Generation string
		Loaded     time.Time
		ReloadOK   bool `json:"reload_ok"`
		Limits     []struct {
			Rule       string
			Name       string
			Generation string
			Current    bool
			Max        int64
			Sessions   int64
		}
	}
	Store struct {
		Joined       bool
		WasReady     bool `json:"was_ready"`
		Recovering   bool
		ReplicaCount int `json:"replica_count"`
		Failure      string
	}
}

func (r *replica) status(t testing.TB) status {
	t.Helper()
	code, body, err := r.get("/status")
	if err != nil || code != http.StatusOK {
		t.Fatalf("%s: /status: %d %v", r.name, code, err)
	}
	var st status
	if err := json.Unmarshal([]byte(body), &st); err != nil {
		t.Fatalf("%s: /status: %v in %s", r.name, err, body)
	}
	return st
}

// counted returns how many sessions the store counts for s1, by the last answer to this
// replica: for the rules in force (current) or for older generations.
func (s status) counted(current bool) (n int64) {
	for _, l := range s.Rules.Limits {
		if l.Rule == "s1" && l.Current == current {
			n += l.Sessions
		}
	}
	return n
}

// metrics are the samples of one scrape, by name with labels.
type metrics map[string]float64

func (r *replica) metrics(t testing.TB) metrics {
	t.Helper()
	code, body, err := r.get("/metrics")
	if err != nil || code != http.StatusOK {
		t.Fatalf("%s: /metrics: %d %v", r.name, code, err)
	}
	m := metrics{}
	for lines := bufio.NewScanner(strings.NewReader(body)); lines.Scan(); {
		line := lines.Text()
		cut := strings.LastIndexByte(line, ' ')
		if strings.HasPrefix(line, "#") || cut < 0 {
			continue
		}
		v, err := strconv.ParseFloat(line[cut+1:], 64)
		if err != nil {
			t.Fatalf("%s: /metrics: %q: %v", r.name, line, err)
		}
		m[line[:cut]] = v
	}
	return m
}

// sum adds the samples of a metric whose labels contain all of these texts, such as
// reason="limit".
func (m metrics) sum(name string, labels ...string) (total float64) {
next:
	for sample, v := range m {
		base, have, _ := strings.Cut(sample, "{")
		if base != name {
			continue
		}
		for _, want := range labels {
			if !strings.Contains(have, want) {
				continue next
			}
		}
		total += v
	}
	return total
}
