package integration

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"usher/deploy/need"
)

// demo runs a copy of the shipped compose file and of the files that it mounts.
type demo struct {
	t       *testing.T
	dir     string
	project string
	command []string // docker compose, or docker-compose
	env     []string
	proxy   string
	stats   *balancer
}

// TestComposeDemo runs the demo of README.md, and counts its sessions.
func TestComposeDemo(t *testing.T) {
	needDocker(t, "redis:7-alpine", "haproxy:3.0-alpine", "busybox:1.36")
	d := startDemo(t)
	t.Run("only loopback is open", d.onlyLoopback)
	t.Run("nobody but HAProxy is trusted", d.onlyBalancerTrusted)
	t.Run("fetch", d.fetch)
	t.Run("the sixth session is refused", d.sixthRefused)
	t.Run("a replica is killed", d.replicaKilled)
	t.Run("rules are edited", d.rulesEdited)
	t.Run("five replicas", d.scaled)
	t.Run("without Redis", d.withoutRedis)
}

func startDemo(t *testing.T) *demo {
	t.Helper()
	d := newDemo(t)
	d.up()
	return d
}

// up starts the services.
func (d *demo) up() {
	d.t.Helper()
	d.must("up", "-d", "--no-build")
	d.stats.waitUp(d.t, 3)
}

// newDemo copies the files of the demo, and removes at the end what the test has
// started.
func newDemo(t *testing.T) *demo {
	t.Helper()
	d := &demo{t: t, dir: shared(t, "demo"), project: "ushertest" + testRun}
	if _, err := docker("compose", "version"); err == nil {
		d.command = []string{"docker", "compose"}
	} else {
		d.command = []string{need.Program(t, "docker-compose")}
	}
	port, stats := need.Port(t), need.Port(t)
	d.proxy = fmt.Sprintf("127.0.0.1:%d", port)
	d.stats = &balancer{stats: fmt.Sprintf("http://127.0.0.1:%d/metrics", stats)}
	d.env = append(os.Environ(), "USHER_IMAGE="+testImage,
		fmt.Sprintf("USHER_PORT=%d", port), fmt.Sprintf("USHER_STATS_PORT=%d", stats),
		fmt.Sprintf("USHER_EDGE_NET=10.%d.%d", 64+rand.IntN(64), rand.IntN(256))) // beside a demo that runs

	writeFile(t, filepath.Join(d.dir, "docker-compose.yml"), readFile(t, "../docker-compose.yml"))
	for _, folder := range []string{"deploy/compose", "deploy/monitoring"} {
		if err := os.CopyFS(filepath.Join(d.dir, folder), os.DirFS("../"+folder)); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() {
		if t.Failed() {
			said, _ := d.compose("logs", "--no-color", "--tail", "40")
			t.Logf("the demo said:\n%s", said)
		}
		if out, err := d.compose("down", "-v", "--timeout", "0"); err != nil {
			t.Errorf("docker-compose down: %v: %s", err, out)
		}
	})
	return d
}

// compose runs docker-compose on the demo.
func (d *demo) compose(args ...string) (string, error) {
	args = append(append(d.command[1:len(d.command):len(d.command)], "-p", d.project), args...)
	cmd := exec.Command(d.command[0], args...)
	cmd.Dir, cmd.Env = d.dir, d.env
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func (d *demo) must(args ...string) string {
	d.t.Helper()
	out, err := d.compose(args...)
	if err != nil {
		d.t.Fatalf("docker-compose %s: %v: %s", strings.Join(args, " "), err, out)
	}
	return out
}

// curl fetches a page of the target through the proxy, and returns its output.
func (d *demo) curl(url string, args ...string) (string, error) {
	args = append([]string{"-sS", "--max-time", "60", "--proxy", "socks5h://" + d.proxy, url}, args...)
	out, err := exec.Command(need.Program(d.t, "curl"), args...).CombinedOutput()
	return string(out), err
}

// hold is a curl that keeps its session open, and the replica that serves it.
type hold struct {
	cancel context.CancelFunc
	done   chan struct{}
	via    string
}

// hold starts a curl that keeps a limited session. If there is none, refused says why.
func (d *demo) hold(t *testing.T) (h *hold, refused string) {
	t.Helper()
	return d.holdAt(t, "target")
}

// holdAt is hold for another host of the demo, and optionally a port.
func (d *demo) holdAt(t *testing.T, host string) (h *hold, refused string) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	cmd := exec.CommandContext(ctx, "curl", "-sSN", "--max-time", "300",
		"--proxy", "socks5h://"+d.proxy, "http://"+host+"/cgi-bin/hold?300")
	read, write := io.Pipe()
	cmd.Stdout, cmd.Stderr = write, write
	if err := cmd.Start(); err != nil {
		cancel()
		t.Fatal(err)
	}
	h = &hold{cancel: cancel, done: make(chan struct{})}
	go func() {
		defer close(h.done)
		write.CloseWithError(cmd.Wait())
	}()
	d.t.Cleanup(h.close)
	said, err := bufio.NewReader(read).ReadString('\n')
	go io.Copy(io.Discard, read) //nolint:errcheck // it ends with the command
	via, ok := strings.CutPrefix(said, "via ")
	if !ok {
		h.close()
		return nil, fmt.Sprintf("%s%v", said, err)
	}
	h.via = strings.TrimSpace(via)
	return h, ""
}

