package main

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"usher/deploy/need"
)

const relaydFiles = top + "/deploy/relayd/"

// replaced returns a shipped file with changes. Each replaces a text that must occur
// once.
func replaced(t *testing.T, file string, changes ...string) string {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	changed := string(text)
	for i := 0; i < len(changes); i += 2 {
		if strings.Count(changed, changes[i]) != 1 {
			t.Fatalf("%s has not exactly one %q: adapt this test", file, changes[i])
		}
		changed = strings.Replace(changed, changes[i], changes[i+1], 1)
	}
	return changed
}

// checkScript writes the shipped check script with the settings of this test.
func checkScript(t *testing.T, address, usher, limit string) string {
	t.Helper()
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		t.Fatal(err)
	}
	return write(t, filepath.Join(t.TempDir(), "relaydsockdcheck.sh"), replaced(t, relaydFiles+"relaydsockdcheck.sh",
		"SOCKSPORT=1080 ", "SOCKSPORT="+port+" ", "USHER=/usr/local/bin/usher", "USHER="+usher, "PROBETIME=2s ", "PROBETIME="+limit+" "))
}

// shells are programs that are /bin/sh on common systems.
func shells(t *testing.T) map[string][]string {
	return map[string][]string{
		"dash":       {need.Program(t, "dash")},
		"bash":       {need.Program(t, "bash")},
		"bash as sh": {need.Program(t, "bash"), "--posix"},
		"busybox":    {need.Program(t, "busybox"), "sh"},
	}
}

// asRelayd runs a check script as relayd does and returns how it ended.
func asRelayd(t *testing.T, shell []string, script string, host ...string) (exit, output string) {
	t.Helper()
	cmd := exec.Command(shell[0], append(append(shell[1:len(shell):len(shell)], script), host...)...)
	cmd.Dir, cmd.Env = "/", []string{}
	out, err := cmd.CombinedOutput()
	if err != nil {
		return exitStatus(err), string(out)
	}
	return "0", string(out)
}

// saying serves connections: it reads n bytes, answers, and keeps them open.
func saying(t *testing.T, n int64, answer string) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var running sync.WaitGroup
	running.Go(func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			running.Go(func() {
				defer conn.Close()
				if _, err := io.CopyN(io.Discard, conn, n); err == nil {
					io.WriteString(conn, answer) //nolint:errcheck // the client would tell
					io.Copy(io.Discard, conn)    //nolint:errcheck // it waits for the end
				}
			})
		}
	})
	t.Cleanup(func() { ln.Close(); running.Wait() })
	return ln.Addr().String()
}

func nobody(t *testing.T) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	return ln.Addr().String()
}

// TestRelaydCheckScript holds the check script to relayd's contract: above 0 is up,
// 0 is down, whatever the shell.
func TestRelaydCheckScript(t *testing.T) {
	need.Seconds(t)
	t.Parallel()
	program, err := exec.LookPath("usher")
	if err != nil {
		t.Fatal(err)
	}
	healthy := launch(t)
	refusing := launch(t, "USHER_CONFIG="+ruleFile(t, "socksmethod: none\nclient pass {\n from: 0/0 to: 0/0\n}\nsocks block {\n from: 0/0 to: 0/0\n}\n"))
	// It greets and passes the request, but leaves from ::1 only, which does not reach IPv4.
	cannotForward := launch(t, "USHER_CONFIG="+ruleFile(t, "socksmethod: none\nexternal: ::1\nclient pass {\n from: 0/0 to: 0/0\n}\n"+
		"socks pass {\n from: 0/0 to: 0/0\n command: connect\n}\n"))
	for _, c := range []struct{ name, address, usher, want string }{
		{"healthy", healthy.socks, program, "1"},
		{"dead", nobody(t), program, "0"},
		{"silent", saying(t, 0, ""), program, "0"},
		{"refusing", refusing.socks, program, "0"},
		{"greets only", saying(t, 3, "\x05\x00"), program, "0"},
		{"grants only", saying(t, 3, "\x05\x00\x05\x00\x00\x01\x7f\x00\x00\x01\x00\x01"), program, "0"},
		{"cannot forward", cannotForward.socks, program, "0"},
		{"no usher here", healthy.socks, "/nowhere/usher", "0"},
		{"usher that fails", healthy.socks, "/bin/false", "0"},
		{"usher that says nothing", healthy.socks, "/bin/true", "0"},
	} {
		limit := "30s"
		if c.name == "silent" || c.name == "greets only" || c.name == "grants only" {
			limit = "300ms"
		}
		script := checkScript(t, c.address, c.usher, limit)
		for name, shell := range shells(t) {
			if got, out := asRelayd(t, shell, script, "127.0.0.1"); got != c.want {
				t.Errorf("%s under %s: %s, want %s\n%s", c.name, name, got, c.want, out)
			}
			if got, out := asRelayd(t, shell, script); got != "0" {
				t.Errorf("without a host under %s: %s\n%s", name, got, out)
			}
			// So little address space that Go's runtime dies at its start, with exit code 2.
			if got, out := asRelayd(t, append([]string{"sh", "-c", `ulimit -v 30000; exec "$@"`, "sh"}, shell...), script, "127.0.0.1"); got != "0" {
				t.Errorf("%s without memory under %s: %s\n%s", c.name, name, got, out)
			}
		}
	}
}

