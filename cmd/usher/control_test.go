package main

import (
	"strings"
	"syscall"
	"testing"
)

// reload prints its result, so that nobody needs the log.
func TestReloadCommand(t *testing.T) {
	t.Parallel()
	file := ruleFile(t, passLoopback)
	p := launch(t, "USHER_CONFIG="+file, "USHER_DRAIN_GRACE=10m")
	write(t, file, strings.Replace(passLoopback, "socks pass", "socks block", 1))
	if out, code := ask(t, p, "reload"); code != "0" || !strings.HasPrefix(out, "reloaded: "+file+", generation ") {
		t.Error(code, out)
	}
	if _, code := connect(t, p, webServer(t)); code != 2 {
		t.Error("the new rules are not in force: reply", code)
	}
	write(t, file, "nonsense\n\nmore\n")
	out, code := ask(t, p, "reload")
	if code != "1" || !strings.HasPrefix(out, "usher: reload failed, keeping the old rules:\n"+file+":1:1: ") || !strings.Contains(out, "\n"+file+":3:1: ") {
		t.Error(code, out)
	}
	p.signal(syscall.SIGTERM)
	p.eventually("/readyz", "draining")
	if out, code := ask(t, p, "reload"); code != "1" || !strings.Contains(out, "usher is draining") {
		t.Error(code, out)
	}
}

func TestStopCommand(t *testing.T) {
	t.Parallel()
	p := launch(t)
	if out, code := ask(t, p, "stop"); code != "0" || out != "draining\nstopped\n" {
		t.Error(code, out)
	}
	if code := p.exit(); code != 0 {
		t.Error("exit code", code)
	}
	if out, code := ask(t, p, "stop"); code != "1" || !strings.Contains(out, "cannot reach the admin listener") {
		t.Error(code, out)
	}
}

func TestReplicaHasAName(t *testing.T) {
	t.Parallel()
	p := launch(t, "USHER_REPLICA=web-1")
	if line := p.logged("usher starts"); line["replica"] != "web-1" {
		t.Error(line)
	}
	p.eventually("/status", `"replica": "web-1"`)
	p.eventually("/metrics", `usher_replica_info{replica="web-1"} 1`)
}
