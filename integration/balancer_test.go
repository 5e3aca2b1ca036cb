package integration

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"usher/deploy/need"
)

// balancerSource is the address from which the balancer of the tests reaches
// replicas: the one address that they expect a PROXY header from.
const balancerSource = "127.0.0.9"

// balancer is HAProxy, here a process with the configuration of the compose demo,
// where only addresses are changed.
type balancer struct {
	addr  string   // for SOCKS clients
	stats string   // URL of its metrics
	proc  *process // nil in a container
}

// startBalancer starts HAProxy before replicas that listen at the same two
// ports of their addresses, and waits until it has found all of them up.
func startBalancer(t testing.TB, hosts []string, socksPort, adminPort int) *balancer {
	t.Helper()
	program := need.Program(t, "haproxy")
	b := &balancer{addr: fmt.Sprintf("127.0.0.1:%d", need.Port(t))}
	statsAddr := fmt.Sprintf("127.0.0.1:%d", need.Port(t))
	b.stats = "http://" + statsAddr + "/metrics"

	shipped, err := os.ReadFile("../deploy/compose/haproxy/haproxy.cfg")
	if err != nil {
		t.Fatal(err)
	}
	head, rest, ok1 := strings.Cut(string(shipped), "resolvers docker\n")
	_, rest, ok2 := strings.Cut(rest, "\n\n")
	if !ok1 || !ok2 {
		t.Fatal("haproxy.cfg has no resolvers section: adapt this test")
	}
	servers := "source " + balancerSource + "\n"
	for i, h := range hosts {
		servers += fmt.Sprintf("    server r%d %s:%d\n", i+1, h, socksPort)
	}
	cfg := head + rest
	for _, change := range [][2]string{
		{"bind :1080", "bind " + b.addr},
		{"bind :8404", "bind " + statsAddr},
		{"connect port 9090", fmt.Sprintf("connect port %d", adminPort)},
		{"connect port 1080", fmt.Sprintf("connect port %d", socksPort)},
		{"server-template replica 10 usher:1080 resolvers docker", servers},
	} {
		if strings.Count(cfg, change[0]) != 1 {
			t.Fatalf("haproxy.cfg has not exactly one %q: adapt this test", change[0])
		}
		cfg = strings.Replace(cfg, change[0], change[1], 1)
	}
	file := filepath.Join(t.TempDir(), "haproxy.cfg")
	if err := os.WriteFile(file, []byte(cfg), 0o644); err != nil {
		t.Fatal(err)
	}
	b.proc = start(t, "haproxy", nil, program, "-db", "-f", file)
	b.waitUp(t, len(hosts))
	return b
}

// waitUp waits until n replicas are up in the eyes of HAProxy.
func (b *balancer) waitUp(t testing.TB, n int) {
	t.Helper()
	eventually(t, 4*patience, func() string {
		if b.proc != nil {
			if _, ended := b.proc.ended(); ended {
				t.Fatal("haproxy ended")
			}
		}
		if up, err := b.up(); err != nil || up != n {
			return fmt.Sprintf("HAProxy finds %d replicas up, want %d: %v", up, n, err)
		}
		return ""
	})
}

// up returns how many servers passed their last health check and are up.
func (b *balancer) up() (int, error) {
	text, err := b.metrics()
	if err != nil {
		return 0, err
	}
	passed := strings.Count(text, `state="L7OK"} 1`)
	up := 0
	for line := range strings.Lines(text) {
		if strings.HasPrefix(line, "haproxy_server_status{") && strings.HasSuffix(line, `state="UP"} 1`+"\n") {
			up++
		}
	}
	return min(up, passed), nil
}

// isUp reports whether the server with that number (from 1) is up.
func (b *balancer) isUp(number int) (bool, error) {
	text, err := b.metrics()
	return strings.Contains(text,
		fmt.Sprintf(`haproxy_server_status{proxy="replicas",server="r%d",state="UP"} 1`, number)), err
}

func (b *balancer) metrics() (string, error) {
	resp, err := adminClient.Get(b.stats)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("haproxy's metrics: %s", resp.Status)
	}
	return string(text), err
}