func (h *hold) close() {
	h.cancel()
	<-h.done
}

// lives reports whether the session still exists.
func (h *hold) lives() bool {
	select {
	case <-h.done:
		return false
	default:
		return true
	}
}

// fill opens sessions until one is refused. It must be refused by the rules.
func (d *demo) fill(t *testing.T) (held []*hold) {
	t.Helper()
	for {
		h, refused := d.hold(t)
		if h == nil {
			if !strings.Contains(refused, "(2)") {
				t.Fatalf("after %d sessions: %s, want SOCKS reply 2", len(held), refused)
			}
			return held
		}
		if held = append(held, h); len(held) > 10 {
			t.Fatal("no limit holds")
		}
	}
}

// full opens sessions until there are n, including those in held. This must succeed
// within a time. After that, no other is admitted.
func (d *demo) full(t *testing.T, n int, within time.Duration, held ...*hold) []*hold {
	t.Helper()
	eventually(t, within, func() string {
		held = append(held, d.fill(t)...)
		if len(held) != n {
			return fmt.Sprintf("%d sessions are admitted, want %d", len(held), n)
		}
		return ""
	})
	if more := d.fill(t); len(more) != 0 {
		t.Fatalf("%d more sessions than %d are admitted", len(more), n)
	}
	for _, h := range held {
		if !h.lives() {
			t.Error("a session ended by itself")
		}
	}
	return held
}

func closeAll(held []*hold) {
	for _, h := range held {
		h.close()
	}
}

func (d *demo) onlyLoopback(t *testing.T) {
	for _, id := range strings.Fields(d.must("ps", "-q")) {
		for _, bound := range strings.Fields(mustDocker(t, "inspect", "-f",
			"{{range .NetworkSettings.Ports}}{{range .}}{{.HostIp}} {{end}}{{end}}", id)) {
			if bound != "127.0.0.1" {
				t.Errorf("a port is published on %s", bound)
			}
		}
	}
	for _, id := range strings.Fields(d.must("ps", "-q", "usher")) {
		eventually(t, 4*patience, func() string { // it is healthy after the first check by the engine
			got := mustDocker(t, "inspect", "-f",
				"{{.Config.User}} {{.HostConfig.ReadonlyRootfs}} {{.HostConfig.CapDrop}} {{.HostConfig.SecurityOpt}} {{.State.Health.Status}}", id)
			if want := "65532:65532 true [ALL] [no-new-privileges:true] healthy"; got != want {
				return fmt.Sprintf("a replica runs as %s, want %s", got, want)
			}
			return ""
		})
		if out, err := docker("exec", id, "sh", "-c", "true"); err == nil {
			t.Errorf("a replica has a shell: %s", out)
		}
	}
	if ports := mustDocker(t, "ps", "-q", "--filter", "publish=6379", "--filter", "label=com.docker.compose.project="+d.project); ports != "" {
		t.Error("Redis has a port on the host")
	}
}

// onlyBalancerTrusted checks that replicas accept PROXY headers from HAProxy's address
// only, and not from other containers. The same holds for LOCAL.
func (d *demo) onlyBalancerTrusted(t *testing.T) {
	const addresses = "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}"
	haproxy := mustDocker(t, "inspect", "-f", addresses, strings.TrimSpace(d.must("ps", "-q", "haproxy")))
	for _, id := range strings.Fields(d.must("ps", "-q", "usher")) {
		if env := mustDocker(t, "inspect", "-f", "{{.Config.Env}}", id); !strings.Contains(env, "USHER_PROXY_PROTOCOL_FROM="+haproxy+" ") {
			t.Errorf("a replica has %s, want HAProxy's address %s alone to be trusted", env, haproxy)
		}
	}
	const (
		local = `\r\n\r\n\0\r\nQUIT\n\040\0\0\0`
		hello = `\005\001\000`
	)
	ask := func(sent string) (answer string) {
		said, err := docker("exec", strings.TrimSpace(d.must("ps", "-q", "target")),
			"sh", "-c", "printf '"+sent+"' | nc -w 10 usher 1080 | od -An -tx1")
		if err != nil {
			t.Fatalf("asking from another container: %v: %s", err, said)
		}
		return strings.TrimSpace(said)
	}
	if got := ask(hello); got != "05 00" {
		t.Fatalf("a greeting is answered with %q, want 05 00", got)
	}
	if got := ask(local + hello); got != "" {
		t.Errorf("a header of another container is answered with %q", got)
	}
}

