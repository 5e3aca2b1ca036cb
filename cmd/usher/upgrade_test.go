package main

import (
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"usher/cmd/usher/internal/control"
	"usher/deploy/need"
	"usher/store/redisstore/redistest"
)

// launchUpgradable is launch, and ends the processes that have taken over as well.
func launchUpgradable(t *testing.T, env ...string) *process {
	t.Helper()
	p := launch(t, env...)
	endSuccessors(t, p)
	return p
}

// endSuccessors ends the processes that have taken over from p when the test ends.
func endSuccessors(t *testing.T, p *process) {
	t.Helper()
	t.Cleanup(func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		for _, line := range p.lines {
			if pid, ok := line["process"].(float64); ok && line["msg"] == "usher starts" && int(pid) != p.cmd.Process.Pid {
				syscall.Kill(int(pid), syscall.SIGKILL) //nolint:errcheck // it may have ended
			}
		}
	})
}

// descriptors returns what the descriptors of a process refer to, such as
// socket:[4711].
func descriptors(t *testing.T, pid int) (list []string) {
	t.Helper()
	dir := fmt.Sprintf("/proc/%d/fd", pid)
	names, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range names {
		if what, err := os.Readlink(filepath.Join(dir, n.Name())); err == nil { // it may be closed by now
			list = append(list, what)
		}
	}
	return list
}

// relays reports whether a session of connect to webServer still works.
func relays(c net.Conn) bool {
	if _, err := io.WriteString(c, "GET / HTTP/1.0\r\n\r\n"); err != nil {
		return false
	}
	body, err := io.ReadAll(c)
	return err == nil && strings.HasSuffix(string(body), "hello")
}

func gone(t *testing.T, pid int) {
	t.Helper()
	redistest.Eventually(t, patience, "the old process ends", func() bool { return !control.Running(pid) })
}

// TestUpgrade replaces a process twice while it has sessions. The limit of three holds
// over all of them, none is cut, and the new process has the listeners of the old one
// and none of its other descriptors.
func TestUpgrade(t *testing.T) {
	t.Parallel()
	p := launchUpgradable(t, "USHER_STORE="+redistest.Start(t).URL(), "USHER_CONFIG="+ruleFile(t, passLoopback),
		"USHER_AGENT_LISTEN=127.0.0.1:0", "USHER_LEASE_TTL=2s", "USHER_DRAIN_TIMEOUT=10m", "USHER_UPGRADE_TIMEOUT=5m")
	p.eventually("/readyz", `"ready": true`)
	target := webServer(t)
	pids := []int{p.cmd.Process.Pid}
	var held []net.Conn
	for range 2 {
		c, code := connect(t, p, target)
		if code != 0 {
			t.Fatal("reply", code)
		}
		held = append(held, c)
		before := descriptors(t, pids[len(pids)-1])
		out, code2 := ask(t, p, "upgrade", "--timeout", "5m")
		if code2 != "0" || !strings.HasPrefix(out, "upgraded: process ") {
			t.Fatal(code2, out)
		}
		pid := int(p.loggedTimes("ready, taking over from the process before", len(pids))["process_before"].(float64))
		if pid != pids[len(pids)-1] {
			t.Errorf("process %d was replaced, want %d", pid, pids[len(pids)-1])
		}
		pids = append(pids, int(p.loggedTimes("handed over to the new process", len(pids))["new_process"].(float64)))
		wantOnlyListeners(t, before, descriptors(t, pids[len(pids)-1]))
	}
	p.eventually("/status", fmt.Sprintf(`"pid": %d,`, pids[2]))
	if c, code := connect(t, p, target); code != 0 {
		t.Error("the third session is refused: reply", code)
	} else {
		held = append(held, c)
	}
	if _, code := connect(t, p, target); code != 2 {
		t.Error("the fourth of three sessions: reply", code)
	}
	p.signal(syscall.SIGHUP) // the first process passes it on to the second, and that to the third
	p.logged("reloaded")
	for _, c := range held {
		if !relays(c) {
			t.Error("a session was cut")
		}
		c.Close()
	}
	gone(t, pids[0])
	gone(t, pids[1])
	if out, code := ask(t, p, "stop"); code != "0" {
		t.Error(code, out)
	}
	p.loggedTimes("stopped", 3)
}

