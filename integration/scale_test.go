package integration

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"usher/deploy/need"
)

// nameServer is dnsmasq with the addresses of replicas.
type nameServer struct {
	t    testing.TB
	addr string
	file string
	proc *process
}

func startNameServer(t testing.TB, name string, addrs ...string) *nameServer {
	t.Helper()
	n := &nameServer{t: t, addr: fmt.Sprintf("127.0.0.1:%d", need.Port(t)), file: filepath.Join(t.TempDir(), "hosts")}
	n.write(name, addrs...)
	_, port, _ := strings.Cut(n.addr, ":")
	// Its group must be able to read the files, and to keep the port of this test.
	n.proc = start(t, "dnsmasq", nil, need.Program(t, "dnsmasq"), "--keep-in-foreground", "--conf-file=/dev/null", "--no-resolv", "--no-hosts",
		"--addn-hosts="+n.file, "--local=/example/", "--port="+port, "--listen-address=127.0.0.1", "--bind-interfaces", "--user=root", "--pid-file=")
	return n
}

func (n *nameServer) write(name string, addrs ...string) {
	n.t.Helper()
	text := ""
	for _, a := range addrs {
		text += a + " " + name + "\n"
	}
	writeFile(n.t, n.file, text)
}

// set replaces the records of a name by addrs.
func (n *nameServer) set(name string, addrs ...string) {
	n.t.Helper()
	n.write(name, addrs...)
	n.proc.signal(syscall.SIGHUP)
}

// serversUp returns how many servers of HAProxy's backend are up.
func serversUp(socket string) (n int, err error) {
	states, err := serverStates(socket)
	for _, state := range states {
		if strings.HasPrefix(state["status"], "UP") {
			n++
		}
	}
	return n, err
}

// TestScaleUnderLoad runs deploy/haproxy/haproxy-dns.cfg with other addresses and a
// real name server. Under traffic, it scales three replicas to five, and back. No
// connection is refused or reset, no old session is cut, and the target never has more
// sessions than the limit.
func TestScaleUnderLoad(t *testing.T) {
	const limit, name = 4, "usher.example"
	haproxy := need.Program(t, "haproxy")
	if out, err := exec.Command(haproxy, "-c", "-f", "../deploy/haproxy/haproxy-dns.cfg").CombinedOutput(); err != nil {
		t.Fatalf("haproxy -c: %v\n%s", err, out)
	}
	limited := startWitness(t, newTruth(), "127.0.0.1")
	w := newWorld(t, options{replicas: 3, alone: true, ttl: 4 * time.Second,
		rules: func(_, free endpoint) string { return standard(limit)(limited.endpoint, free) },
		env:   map[string]string{"USHER_DRAIN_GRACE": "5s", "USHER_DRAIN_TIMEOUT": "1m"}})
	names := startNameServer(t, name, w.hosts...)
	socket, front := filepath.Join(t.TempDir(), "s"), fmt.Sprintf("127.0.0.1:%d", need.Port(t))
	runHAProxy(t, edited(t, "../deploy/haproxy/haproxy-dns.cfg",
		"bind :1080", "bind "+front,
		"maxconn 20000", "maxconn 500",
		"/run/haproxy/admin.sock", socket,
		"192.0.2.53:53", names.addr,
		"connect port 9090", fmt.Sprintf("connect port %d", w.ports.admin),
		"connect port 1080", fmt.Sprintf("connect port %d", w.ports.socks),
		"server-template replica 20 usher.example:1080", fmt.Sprintf("source %s\n    server-template replica 20 usher.example:%d", balancerSource, w.ports.socks)))
	waitUp := func(want int) {
		t.Helper()
		eventually(t, 4*patience, func() string {
			if up, err := serversUp(socket); err != nil || up != want {
				return fmt.Sprintf("HAProxy finds %d replicas up, want %d: %v", up, want, err)
			}
			return ""
		})
	}
	waitUp(3)

	held := client{proxy: front}.ask(t, 9, w.free.String())
	load := startTraffic(t, limited, w.free, limit+2, front)
	load.more()
	for i := 3; i < 5; i++ {
		w.hosts = append(w.hosts, fmt.Sprintf("127.0.1.%d", i+1))
		r := launchReplica(t, fmt.Sprintf("usher %d", i+1), w.hosts[i], w.ports.socks, w.ports.admin, w.env)
		r.waitReady(t)
		w.replicas = append(w.replicas, r)
	}
	names.set(name, w.hosts...)
	waitUp(5)
	load.more()
	load.judge("3 replicas to 5", limit)

	load = startTraffic(t, limited, w.free, limit+2, front)
	load.more()
	for i := 4; i > 2; i-- {
		w.replicas[i].signal(syscall.SIGTERM) // as usher stop
	}
	for i := 4; i > 2; i-- {
		w.replicas[i].exits(4*patience, 0)
		if said := w.replicas[i].proc.out.String(); !strings.Contains(said, `"msg":"stopped"`) || !strings.Contains(said, `"cut":0`) {
			t.Errorf("%s has cut sessions", w.replicas[i].name)
		}
	}
	names.set(name, w.hosts[:3]...)
	waitUp(3)
	load.more()
	load.judge("5 replicas to 3", limit)
	held.alive().want(t, 9, notAllowed)
	held.close()
	w.replicas = w.replicas[:3]
	w.waitIdle()
}

// edited returns a shipped file with changes. Each replaces a text that must occur
// once.
func edited(t testing.TB, file string, changes ...string) string {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	changed := string(text)
	for i := 0; i < len(changes); i += 2 {
		if strings.Count(changed, changes[i]) != 1 {
			t.Fatalf("%s has not exactly one %q: adapt this test", file, changes[i])
		}
		changed = strings.Replace(changed, changes[i], changes[i+1], 1)
	}
	return changed
}
