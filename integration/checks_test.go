package integration

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"usher/deploy/need"
)

// TestChecksOfEachKindAreFree lets HAProxy check one replica in each way that only
// connects: with both versions of the PROXY header, and without one from an address
// that is trusted and from one that is not. (With linger: HAProxy resets other checks
// without a header before they are accepted.) The client-rule has a slot and a rate for
// one client: after a few checks of each kind it gets in.
func TestChecksOfEachKindAreFree(t *testing.T) {
	haproxy := need.Program(t, "haproxy")
	kinds := map[string]string{
		"127.0.7.1": "check-send-proxy send-proxy",
		"127.0.7.2": "check-send-proxy send-proxy-v2",
		"127.0.7.3": "\n option tcp-check\n tcp-check connect linger", // trusted
		"127.0.7.4": "\n option tcp-check\n tcp-check connect linger",
	}
	w := newWorld(t, options{replicas: 1, alone: true, rules: func(limited, _ endpoint) string {
		return "client pass { from: 0/0 to: 0/0\n session.max: 1\n session.throttle: 1/3600 }\nsocks pass { from: 0/0 to: " + limited.to() + " }\n"
	}, env: map[string]string{
		"USHER_PROXY_PROTOCOL_FROM": "127.0.7.1,127.0.7.2,127.0.7.3", "USHER_LOG_LEVEL": "debug", "USHER_LOG_BUDGET": "0",
	}})
	r := w.replicas[0]
	cfg := "defaults\n mode tcp\n timeout connect 2s\n timeout client 1m\n timeout server 1m\n" +
		"frontend none\n bind " + fmt.Sprintf("127.0.0.1:%d", need.Port(t)) + "\n" // HAProxy does not start without one
	for source, how := range kinds {
		cfg += fmt.Sprintf("backend from-%s\n server r %s source %s check inter 20ms %s\n", source, r.socks, source, how)
	}
	file := filepath.Join(t.TempDir(), "haproxy.cfg")
	writeFile(t, file, cfg)
	start(t, "haproxy", nil, haproxy, "-db", "-f", file)
	eventually(t, patience, func() string {
		out := r.proc.out.String()
		for source := range kinds {
			checks := 0
			for line := range strings.Lines(out) {
				if strings.Contains(line, `"msg":"health check"`) && strings.Contains(line, `"client":"`+source+`:`) {
					checks++
				}
			}
			if checks < 3 {
				return fmt.Sprintf("%d health checks from %s (%s)", checks, source, kinds[source])
			}
		}
		return ""
	})
	for line := range strings.Lines(r.proc.out.String()) {
		if strings.Contains(line, "127.0.7.") && strings.Contains(line, `"msg":"session`) {
			t.Errorf("a health check is a session: %s", line)
		}
	}
	m := r.metrics(t)
	if checks, refused := m.sum("usher_health_checks_total"), m.sum("usher_sessions_rejected_total"); checks < 12 || refused != 0 {
		t.Errorf("%v health checks and %v refused sessions are counted, want 12 or more, and none", checks, refused)
	}
	a := (client{proxy: r.socks}).connect(w.limited.String())
	if a.reply != granted {
		t.Fatalf("the one client of the rate gets reply %d: %v", a.reply, a.err)
	}
	a.Close()
}

// TestForgottenBalancerIsNamed puts HAProxy before a replica that does not know it and
// blocks its address: the log says that it is a balancer, and what to set.
func TestForgottenBalancerIsNamed(t *testing.T) {
	haproxy := need.Program(t, "haproxy")
	w := newWorld(t, options{replicas: 1, alone: true, rules: func(limited, _ endpoint) string {
		return "client pass { from: 192.0.2.0/24 to: 0/0 }\nsocks pass { from: 0/0 to: " + limited.to() + " }\n"
	}, env: map[string]string{"USHER_PROXY_PROTOCOL_FROM": ""}})
	r := w.replicas[0]
	file := filepath.Join(t.TempDir(), "haproxy.cfg")
	writeFile(t, file, "defaults\n mode tcp\n timeout connect 2s\n timeout client 1m\n timeout server 1m\n"+
		"listen socks\n bind "+fmt.Sprintf("127.0.0.1:%d", need.Port(t))+"\n server r "+r.socks+" send-proxy-v2 check inter 50ms\n")
	start(t, "haproxy", nil, haproxy, "-db", "-f", file)
	eventually(t, patience, func() string {
		if !strings.Contains(r.proc.out.String(), "it sent a PROXY header; if it is a balancer, add it to USHER_PROXY_PROTOCOL_FROM") {
			return "the log does not name the balancer"
		}
		return ""
	})
}
