package main

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"

	"usher/deploy/need"
)

// askDeaf runs a verb with --pid, in its own environment.
func askDeaf(t *testing.T, env []string, pid int, args ...string) (out, code string) {
	t.Helper()
	cmd := exec.Command("usher", append(args, fmt.Sprint("--pid=", pid))...)
	cmd.Env = append(os.Environ(), env...)
	text, err := cmd.CombinedOutput()
	if err != nil {
		return string(text), exitStatus(err)
	}
	return string(text), "0"
}

// TestControlWithoutAdmin: with --pid, a command sends its signal even if it cannot
// learn the result, and reports this with its own exit code.
func TestControlWithoutAdmin(t *testing.T) {
	need.Seconds(t)
	t.Parallel()
	p := launchOnly(t, exec.Command("usher"), "USHER_CONFIG="+ruleFile(t, passLoopback), "USHER_ADMIN_LISTEN=off")
	p.logged("listening for SOCKS clients")
	other := launch(t)
	pid := p.cmd.Process.Pid
	reloads := 0
	for _, c := range []struct {
		what, why string
		env       []string
	}{
		{"off", "USHER_ADMIN_LISTEN is off", []string{"USHER_ADMIN_LISTEN=off"}},
		{"another port", "cannot reach the admin listener", []string{"USHER_ADMIN_LISTEN=" + nobody(t)}},
		{"silent", "cannot reach the admin listener", []string{"USHER_ADMIN_LISTEN=" + saying(t, 0, "")}},
		{"another usher", fmt.Sprint("belongs to process ", other.cmd.Process.Pid), []string{"USHER_ADMIN_LISTEN=" + other.admin}},
		{"a mistake in the environment", "USHER_LEASE_TTL", []string{"USHER_LEASE_TTL=soon"}},
	} {
		out, code := askDeaf(t, c.env, pid, "reload")
		if code != "4" || !strings.Contains(out, "the signal was sent") || !strings.Contains(out, c.why) {
			t.Errorf("%s: exit code %s: %s", c.what, code, out)
		}
		reloads++
		p.loggedTimes("reloaded", reloads)
	}
	off := []string{"USHER_ADMIN_LISTEN=off"}
	for _, c := range []struct{ verb, logged string }{
		{"drain", "draining until undrain"}, {"undrain", "undrained, new sessions again"}, {"upgrade", "upgrade refused"},
	} {
		if out, code := askDeaf(t, off, pid, c.verb); code != "4" || !strings.Contains(out, "the signal was sent") {
			t.Errorf("%s: exit code %s: %s", c.verb, code, out)
		}
		p.logged(c.logged)
	}
	if out, code := askDeaf(t, off, pid, "stop"); code != "0" || out != "draining\nstopped\n" {
		t.Errorf("stop: exit code %s: %s", code, out)
	}
	if out, code := askDeaf(t, off, pid, "reload"); code != "1" || !strings.Contains(out, "there is no process") {
		t.Errorf("nobody: exit code %s: %s", code, out)
	}
}

// With --pid and its admin listener, a command tells the result.
func TestReloadByNumber(t *testing.T) {
	t.Parallel()
	file := ruleFile(t, passLoopback)
	p := launch(t, "USHER_CONFIG="+file)
	env := []string{"USHER_ADMIN_LISTEN=" + p.admin}
	if out, code := askDeaf(t, env, p.cmd.Process.Pid, "reload"); code != "0" || !strings.HasPrefix(out, "reloaded: ") {
		t.Errorf("exit code %s: %s", code, out)
	}
	write(t, file, "nonsense\n")
	if out, code := askDeaf(t, env, p.cmd.Process.Pid, "reload"); code != "1" || !strings.Contains(out, file+":1:1: ") {
		t.Errorf("exit code %s: %s", code, out)
	}
}

// For kill, a negative number means many processes.
func TestNoSignalToManyProcesses(t *testing.T) {
	t.Parallel()
	p := launch(t)
	for _, verb := range []string{"reload", "drain", "undrain", "upgrade", "stop"} {
		if out, code := askDeaf(t, nil, -p.cmd.Process.Pid, verb); code != "2" || !strings.Contains(out, "not the number of a process") {
			t.Errorf("%s: exit code %s: %s", verb, code, out)
		}
	}
}