// relayd kills a script that takes too long. Nothing of it may remain: the probe ends
// by its own time limit, and closes its output.
func TestRelaydKillsTheCheckScript(t *testing.T) {
	t.Parallel()
	program, err := exec.LookPath("usher")
	if err != nil {
		t.Fatal(err)
	}
	asked := make(chan struct{}, 8)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	var accepting sync.WaitGroup
	defer accepting.Wait()
	accepting.Go(func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			defer conn.Close()
			asked <- struct{}{}
		}
	})
	defer ln.Close()
	script := checkScript(t, ln.Addr().String(), program, "500ms")
	for name, shell := range shells(t) {
		cmd := exec.Command(shell[0], append(shell[1:len(shell):len(shell)], script, "127.0.0.1")...)
		cmd.Dir, cmd.Env = "/", []string{}
		out, err := cmd.StderrPipe() // the probe has it from the shell
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		select {
		case <-asked: // the probe runs and waits
		case <-time.After(patience):
			t.Fatal(name, ": the script asks nobody")
		}
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadAll(out); err != nil { // until the probe has ended, too
			t.Error(err)
		}
		if err := cmd.Wait(); err == nil || !strings.Contains(err.Error(), "killed") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// relaydChecks are the three checks of the shipped file, as it numbers them.
var relaydChecks = []string{"script", "tcp", "binary"}

// relaydConf is the shipped file with one of its checks, and with the addresses of this
// test.
func relaydConf(t *testing.T, number int, changes ...string) string {
	t.Helper()
	head, checks, found := strings.Cut(replaced(t, relaydFiles+"relayd.conf", changes...), "\t# Choose one check.\n")
	if !found {
		t.Fatal("relayd.conf has no checks to choose from: adapt this test")
	}
	block, conf := 0, head
	for line := range strings.Lines(strings.TrimSuffix(checks, "}\n")) {
		bare := strings.TrimSpace(strings.TrimPrefix(strings.TrimSpace(line), "#"))
		if strings.HasPrefix(bare, fmt.Sprint(block+1, ". ")) {
			block++
		}
		if block == number && (strings.HasPrefix(bare, "forward to") || strings.HasPrefix(bare, "check ")) {
			conf += "\t" + bare + "\n"
		}
	}
	if block != len(relaydChecks) || !strings.Contains(conf[len(head):], "check "+relaydChecks[number-1]) {
		t.Fatalf("check %d of %d in relayd.conf is %q: adapt this test", number, block, conf[len(head):])
	}
	return conf + "}\n"
}

// TestRelaydBinaryCheck does the same as relayd for the binary checks of the shipped
// file: it sends the bytes, and compares the answer.
func TestRelaydBinaryCheck(t *testing.T) {
	t.Parallel()
	conf := relaydConf(t, 3)
	_, hex, _ := strings.Cut(conf, "check binary send ")
	var send, expect string
	if _, err := fmt.Sscanf(hex, "%q expect %q", &send, &expect); err != nil {
		t.Fatalf("%q: %v", hex, err)
	}
	open := launch(t)
	asks := func(p *process, send, expect string) {
		t.Helper()
		var sent, want []byte
		if _, err := fmt.Sscanf(send+" "+expect, "%x %x", &sent, &want); err != nil {
			t.Fatal(err)
		}
		c := dialSocks(t, p)
		defer c.Close()
		got := make([]byte, len(want))
		if _, err := c.Write(sent); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(c, got); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s is answered with %x, %v, want %s", send, got, err, expect)
		}
	}
	asks(open, send, expect)

	shipped, err := os.ReadFile(relaydFiles + "relayd.conf")
	if err != nil {
		t.Fatal(err)
	}
	_, hint, _ := strings.Cut(string(shipped), "With passwords: send ")
	if _, err := fmt.Sscanf(hint, "%q and expect %q", &send, &expect); err != nil {
		t.Fatalf("%.40q: %v", hint, err)
	}
	closed := launch(t, "USHER_USERS_FILE="+write(t, filepath.Join(t.TempDir(), "users"), "monica:$2b$05$abcdefghijklmnopqrstuutXu9KzOt.1yBoZUeFWoT/914/JfszCO\n"),
		"USHER_CONFIG="+ruleFile(t, "socksmethod: username\nclient pass {\n from: 0/0 to: 0/0\n}\npass {\n from: 0/0 to: 0/0\n}\n"))
	asks(closed, send, expect)
}

