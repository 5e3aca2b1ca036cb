package main

import (
	"os/exec"
	"strings"
	"syscall"
	"testing"
)

// ask runs a verb against p and returns what it printed and its exit code.
func ask(t *testing.T, p *process, args ...string) (string, string) {
	t.Helper()
	out, err := exec.Command("usher", append(args, "--admin", p.admin)...).CombinedOutput()
	if err != nil {
		return string(out), exitStatus(err)
	}
	return string(out), "0"
}

func TestProbeAndStatus(t *testing.T) {
	t.Parallel()
	p := launch(t, "USHER_DRAIN_GRACE=10m", "USHER_CONFIG="+ruleFile(t, strings.Replace(passLoopback, "maxsessions: 3", "maxsessions: 3\n rule.name: web", 1)))
	if out, code := ask(t, p, "probe"); out != "ready\n" || code != "0" {
		t.Error(code, out)
	}
	if out, code := ask(t, p, "probe", "--strict"); code != "0" {
		t.Error(code, out)
	}
	if out, code := ask(t, p, "probe", "--relayd"); code != "1" {
		t.Error(code, out)
	}
	connect(t, p, webServer(t))
	p.eventually("/metrics", `rule="web"} 1`)
	out, code := ask(t, p, "status")
	if code != "0" {
		t.Fatal(code, out)
	}
	for _, want := range []string{"ready          yes\n", "sessions here  1\n", p.socks, "memory, joined", "sockd.conf:3\n", "s1    web   g1-"} {
		if !strings.Contains(out, want) {
			t.Errorf("status lacks %q:\n%s", want, out)
		}
	}
	if out, _ := ask(t, p, "status", "--json"); !strings.HasPrefix(out, "{\n") {
		t.Error(out)
	}
	p.signal(syscall.SIGTERM)
	p.eventually("/readyz", "draining")
	if out, code := ask(t, p, "probe"); code != "1" || !strings.Contains(out, "draining") {
		t.Error(code, out)
	}
	if out, code := ask(t, p, "probe", "--relayd"); code != "0" {
		t.Error(code, out)
	}
}
