package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// patience is the time limit of every wait for another process. No wait should take
// that long.
const patience = time.Minute

// exitStatus returns the exit code in the error of a command, as text.
func exitStatus(err error) string {
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return fmt.Sprint(exit.ExitCode())
	}
	return err.Error()
}

// process is a running usher serve.
type process struct {
	t     *testing.T
	cmd   *exec.Cmd
	socks string // address of the first SOCKS listener
	admin string
	ended chan struct{}

	mu    sync.Mutex
	lines []map[string]any // its log so far
	raw   bytes.Buffer
	more  chan struct{} // closed and replaced with each line
}

// launch starts usher serve on free ports and waits until it listens. env are
// further variables, as NAME=VALUE.
func launch(t *testing.T, env ...string) *process {
	t.Helper()
	return launchCommand(t, exec.Command("usher"), env...)
}

// launchCommand is launch with a command that ends in usher.
func launchCommand(t *testing.T, cmd *exec.Cmd, env ...string) *process {
	t.Helper()
	p := launchOnly(t, cmd, env...)
	p.socks = p.logged("listening for SOCKS clients")["address"].(string)
	p.admin = p.logged("admin listener open")["address"].(string)
	return p
}

// launchOnly is launchCommand, and does not wait.
func launchOnly(t *testing.T, cmd *exec.Cmd, env ...string) *process {
	t.Helper()
	p := &process{t: t, cmd: cmd, ended: make(chan struct{}), more: make(chan struct{})}
	p.cmd.Env = append(append(os.Environ(), "USHER_LISTEN=127.0.0.1:0", "USHER_ADMIN_LISTEN=127.0.0.1:0",
		"USHER_DRAIN_GRACE=0s"), env...)
	stderr, err := p.cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go p.read(stderr)
	t.Cleanup(func() {
		p.cmd.Process.Kill() //nolint:errcheck // it may have ended
		<-p.ended
		if t.Failed() {
			t.Logf("log of usher:\n%s", p.raw.String())
		}
	})
	return p
}

// read collects log lines until the process has ended.
func (p *process) read(stderr io.Reader) {
	defer close(p.ended)
	scan := bufio.NewScanner(stderr)
	for scan.Scan() {
		var line map[string]any
		p.mu.Lock()
		p.raw.Write(append(scan.Bytes(), '\n'))
		if json.Unmarshal(scan.Bytes(), &line) == nil {
			p.lines = append(p.lines, line)
		}
		close(p.more)
		p.more = make(chan struct{})
		p.mu.Unlock()
	}
	p.cmd.Wait() //nolint:errcheck // exit reads the state
}

// logged waits for a line with this message and returns the latest.
func (p *process) logged(msg string) map[string]any {
	p.t.Helper()
	return p.loggedTimes(msg, 1)
}

// loggedTimes waits for n lines with this message and returns the latest.
func (p *process) loggedTimes(msg string, n int) map[string]any {
	p.t.Helper()
	deadline := time.After(patience)
	for {
		p.mu.Lock()
		more := p.more
		var latest map[string]any
		count := 0
		for _, line := range p.lines {
			if line["msg"] == msg {
				latest = line
				count++
			}
		}
		if count >= n {
			defer p.mu.Unlock()
			return latest
		}
		p.mu.Unlock()
		select {
		case <-more:
		case <-p.ended:
			p.t.Fatalf("usher ended without logging %q", msg)
		case <-deadline:
			p.t.Fatalf("usher did not log %q", msg)
		}
	}
}

func (p *process) signal(sig syscall.Signal) {
	p.t.Helper()
	if err := p.cmd.Process.Signal(sig); err != nil {
		p.t.Fatal(err)
	}
}

// exit waits for the end of the process and returns its exit code.
func (p *process) exit() int {
	p.t.Helper()
	select {
	case <-p.ended:
	case <-time.After(patience):
		p.t.Fatal("usher does not end")
	}
	return p.cmd.ProcessState.ExitCode()
}

// get asks the admin listener.
func (p *process) get(path string) (int, string) {
	p.t.Helper()
	resp, err := http.Get("http://" + p.admin + path)
	if err != nil {
		p.t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		p.t.Fatal(err)
	}
	return resp.StatusCode, string(body)
}

// eventually polls until the body of path contains part.
func (p *process) eventually(path, part string) {
	p.t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	body := ""
	for end := time.Now().Add(patience); time.Now().Before(end); <-tick.C {
		if _, body = p.get(path); strings.Contains(body, part) {
			return
		}
	}
	p.t.Fatalf("%s never said %q; it says\n%s", path, part, body)
}

// write writes a file of the test and returns its name.
func write(t *testing.T, name, text string) string {
	t.Helper()
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

// ruleFile writes a rule file into its own folder.
func ruleFile(t *testing.T, text string) string {
	t.Helper()
	return write(t, filepath.Join(t.TempDir(), "sockd.conf"), text)
}