// TestRelayd runs relayd, if it is installed, with the shipped file and other
// addresses, for each of its checks. A session passes through it.
func TestRelayd(t *testing.T) {
	t.Parallel()
	for number := range relaydChecks {
		relaydConf(t, number+1) // also where there is no relayd
	}
	relayd := need.Unpackaged(t, "relayd")
	program, err := exec.LookPath("usher")
	if err != nil {
		t.Fatal(err)
	}
	p := launch(t)
	_, port, _ := net.SplitHostPort(p.socks)
	script := checkScript(t, p.socks, program, "2s")
	if err := os.Chmod(script, 0o755); err != nil {
		t.Fatal(err)
	}
	for i, name := range relaydChecks {
		front := nobody(t)
		_, frontPort, _ := net.SplitHostPort(front)
		file := write(t, filepath.Join(t.TempDir(), "relayd.conf"), relaydConf(t, i+1,
			`addr="192.0.2.10"`, `addr="127.0.0.1"`, `relaysockd_port="1080"`, fmt.Sprintf("relaysockd_port=%q", frontPort),
			`sockd_port="1080" # of the replicas`, fmt.Sprintf("sockd_port=%q", port),
			"{ 192.0.2.11, 192.0.2.12 }", "{ 127.0.0.1 }", "/usr/local/bin/relaydsockdcheck.sh", script))
		if out, err := exec.Command(relayd, "-n", "-f", file).CombinedOutput(); err != nil {
			t.Fatalf("%s: relayd -n: %v\n%s", name, err, out)
		}
		throughRelayd(t, name, exec.Command(relayd, "-d", "-f", file), front)
	}
}

// throughRelayd runs relayd until a session has passed through it.
func throughRelayd(t *testing.T, name string, cmd *exec.Cmd, front string) {
	t.Helper()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		cmd.Process.Signal(syscall.SIGTERM) //nolint:errcheck // it may have ended
		cmd.Wait()                          //nolint:errcheck // it ends by a signal
	}()
	var out, code string
	for end := time.Now().Add(patience); time.Now().Before(end); {
		if out, code = probeSocks(t, front); code == "0" {
			return
		}
	}
	t.Errorf("%s: no session passes relayd: %s", name, out)
}
