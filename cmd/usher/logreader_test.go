package main

import (
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"usher/deploy/need"
	"usher/store/redisstore/redistest"
)

// launchInto starts usher serve with a pipe as its log and returns the reading
// end. Its addresses are free ports, as nobody reads the log to learn them.
func launchInto(t *testing.T, env ...string) (*process, *os.File) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	p := &process{t: t, cmd: exec.Command("usher"), ended: make(chan struct{}), socks: freeAddr(t), admin: freeAddr(t)}
	p.cmd.Env = append(append(os.Environ(), "USHER_LISTEN="+p.socks, "USHER_ADMIN_LISTEN="+p.admin, "USHER_DRAIN_GRACE=0s",
		"USHER_LOG_BUDGET=0", "USHER_LOG_SESSIONS=0"), env...)
	p.cmd.Stderr = w
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	w.Close()
	go func() {
		defer close(p.ended)
		p.cmd.Wait() //nolint:errcheck // exit reads the state
	}()
	t.Cleanup(func() {
		p.cmd.Process.Kill() //nolint:errcheck // it may have ended
		<-p.ended
		r.Close()
	})
	redistest.Eventually(t, patience, "usher listens", func() bool {
		c, err := net.Dial("tcp", p.admin)
		if err == nil {
			c.Close()
		}
		return err == nil
	})
	p.eventually("/readyz", `"ready": true`)
	return p, r
}

func freeAddr(t *testing.T) string {
	t.Helper()
	return fmt.Sprintf("127.0.0.1:%d", need.Port(t))
}

// talk checks that a session relays.
func talk(t *testing.T, p *process, target string) {
	t.Helper()
	c, code := connect(t, p, target)
	defer c.Close()
	if code != 0 {
		t.Fatal("reply", code)
	}
	if _, err := io.WriteString(c, "GET / HTTP/1.0\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	if body, err := io.ReadAll(c); err != nil || !strings.HasSuffix(string(body), "hello") {
		t.Fatalf("%v %s", err, body)
	}
}

// If the program that reads the log dies, lines are lost, and nothing else.
func TestLogReaderDies(t *testing.T) {
	t.Parallel()
	p, r := launchInto(t)
	target := webServer(t)
	held, _ := connect(t, p, target)
	r.Close()
	for range 3 {
		talk(t, p, target)
	}
	p.eventually("/metrics", `usher_log_lines_dropped_total{reason="unwritten"} 3`)
	p.signal(syscall.SIGHUP)
	p.signal(syscall.SIGTERM)
	p.eventually("/readyz", "draining")
	if _, err := io.WriteString(held, "GET / HTTP/1.0\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	if body, err := io.ReadAll(held); err != nil || !strings.HasSuffix(string(body), "hello") {
		t.Errorf("the session was cut: %v %s", err, body)
	}
	held.Close()
	if code := p.exit(); code != 0 {
		t.Error("exit code", code)
	}
}

// A log reader that stalls with a full pipe delays no session, reload or stop.
func TestLogReaderStalls(t *testing.T) {
	t.Parallel()
	pass := strings.Replace(passLoopback, "maxsessions: 3", "", 1)
	file := ruleFile(t, pass)
	p, r := launchInto(t, "USHER_CONFIG="+file)
	target := webServer(t)
	// Fill the pipe: its capacity is 64 KiB at most without a request for more.
	for range 200 {
		talk(t, p, target)
	}
	p.eventually("/metrics", "usher_sessions_admitted_total{command=\"connect\",rule=\"s:d7f21de3\"} 200\n")
	p.eventually("/status", `"sessions": 0`)
	write(t, file, strings.Replace(pass, "socks pass", "socks block", 1))
	p.signal(syscall.SIGHUP)
	redistest.Eventually(t, patience, "the new rules are in force", func() bool {
		c, code := connect(t, p, target)
		c.Close()
		return code == 2
	})
	p.signal(syscall.SIGTERM)
	if code := p.exit(); code != 0 {
		t.Error("exit code", code)
	}
	if text, err := io.ReadAll(r); err != nil || len(text) < 60_000 || !strings.Contains(string(text), "usher starts") {
		t.Errorf("the pipe was not full: %d bytes, %v", len(text), err)
	}
}

// A failed start ends, even if nobody reads why.
func TestFailureThatNobodyReads(t *testing.T) {
	t.Parallel()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	fd := int(w.Fd())
	if err := syscall.SetNonblock(fd, true); err != nil {
		t.Fatal(err)
	}
	for err == nil {
		_, err = syscall.Write(fd, make([]byte, 4096))
	}
	if err := syscall.SetNonblock(fd, false); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), "usher", "validate", filepath.Join(t.TempDir(), "missing"))
	cmd.Stderr = w
	if err := cmd.Run(); err == nil || exitStatus(err) != "1" {
		t.Error(err)
	}
}