// wantOnlyListeners checks that a new process shares three listeners with the old one,
// and nothing else except what both have from this test, such as the standard
// descriptors.
func wantOnlyListeners(t *testing.T, old, now []string) {
	t.Helper()
	mine := descriptors(t, os.Getpid())
	shared := map[string]bool{}
	for _, what := range now {
		unique := strings.HasPrefix(what, "socket:") || strings.HasPrefix(what, "pipe:")
		if unique && slices.Contains(old, what) && !slices.Contains(mine, what) {
			shared[what] = true
		}
	}
	if len(shared) != 3 {
		t.Errorf("the new process has %v in common with the old one, want three listeners; the old one had %v", shared, old)
	}
}

// TestUpgradeFails checks that the answer of the command and the log say why an upgrade
// failed, and that the old process continues.
func TestUpgradeFails(t *testing.T) {
	need.Seconds(t)
	t.Parallel()
	store := redistest.Start(t)
	file := ruleFile(t, passLoopback)
	// The new process cannot be ready while the store is away, for two TTL.
	env := []string{"USHER_STORE=" + store.URL(), "USHER_CONFIG=" + file, "USHER_LEASE_TTL=10m"}
	patient := launchUpgradable(t, append(env, "USHER_UPGRADE_TIMEOUT=5m")...)
	hasty := launchUpgradable(t, append(env, "USHER_UPGRADE_TIMEOUT=8s")...)
	store.Kill()
	fails := func(p *process, want ...string) {
		t.Helper()
		out, code := ask(t, p, "upgrade", "--timeout", "5m")
		line := fmt.Sprint(p.logged("upgrade failed, this process goes on")["error"])
		for _, w := range want {
			if code != "1" || !strings.Contains(out, w) || !strings.Contains(line, w) {
				t.Errorf("want %q, got %s\n%s\nand in the log %s", w, code, out, line)
			}
		}
		p.eventually("/status", fmt.Sprintf(`"pid": %d,`, p.cmd.Process.Pid))
	}
	fails(hasty, "was not ready: 8s have passed; it said: waiting for the store")
	write(t, file, passLoopback+"nonsense\n")
	fails(patient, file+":4:1", "exit status 1")
}

// replyTo is connect for a session that need not be kept.
func replyTo(t *testing.T, p *process, target string) byte {
	t.Helper()
	c, code := connect(t, p, target)
	c.Close()
	return code
}

func TestUpgradeRefused(t *testing.T) {
	t.Parallel()
	p := launchUpgradable(t)
	if out, code := ask(t, p, "upgrade"); code != "1" || !strings.Contains(out, "USHER_STORE=memory counts in one process") {
		t.Error(code, out)
	}
	p.logged("upgrade refused")
	p.eventually("/readyz", `"ready": true`)
}

// TestStopWhileUpgrading ends both processes.
func TestStopWhileUpgrading(t *testing.T) {
	need.Seconds(t)
	t.Parallel()
	store := redistest.Start(t)
	p := launchUpgradable(t, "USHER_STORE="+store.URL(), "USHER_CONFIG="+ruleFile(t, passLoopback), "USHER_LEASE_TTL=10m", "USHER_UPGRADE_TIMEOUT=10m")
	store.Kill() // the new process will wait
	p.signal(syscall.SIGUSR2)
	p.loggedTimes("usher starts", 2)
	p.signal(syscall.SIGUSR2)
	p.logged("upgrade ignored, one is running")
	p.signal(syscall.SIGHUP) // for the process that serves afterwards
	p.signal(syscall.SIGTERM)
	p.logged("stopped")
	if code := p.exit(); code != 0 { // it waits for both, as they share the log
		t.Error("exit code", code)
	}
}
