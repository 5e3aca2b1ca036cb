package main

import (
	"syscall"
	"testing"
)

// SIGUSR1 writes the sessions to the log, also while the process drains.
func TestSessionsAreListed(t *testing.T) {
	p := launch(t, "USHER_CONFIG="+ruleFile(t, passLoopback), "USHER_DRAIN_TIMEOUT=1h")
	p.signal(syscall.SIGUSR1)
	if line := p.logged("sessions listed"); line["sessions"] != 0.0 {
		t.Errorf("without a session: %v", line)
	}
	target := webServer(t)
	c, code := connect(t, p, target)
	if code != 0 {
		t.Fatal("reply", code)
	}
	p.signal(syscall.SIGUSR1)
	if line := p.loggedTimes("sessions listed", 2); line["sessions"] != 1.0 || line["listed"] != 1.0 {
		t.Errorf("with a session: %v", line)
	}
	if line := p.logged("session running"); line["target"] != target || line["rule"] != "s1" || line["command"] != "connect" {
		t.Errorf("session: %v", line)
	}
	p.signal(syscall.SIGTERM)
	p.logged("draining")
	p.signal(syscall.SIGUSR1)
	if line := p.loggedTimes("sessions listed", 3); line["sessions"] != 1.0 {
		t.Errorf("while it drains: %v", line)
	}
	c.Close()
	if code := p.exit(); code != 0 {
		t.Errorf("exit code %d", code)
	}
}
