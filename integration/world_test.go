package integration

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"time"

	"usher/deploy/need"
	"usher/store/redisstore/redistest"
)

// world is replicas that share a store and a rule file, behind a balancer. They run as
// processes or in containers.
type world struct {
	t        testing.TB
	ttl      time.Duration
	proxy    client   // through the balancer
	limited  endpoint // an echo, for the rule with the limit
	free     endpoint // another, for the rule without one
	replicas []*replica
	store    interface {
		Kill()
		Start()
	}
	ruleFile string
	hosts    []string          // of processes, with the ports below
	env      map[string]string // the same
	ports    struct{ socks, admin int }
	balancer *balancer
	echo     *echo // the limited target; nil with containers
}

// options of a world of processes.
type options struct {
	ttl      time.Duration                       // 2s if zero
	replicas int                                 // 3 if zero
	rules    func(limited, free endpoint) string // standard if nil
	shards   int                                 // Usher's default if zero
	env      map[string]string
	users    string // text of the users file, if any
	alone    bool   // the test itself starts the balancer, with balance
}

// standard is the rule file of most tests: one target with a limit, one without.
func standard(limit int) func(limited, free endpoint) string {
	return func(limited, free endpoint) string {
		return fmt.Sprintf(`
client pass {
	from: 0/0 to: 0/0
}
socks pass {
	from: 0/0 to: %s
	maxsessions: %d
}
socks pass {
	from: 0/0 to: %s
}
# A full rule is a verdict. Were it not, this rule would let everybody in.
socks pass {
	from: 0/0 to: 0/0
}
`, limited.to(), limit, free.to())
	}
}

// newWorld starts Redis, replicas and HAProxy as processes, and waits until rules with
// a limit admit sessions.
func newWorld(t testing.TB, o options) *world {
	t.Helper()
	redis := redistest.Start(t)
	e, free := startEcho(t), startEcho(t)
	w := &world{
		t: t, ttl: o.ttl, store: redis, echo: e,
		limited: e.endpoint(), free: free.endpoint(),
		ruleFile: filepath.Join(t.TempDir(), "sockd.conf"),
	}
	if w.ttl == 0 {
		w.ttl = 2 * time.Second
	}
	if o.replicas == 0 {
		o.replicas = 3
	}
	if o.rules == nil {
		o.rules = standard(5)
	}
	w.writeRules(o.rules(w.limited, w.free))
	env := map[string]string{
		"USHER_CONFIG":              w.ruleFile,
		"USHER_STORE":               redis.URL(),
		"USHER_LEASE_TTL":           w.ttl.String(),
		"USHER_PROXY_PROTOCOL_FROM": balancerSource + "/32",
	}
	if o.shards != 0 {
		env["USHER_STORE"] += fmt.Sprintf("?shards=%d", o.shards)
	}
	if o.users != "" {
		env["USHER_USERS_FILE"] = filepath.Join(t.TempDir(), "users")
		if err := os.WriteFile(env["USHER_USERS_FILE"], []byte(o.users), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for k, v := range o.env {
		env[k] = v
	}
	w.env = env
	w.ports.socks, w.ports.admin = need.Port(t), need.Port(t)
	for i := range o.replicas {
		w.hosts = append(w.hosts, "127.0.1."+strconv.Itoa(i+1))
		own := maps.Clone(env)
		own["USHER_REPLICA"] = fmt.Sprintf("usher-%d", i+1)
		w.replicas = append(w.replicas,
			launchReplica(t, fmt.Sprintf("usher %d", i+1), w.hosts[i], w.ports.socks, w.ports.admin, own))
	}
	for _, r := range w.replicas {
		r.waitReady(t)
	}
	w.waitReady()
	if !o.alone {
		w.balance()
	}
	return w
}

// balance starts the balancer of a world of processes.
func (w *world) balance() {
	w.t.Helper()
	w.balancer = startBalancer(w.t, w.hosts, w.ports.socks, w.ports.admin)
	w.proxy = client{proxy: w.balancer.addr}
}

// writeRules replaces the rule file by another file, as editors do.
func (w *world) writeRules(text string) {
	w.t.Helper()
	temp := w.ruleFile + ".new"
	if err := os.WriteFile(temp, []byte(text), 0o644); err != nil {
		w.t.Fatal(err)
	}
	if err := os.Rename(temp, w.ruleFile); err != nil {
		w.t.Fatal(err)
	}
}

// living returns the replicas whose admin listener answers.
func (w *world) living() []*replica {
	var all []*replica
	for _, r := range w.replicas {
		if _, _, err := r.get("/healthz"); err == nil {
			all = append(all, r)
		}
	}
	return all
}

// waitReady waits until every replica has joined a store that is ready.
func (w *world) waitReady() {
	w.t.Helper()
	living := w.living()
	eventually(w.t, patience, func() string {
		for _, r := range living {
			if st := r.status(w.t).Store; !st.Joined || st.Recovering || st.ReplicaCount != len(living) {
				return fmt.Sprintf("%s and its store: %+v, want %d replicas", r.name, st, len(living))
			}
		}
		return ""
	})
}

// reload replaces the rules, sends SIGHUP to all replicas, and waits until each has
// accepted them (ok) or refused them.
func (w *world) reload(text string, ok bool) {
	w.t.Helper()
	w.writeRules(text)
	for _, r := range w.living() {
		before := r.status(w.t).Rules
		r.signal(syscall.SIGHUP)
		eventually(w.t, patience, func() string {
			now := r.status(w.t).Rules
			if now.ReloadOK != ok || ok && !now.Loaded.After(before.Loaded) {
				return fmt.Sprintf("%s: reload_ok %v, loaded %v", r.name, now.ReloadOK, now.Loaded)
			}
			return ""
		})
	}
}

// sessions returns how many sessions the replicas have, by replica.
func (w *world) sessions() map[*replica]int {
	n := map[*replica]int{}
	for _, r := range w.living() {
		n[r] = r.status(w.t).Sessions
	}
	return n
}

// busiest returns the replica with the most sessions.
func (w *world) busiest() (r *replica, sessions int) {
	w.t.Helper()
	for candidate, n := range w.sessions() {
		if n > sessions {
			r, sessions = candidate, n
		}
	}
	if r == nil {
		w.t.Fatal("no replica has a session")
	}
	return r, sessions
}

// waitIdle waits until no replica has a session and the store counts none.
func (w *world) waitIdle() {
	w.t.Helper()
	eventually(w.t, patience, func() string {
		for _, r := range w.living() {
			st := r.status(w.t)
			for _, current := range []bool{true, false} {
				if n := st.counted(current); n != 0 {
					return fmt.Sprintf("%s: the store counts %d sessions (current rules: %v)", r.name, n, current)
				}
			}
			if st.Sessions != 0 {
				return fmt.Sprintf("%s has %d sessions", r.name, st.Sessions)
			}
		}
		return ""
	})
}