func (d *demo) fetch(t *testing.T) {
	const page = "Hello from the demo target.\n"
	for _, url := range []string{"http://target/", "http://target:8080/"} {
		if out, err := d.curl(url); err != nil || out != page {
			t.Errorf("curl %s: %v: %s", url, err, out)
		}
	}
	if out, err := d.curl("http://target:8080/", "--proxy-user", "monica:demo"); err != nil || out != page {
		t.Errorf("curl as monica: %v: %s", err, out)
	}
	if out, err := d.curl("http://target:8080/", "--proxy-user", "monica:wrong"); err == nil {
		t.Errorf("curl as monica with a wrong password: %s", out)
	}
	// Nobody reaches private targets.
	for url, reply := range map[string]string{
		"http://redis:6379/":     "(4)", // as for a name that does not exist
		"http://127.0.0.1:9090/": "(2)", "http://169.254.169.254/": "(2)",
	} {
		if out, err := d.curl(url); err == nil || !strings.Contains(out, reply) {
			t.Errorf("curl %s: %v: %s, want SOCKS reply %s", url, err, out, reply)
		}
	}
}

func (d *demo) sixthRefused(t *testing.T) {
	held := d.full(t, 5, patience)
	replicas := map[string]int{}
	for _, h := range held {
		replicas[h.via]++
	}
	t.Logf("sessions by replica: %v", replicas)
	if len(replicas) != 3 {
		t.Errorf("they are on %d replicas, want 3", len(replicas))
	}
	closeAll(held)
}

func (d *demo) replicaKilled(t *testing.T) {
	held := d.full(t, 5, patience)
	name, victim := held[0].via, ""
	for _, id := range strings.Fields(d.must("ps", "-q", "usher")) {
		if name == id[:12]+"-1" { // the container's host name, and the process
			victim = id
		}
	}
	if victim == "" {
		t.Fatalf("no replica is called %s", name)
	}
	begin := time.Now()
	mustDocker(t, "kill", "-s", "KILL", victim)
	left := slices.DeleteFunc(held, func(h *hold) bool { return h.via == name })
	held = d.full(t, 5, 4*patience, left...) // that it takes one TTL at most is for the limiter's tests
	t.Logf("the slots of a killed replica were back after %v", time.Since(begin).Round(time.Millisecond))
	mustDocker(t, "start", victim)
	d.stats.waitUp(t, 3)
	closeAll(held)
}

func (d *demo) rulesEdited(t *testing.T) {
	old := d.full(t, 5, patience)
	rules := filepath.Join(d.dir, "deploy/compose/usher/sockd.conf")
	edited := strings.Replace(readFile(t, rules), "maxsessions: 5", "maxsessions: 2", 1)
	writeFile(t, rules+".new", edited)
	if err := os.Rename(rules+".new", rules); err != nil {
		t.Fatal(err)
	}
	for _, id := range strings.Fields(d.must("ps", "-q", "usher")) {
		if said := mustDocker(t, "exec", id, "/usher", "reload"); !strings.HasPrefix(said, "reloaded: ") {
			t.Errorf("reload says %q", said)
		}
	}
	newer := d.full(t, 2, patience)
	for _, h := range old {
		if !h.lives() {
			t.Error("a session of the old rules ended")
		}
	}
	closeAll(old)
	closeAll(newer)
}

func (d *demo) scaled(t *testing.T) {
	d.must("up", "-d", "--no-build", "--no-recreate", "--scale", "usher=5")
	d.stats.waitUp(t, 5)
	closeAll(d.full(t, 2, patience)) // by the edited rules
}

func (d *demo) withoutRedis(t *testing.T) {
	d.must("stop", "--timeout", "0", "redis")
	if out, err := d.curl("http://target:8080/"); err != nil {
		t.Errorf("a rule without a limit: %v: %s", err, out)
	}
	if out, err := d.curl("http://target/"); err == nil || !strings.Contains(out, "(1)") {
		t.Errorf("a rule with a limit: %v: %s, want SOCKS reply 1", err, out)
	}
	if up, err := d.stats.up(); err != nil || up != 5 {
		t.Errorf("HAProxy finds %d of 5 replicas up: %v", up, err)
	}
	resp, err := adminClient.Get(strings.TrimSuffix(d.stats.stats, "metrics"))
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		t.Errorf("HAProxy's page: %s", resp.Status)
	}
}
