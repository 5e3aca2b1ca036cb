package integration

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"usher/deploy/need"
)

// TestDeployExample runs the haproxy.cfg with which docs/deploy.md begins, where
// only addresses are changed, before two replicas.
func TestDeployExample(t *testing.T) {
	program := need.Program(t, "haproxy")
	w := newWorld(t, options{replicas: 2, alone: true})
	_, cfg, ok := strings.Cut(readFile(t, "../docs/deploy.md"), "\n```haproxy\n")
	cfg, _, closed := strings.Cut(cfg, "```\n")
	if !ok || !closed {
		t.Fatal("docs/deploy.md shows no haproxy.cfg")
	}
	addr := fmt.Sprintf("127.0.0.1:%d", need.Port(t))
	for _, change := range [][2]string{
		{"bind :1080", "bind " + addr},
		{"balance leastconn", "balance leastconn\n    source " + balancerSource},
		{"check port 9090", fmt.Sprintf("check port %d", w.ports.admin)},
		{"192.0.2.11:1080", fmt.Sprintf("%s:%d", w.hosts[0], w.ports.socks)},
		{"192.0.2.12:1080", fmt.Sprintf("%s:%d", w.hosts[1], w.ports.socks)},
	} {
		if strings.Count(cfg, change[0]) != 1 {
			t.Fatalf("docs/deploy.md has not exactly one %q: adapt this test", change[0])
		}
		cfg = strings.Replace(cfg, change[0], change[1], 1)
	}
	file := filepath.Join(t.TempDir(), "haproxy.cfg")
	writeFile(t, file, cfg)
	start(t, "haproxy", nil, program, "-db", "-f", file)

	c := client{proxy: addr}
	eventually(t, patience, func() string {
		a := c.connect(w.free.String())
		if a.reply != granted {
			return fmt.Sprintf("reply %d, %v", a.reply, a.err)
		}
		a.Close()
		return ""
	})
	held := c.ask(t, 8, w.limited.String())
	held.want(t, 5, notAllowed)
	used := 0
	for _, n := range w.sessions() {
		if n > 0 {
			used++
		}
	}
	if used != 2 {
		t.Errorf("%d replicas have sessions, want both", used)
	}
	held.close()
}
