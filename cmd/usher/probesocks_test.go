package main

import (
	"encoding/json"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"usher/cmd/usher/internal/probe"
)

// probeSocks runs usher probe --socks and returns what it printed and its exit code.
func probeSocks(t *testing.T, server string, args ...string) (string, string) {
	t.Helper()
	out, err := exec.Command("usher", append([]string{"probe", "--timeout=30s", "--socks", server}, args...)...).CombinedOutput()
	if err != nil {
		return string(out), exitStatus(err)
	}
	return string(out), "0"
}

// TestProbeForwarding probes a running usher by every version and command.
func TestProbeForwarding(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	hash := "$2b$05$abcdefghijklmnopqrstuutXu9KzOt.1yBoZUeFWoT/914/JfszCO" // of open-sesame
	open := launch(t)
	closed := launch(t, "USHER_USERS_FILE="+write(t, filepath.Join(dir, "users"), "monica:"+hash+"\n"),
		"USHER_CONFIG="+ruleFile(t, "socksmethod: username\nclient pass {\n from: 0/0 to: 0/0\n}\npass {\n from: 0/0 to: 0/0\n session.max: 2\n}\n"))
	right := "--password-file=" + write(t, filepath.Join(dir, "right"), "open-sesame\n")
	wrong := "--password-file=" + write(t, filepath.Join(dir, "wrong"), "sesame\n")
	for _, c := range []struct {
		server, args, code, want string
	}{
		{open.socks, "", "0", "^up: 127.0.0.1:\\d+ forwards\n$"},
		{open.socks, "--socks-version=4", "0", "^up"},
		{open.socks, "--socks-version=4a", "0", "^up"},
		{open.socks, "--command=bind", "0", "^up"},
		{open.socks, "--command=bind --socks-version=4", "0", "^up"},
		{open.socks, "--udp", "0", "^up"},
		{open.socks, "--count=30 --bind=127.0.0.7", "0", "^up"},
		{open.socks, "--count=30 --udp", "0", "^up"},
		{open.socks, "--target=" + open.admin, "1", "refused: reply 2, not allowed by the rules\n$"}, // its own listener
		{open.socks, "--quiet", "0", "^$"},
		{open.socks, "--relayd", "1", "^up"},
		{open.socks, "--nagios", "0", `^USHER OK - 127.0.0.1:\d+ forwards \| connect=0\.\d{3}s greeting=\d+\.\d{3}s request=.*data=.*total=\d+\.\d{3}s` + "\n$"},
		{closed.socks, "", "1", "^down: method: the server does not accept clients without a password\n$"},
		{closed.socks, "--relayd", "0", "^down"},
		{closed.socks, "--nagios", "2", `^USHER CRITICAL - method: .* \| connect=`},
		{closed.socks, "--user=monica " + right, "0", "^up"},
		{closed.socks, "--user=monica " + wrong, "1", "^down: password: the server rejected the password of \"monica\"\n$"},
		{"127.9.9.9:1", "", "1", "^down: not reachable: "},
		{"127.9.9.9:1", "--quiet", "1", "^$"},
	} {
		out, code := probeSocks(t, c.server, strings.Fields(c.args)...)
		if code != c.code || !regexp.MustCompile(c.want).MatchString(out) {
			t.Errorf("%s: exit code %s: %s", c.args, code, out)
		}
	}
	out, code := probeSocks(t, closed.socks, "--json")
	var got probe.Result
	if err := json.Unmarshal([]byte(out), &got); err != nil || code != "1" {
		t.Fatal(code, err, out)
	}
	if got.Up || got.Failed != probe.Method || len(got.Sessions) != 1 || len(got.Sessions[0]) != 2 || got.Sessions[0][1].Error != got.Reason {
		t.Errorf("%+v", got)
	}
}

// TestProbeMeetsTheLimit shows that the sessions of a probe are sessions like any other.
func TestProbeMeetsTheLimit(t *testing.T) {
	t.Parallel()
	p := launch(t, "USHER_CONFIG="+ruleFile(t, "client pass {\n from: 0/0 to: 0/0\n}\npass {\n from: 0/0 to: 0/0\n session.max: 2\n}\n"))
	p.eventually("/readyz", `"ready": true`)
	if out, code := probeSocks(t, p.socks, "--count=2"); code != "0" {
		t.Error(code, out)
	}
	p.eventually("/status", `"sessions": 0`)
	if out, code := probeSocks(t, p.socks, "--count=3"); code != "1" || !strings.Contains(out, "(1 of 3 sessions failed)") {
		t.Error(code, out)
	}
}
