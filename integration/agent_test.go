package integration

import (
	"encoding/csv"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"usher/deploy/need"
)

// serverStates asks HAProxy's socket for the servers of its backend replicas: for each
// the columns of "show stat".
func serverStates(socket string) (map[string]map[string]string, error) {
	conn, err := net.Dial("unix", socket)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		return nil, err
	}
	if _, err := io.WriteString(conn, "show stat\n"); err != nil {
		return nil, err
	}
	rows, err := csv.NewReader(conn).ReadAll()
	if err != nil || len(rows) == 0 {
		return nil, fmt.Errorf("show stat: %d rows, %w", len(rows), err)
	}
	states := map[string]map[string]string{}
	for _, row := range rows[1:] {
		state := map[string]string{}
		for i, name := range rows[0] {
			state[strings.TrimPrefix(name, "# ")] = row[i]
		}
		if state["pxname"] == "replicas" && state["svname"] != "BACKEND" {
			states[state["svname"]] = state
		}
	}
	return states, nil
}

// waitState waits until a server has a status, and the agent has set the expected
// weight.
func waitState(t *testing.T, socket, server, status string, weight func(int) bool) {
	t.Helper()
	eventually(t, patience, func() string {
		states, err := serverStates(socket)
		if err != nil {
			return err.Error()
		}
		got := states[server]
		percent, err := strconv.Atoi(got["weight"])
		if err != nil || !strings.HasPrefix(got["status"], status) || weight != nil && !weight(percent) {
			return fmt.Sprintf("server %s is %s with weight %s, agent %s %q, check %s; want %s",
				server, got["status"], got["weight"], got["agent_status"], got["last_agt"], got["check_status"], status)
		}
		return ""
	})
}

// runHAProxy checks a configuration and runs it.
func runHAProxy(t *testing.T, cfg string) {
	t.Helper()
	program := need.Program(t, "haproxy")
	file := filepath.Join(t.TempDir(), "haproxy.cfg")
	writeFile(t, file, cfg)
	if out, err := exec.Command(program, "-c", "-f", file).CombinedOutput(); err != nil || strings.Contains(string(out), "WARNING") {
		t.Fatalf("haproxy -c: %v\n%s", err, out)
	}
	start(t, "haproxy", nil, program, "-db", "-f", file)
}

// TestHAProxyFile runs deploy/haproxy/haproxy.cfg with other addresses before two
// replicas. Sessions are spread, the weight of a replica falls as it uses up
// descriptors, and a draining replica gets no new sessions and keeps its old ones.
func TestHAProxyFile(t *testing.T) {
	shipped := readFile(t, "../deploy/haproxy/haproxy.cfg")
	if out, err := exec.Command(need.Program(t, "haproxy"), "-c", "-f", "../deploy/haproxy/haproxy.cfg").CombinedOutput(); err != nil {
		t.Fatalf("haproxy -c: %v\n%s", err, out)
	}
	hosts := map[string]string{"a": "127.0.1.1", "b": "127.0.1.2"}
	socks, admin, agent := need.Port(t), need.Port(t), need.Port(t)
	replicas := map[string]*replica{}
	for name, host := range hosts {
		replicas[name] = startReplica(t, name, host, socks, admin, map[string]string{
			"USHER_PROXY_PROTOCOL_FROM": balancerSource, "USHER_AGENT_LISTEN": fmt.Sprintf("%s:%d", host, agent),
			"USHER_DRAIN_GRACE": "2s", "USHER_DRAIN_TIMEOUT": "1m",
		})
	}
	socket := filepath.Join(t.TempDir(), "s")
	front := fmt.Sprintf("127.0.0.1:%d", need.Port(t))
	cfg := shipped
	for _, change := range [][2]string{
		{"bind :1080", "bind " + front},
		{"maxconn 20000", "maxconn 500"},
		{"/run/haproxy/admin.sock", socket},
		{"connect port 9090", fmt.Sprintf("connect port %d", admin)},
		{"connect port 1080", fmt.Sprintf("connect port %d", socks)},
		{"agent-port 9091", fmt.Sprintf("agent-port %d", agent)},
		{"server a 192.0.2.11:1080", fmt.Sprintf("source %s\n    server a %s:%d", balancerSource, hosts["a"], socks)},
		{"server b 192.0.2.12:1080", fmt.Sprintf("server b %s:%d", hosts["b"], socks)},
	} {
		if strings.Count(cfg, change[0]) != 1 {
			t.Fatalf("haproxy.cfg has not exactly one %q: adapt this test", change[0])
		}
		cfg = strings.Replace(cfg, change[0], change[1], 1)
	}
	runHAProxy(t, cfg)
	waitState(t, socket, "a", "UP", nearlyAll)
	waitState(t, socket, "b", "UP", nearlyAll)

	target := startEcho(t)
	c := client{proxy: front}
	held := c.ask(t, 20, target.endpoint().String())
	held.want(t, 20, notAllowed)
	for name, r := range replicas {
		if n := r.status(t).Sessions; n < 5 {
			t.Errorf("%s has %d of 20 sessions", name, n)
		}
	}

	weighs(t, socket, replicas["b"])
	drains(t, socket, replicas, c, held, target.endpoint().String())
	held.close()
	replicas["b"].exits(patience, 0)
}

func nearlyAll(weight int) bool { return weight > 50 }

// weighs shows that the weight of server b follows the descriptors in use.
func weighs(t *testing.T, socket string, b *replica) {
	t.Helper()
	// Half of what b may open is in use, then little of it.
	pid := b.proc.cmd.Process.Pid
	open, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	if err != nil {
		t.Fatal(err)
	}
	setDescriptors(t, pid, 2*len(open))
	waitState(t, socket, "b", "UP", func(weight int) bool { return weight >= 40 && weight <= 60 })
	setDescriptors(t, pid, 4096)
	waitState(t, socket, "b", "UP", nearlyAll)

}

