package main

import (
	"io"
	"net"
	"strings"
	"syscall"
	"testing"

	"usher/deploy/need"
)

// agentSays returns the answer of the agent listener.
func agentSays(t *testing.T, p *process) string {
	t.Helper()
	c, err := net.Dial("tcp", p.logged("agent listener open")["address"].(string))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	line, err := io.ReadAll(c)
	if err != nil {
		t.Fatal(err)
	}
	return string(line)
}

// TestDrainAndUndrain drains a process, which stays and keeps its session, and takes
// it back.
func TestDrainAndUndrain(t *testing.T) {
	t.Parallel()
	p := launch(t, "USHER_AGENT_LISTEN=127.0.0.1:0", "USHER_DRAIN_TIMEOUT=0s")
	target := webServer(t)
	held, code := connect(t, p, target)
	if code != 0 {
		t.Fatal("reply", code)
	}
	for range 2 { // it can be repeated, and is the same if it is said twice
		for range 2 {
			if out, code := ask(t, p, "drain"); code != "0" || out != "drained: 1 sessions\n" {
				t.Fatal(code, out)
			}
		}
		if code, body := p.get("/readyz"); code != 503 || !strings.Contains(body, "until usher undrain") {
			t.Error(code, body)
		}
		if line := agentSays(t, p); line != "drain\n" {
			t.Errorf("the agent says %q", line)
		}
		p.eventually("/status", `"listen": []`)
		if c, err := net.Dial("tcp", p.socks); err == nil {
			c.Close()
			t.Error("a drained process listens")
		}
		if out, code := ask(t, p, "upgrade"); code != "1" {
			t.Error(code, out)
		}
		for range 2 {
			if out, code := ask(t, p, "undrain"); code != "0" || out != "undrained\n" {
				t.Fatal(code, out)
			}
		}
		if line := agentSays(t, p); !strings.HasPrefix(line, "up ready ") {
			t.Errorf("the agent says %q", line)
		}
		if code := replyTo(t, p, target); code != 0 {
			t.Error("after undrain: reply", code)
		}
		p.eventually("/status", `"sessions": 1,`)
	}
	if !relays(held) {
		t.Error("a session was cut")
	}
	held.Close()
	if out, code := ask(t, p, "drain", "--wait"); code != "0" || out != "drained: 0 sessions\n" {
		t.Error(code, out)
	}
	p.signal(syscall.SIGTERM)
	if code := p.exit(); code != 0 {
		t.Error("exit code", code)
	}
}

// inOneLine returns JSON without its blanks.
func inOneLine(text string) string { return strings.Join(strings.Fields(text), "") }

// TestUndrainWithinTheGrace finds listeners that were never closed.
func TestUndrainWithinTheGrace(t *testing.T) {
	t.Parallel()
	p := launch(t, "USHER_DRAIN_GRACE=10m")
	target := webServer(t)
	out, code := ask(t, p, "drain", "--json")
	if want := `{"drained":true,"sessions":0,"ready":false,"reason":"`; code != "0" || !strings.HasPrefix(inOneLine(out), want) {
		t.Fatal(code, out)
	}
	if code := replyTo(t, p, target); code != 0 {
		t.Error("within the grace: reply", code)
	}
	out, code = ask(t, p, "undrain", "--json")
	if want := `{"drained":false,"sessions":0,"ready":true}`; code != "0" || inOneLine(out) != want {
		t.Fatal(code, out)
	}
	if code := replyTo(t, p, target); code != 0 {
		t.Error("after undrain: reply", code)
	}
}

// TestDrainWhileWaitingForRules: a process that has no rules yet is drained at once and
// taken back, is not upgraded, and stays drained when there are rules.
func TestDrainWhileWaitingForRules(t *testing.T) {
	need.Seconds(t)
	t.Parallel()
	c := newCluster(t)
	p := c.replica("web1", "USHER_AGENT_LISTEN=127.0.0.1:0", "USHER_DRAIN_GRACE=10m")
	p.admin = p.logged("admin listener open")["address"].(string)
	p.eventually("/readyz", "usher apply")
	for range 2 {
		if out, code := ask(t, p, "drain", "--wait"); code != "0" || out != "drained: 0 sessions\n" {
			t.Fatal(code, out)
		}
		if line := agentSays(t, p); line != "drain\n" {
			t.Errorf("the agent says %q", line)
		}
		if out, code := ask(t, p, "undrain"); code != "0" || !strings.Contains(out, "undrained; not ready: no rules yet") {
			t.Fatal(code, out)
		}
	}
	if out, code := ask(t, p, "upgrade"); code != "1" || !strings.Contains(out, "restart it instead") {
		t.Error(code, out)
	}
	if out, code := ask(t, p, "drain"); code != "0" {
		t.Fatal(code, out)
	}
	c.verb(0, nil, "apply", c.file("sockd.conf", rulesFor(3)))
	p.serving(2)
	p.eventually("/readyz", "until usher undrain")
	p.eventually("/status", `"listen": []`)
	if out, code := ask(t, p, "undrain"); code != "0" || !strings.HasPrefix(out, "undrained") {
		t.Fatal(code, out)
	}
	p.eventually("/readyz", `"ready": true`)
	if code := replyTo(t, p, webServer(t)); code != 0 {
		t.Error("after undrain: reply", code)
	}
}

// TestUndrainFails keeps a process drained whose port has been taken.
func TestUndrainFails(t *testing.T) {
	t.Parallel()
	p := launch(t)
	if out, code := ask(t, p, "drain", "--wait"); code != "0" {
		t.Fatal(code, out)
	}
	thief, err := net.Listen("tcp", p.socks)
	if err != nil {
		t.Fatal(err)
	}
	if out, code := ask(t, p, "undrain"); code != "1" || !strings.Contains(out, "still drained: cannot listen at "+p.socks) {
		t.Error(code, out)
	}
	p.logged("undrain failed, still drained")
	thief.Close()
	if out, code := ask(t, p, "undrain"); code != "0" {
		t.Error(code, out)
	}
	if code := replyTo(t, p, webServer(t)); code != 0 {
		t.Error("reply", code)
	}
}