// drains stops server b while new sessions arrive without pause. None is refused, and
// no old session is cut.
func drains(t *testing.T, socket string, replicas map[string]*replica, c client, held crowd, target string) {
	t.Helper()
	// HAProxy's checks of the port are no sessions of a rule.
	sessions := func() float64 { return replicas["a"].metrics(t).sum("usher_sessions", `command="connect"`) }
	before := sessions()
	replicas["b"].signal(syscall.SIGTERM)
	asked := 0
	eventually(t, patience, func() string {
		a := c.connect(target)
		asked++
		if a.reply != granted || !a.relays() {
			t.Fatalf("session %d while b drains: reply %d, %v", asked, a.reply, a.err)
		}
		a.Close()
		states, err := serverStates(socket)
		if err != nil || strings.HasPrefix(states["b"]["status"], "UP") {
			return fmt.Sprintf("HAProxy does not see that b drains: %v, %v", states["b"]["status"], err)
		}
		return ""
	})
	more := c.ask(t, 20, target)
	more.want(t, 20, notAllowed)
	if now := sessions(); now < before+20 {
		t.Errorf("a has %v sessions, want its %v and 20 new ones", now, before)
	}
	held.alive().want(t, 20, notAllowed)
	t.Logf("%d sessions asked for until b was out, none refused; 20 held, none cut", asked)
	more.close()
}

func setDescriptors(t *testing.T, pid, limit int) {
	t.Helper()
	var was unix.Rlimit
	if err := unix.Prlimit(pid, unix.RLIMIT_NOFILE, nil, &was); err != nil {
		t.Fatal(err)
	}
	now := unix.Rlimit{Cur: uint64(limit), Max: was.Max}
	if err := unix.Prlimit(pid, unix.RLIMIT_NOFILE, &now, nil); err != nil {
		t.Fatal(err)
	}
}

// askInTurn opens n sessions, each after the previous one relays, because one address
// may have only as many connecting sessions as there are free places.
func (c client) askInTurn(t testing.TB, n int, target string) (all crowd) {
	t.Helper()
	t.Cleanup(func() { all.close() })
	for i := range n {
		a := c.connect(target)
		all = append(all, a)
		if a.reply != granted || !a.relays() {
			t.Fatalf("session %d: reply %d, %v", i+1, a.reply, a.err)
		}
	}
	return all
}

// TestAgent shows HAProxy's reaction to each answer of the agent, beside a check of the
// port alone: up, drain, and down with the reason.
func TestAgent(t *testing.T) {
	socks, admin, agent := need.Port(t), need.Port(t), need.Port(t)
	const ready, waiting = "127.0.1.1", "127.0.1.2"
	env := func(host string, more ...string) map[string]string {
		e := map[string]string{"USHER_AGENT_LISTEN": fmt.Sprintf("%s:%d", host, agent), "USHER_DRAIN_GRACE": "10m"}
		for i := 0; i < len(more); i += 2 {
			e[more[i]] = more[i+1]
		}
		return e
	}
	target := startEcho(t)
	r := startReplica(t, "ready", ready, socks, admin, env(ready, "USHER_MAX_SESSIONS", "20"))
	// A store that is never there keeps a replica with a limit from being ready.
	rules := filepath.Join(t.TempDir(), "sockd.conf")
	writeFile(t, rules, "client pass { from: 0/0 to: 0/0 }\nsocks pass {\n from: 0/0 to: 0/0\n session.max: 1\n}\n")
	launchReplica(t, "waiting", waiting, socks, admin, env(waiting, "USHER_CONFIG", rules,
		"USHER_STORE", fmt.Sprintf("redis://127.0.0.1:%d/0", need.Port(t)), "USHER_LEASE_TTL", "10m"))
	socket := filepath.Join(t.TempDir(), "s")
	runHAProxy(t, fmt.Sprintf(`global
    stats socket %s level admin
defaults
    mode tcp
    timeout connect 2s
    timeout client 1m
    timeout server 1m
frontend socks
    bind 127.0.0.1:%d
    default_backend replicas
backend replicas
    default-server weight 100 check inter 200ms agent-check agent-port %d agent-inter 200ms
    server ready %s:%d
    server waiting %s:%d
`, socket, need.Port(t), agent, ready, socks, waiting, socks))
	waitState(t, socket, "ready", "UP", func(weight int) bool { return weight > 50 })
	waitState(t, socket, "waiting", "DOWN", nil)
	states, err := serverStates(socket)
	if err != nil {
		t.Fatal(err)
	}
	if reason := states["waiting"]["last_agt"]; !strings.Contains(reason, "store") {
		t.Errorf("the agent's reason, as HAProxy shows it: %q", reason)
	}
	held := client{proxy: r.socks}.askInTurn(t, 15, target.endpoint().String())
	waitState(t, socket, "ready", "UP", func(weight int) bool { return weight == 25 })
	var more crowd
	for i := range 5 { // the last places are for addresses that have few
		c := client{proxy: r.socks, from: netip.AddrFrom4([4]byte{127, 0, 7, byte(10 + i)})}
		more = append(more, c.askInTurn(t, 1, target.endpoint().String())...)
	}
	waitState(t, socket, "ready", "UP", func(weight int) bool { return weight == 1 })
	r.signal(syscall.SIGTERM)
	waitState(t, socket, "ready", "DRAIN", nil)
	held.alive().want(t, 15, notAllowed)
	held.close()
	more.close()
}
