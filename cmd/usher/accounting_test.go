package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"usher/deploy/need"
	"usher/store/redisstore/redistest"
)

// passAndBlock passes all requests but those to port 1.
const passAndBlock = `
client pass { from: 127.0.0.0/8 to: 0/0 }
socks block { from: 0/0 to: 0/0 port = 1 }
socks pass { from: 127.0.0.0/8 to: 0/0 }
`

// accountingLine is what the tests read of a line.
type accountingLine struct {
	Time                   time.Time
	Event, Reason, Session string
	Count                  int
	From, Source, Replica  string
}

// parseAccounting parses lines, each of which must be whole.
func parseAccounting(t *testing.T, text string) (list []accountingLine) {
	t.Helper()
	for raw := range strings.Lines(text) {
		var line accountingLine
		if err := json.Unmarshal([]byte(raw), &line); err != nil || !strings.HasSuffix(raw, "\n") {
			t.Fatalf("%v: %q", err, raw)
		}
		list = append(list, line)
	}
	return list
}

func readAccounting(t *testing.T, names ...string) (list []accountingLine) {
	t.Helper()
	for _, name := range names {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, parseAccounting(t, string(text))...)
	}
	return list
}

// sessionsOf returns how many sessions lines with this event are about.
func sessionsOf(list []accountingLine, event string) (n int) {
	for _, line := range list {
		if line.Event == event {
			n += line.Count
		}
	}
	return n
}

// stop ends a process that must have nothing to complain about.
func stop(t *testing.T, p *process) {
	t.Helper()
	p.signal(syscall.SIGTERM)
	if code := p.exit(); code != 0 {
		t.Error("exit code", code)
	}
}

// refused has n requests refused by so many clients at a time, each with its address.
func refused(t *testing.T, p *process, clients, n int) {
	t.Helper()
	request := []byte{5, 1, 0, 5, 1, 0, 1, 192, 0, 2, 1, 0, 1}
	one := func(dialer *net.Dialer) error {
		c, err := dialer.Dial("tcp", p.socks)
		if err != nil {
			return err
		}
		defer c.Close()
		if _, err := c.Write(request); err != nil {
			return err
		}
		reply, err := io.ReadAll(c)
		if len(reply) != 12 || reply[3] != 2 {
			return fmt.Errorf("answer %v, %w", reply, err)
		}
		return nil
	}
	var all sync.WaitGroup
	errs := make([]error, clients)
	for client := range clients {
		all.Go(func() {
			from := &net.TCPAddr{IP: net.IPv4(127, 0, 1, byte(client+1))}
			for range n / clients {
				if errs[client] = one(&net.Dialer{LocalAddr: from, Timeout: patience}); errs[client] != nil {
					return
				}
			}
		})
	}
	all.Wait()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

// metric returns the sum of all series of a metric.
func (p *process) metric(name string) (sum int) {
	p.t.Helper()
	_, body := p.get("/metrics")
	for _, sample := range regexp.MustCompile(`(?m)^`+name+`(?:\{.*\})? (\d+)$`).FindAllStringSubmatch(body, -1) {
		n, err := strconv.Atoi(sample[1])
		if err != nil {
			p.t.Fatal(err)
		}
		sum += n
	}
	return sum
}

// A flood of refusals leaves few lines, and their sum is what the metrics count. Sessions
// that were connected have a line each.
func TestAccounting(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "accounting")
	p := launch(t, "USHER_CONFIG="+ruleFile(t, passAndBlock), "USHER_ACCOUNTING="+file, "USHER_REPLICA=web1", "USHER_LOG_BUDGET=1")
	target := webServer(t)
	const clients, refusals, sessions = 4, 2000, 20
	refused(t, p, clients, refusals)
	for range sessions {
		talk(t, p, target)
	}
	redistest.Eventually(t, patience, "all sessions have ended", func() bool {
		return p.metric("usher_session_duration_seconds_count") == sessions && p.metric("usher_sessions_rejected_total") == refusals
	})
	stop(t, p)
	list := readAccounting(t, file)
	if ended, refused := sessionsOf(list, "ended"), sessionsOf(list, "refused"); ended != sessions || refused != refusals {
		t.Errorf("the lines are about %d sessions that ended and %d that were refused, want %d and %d", ended, refused, sessions, refusals)
	}
	seconds := map[string]int{} // each second of the flood has a sum for each client, unless it was quiet
	for i, line := range list {
		if i > 0 && line.Time.Before(list[i-1].Time) {
			t.Errorf("%v after %v", line.Time, list[i-1].Time)
		}
		if line.Replica != "web1" {
			t.Errorf("replica %q", line.Replica)
		}
		if line.From != "" {
			seconds[line.Source]++
		}
	}
	most := 0
	for _, n := range seconds {
		most = max(most, n)
	}
	if lines := len(list) - sessions; lines > clients*11*(most+1) {
		t.Errorf("%d lines for refusals in %d seconds", lines, most)
	}
}

// A full disk costs lines, which are counted, and nothing else.
func TestAccountingOnAFullDisk(t *testing.T) {
	t.Parallel()
	p := launch(t, "USHER_CONFIG="+ruleFile(t, passAndBlock), "USHER_ACCOUNTING=/dev/full")
	target := webServer(t)
	for range 3 {
		talk(t, p, target)
	}
	p.eventually("/metrics", "\nusher_accounting_lines_dropped_total 3\n")
	p.signal(syscall.SIGHUP)
	p.logged("reloaded")
	talk(t, p, target)
	stop(t, p)
	if line := p.logged("accounting lines dropped"); line["destination"] != "/dev/full" || line["lines"] == 0 {
		t.Errorf("%v", line)
	}
}

// On a disk that is full again and again, and gets room by logrotate's copytruncate, lines
// are whole, in a file and in a stream that was redirected to a file.
func TestAccountingOnASmallDisk(t *testing.T) {
	t.Parallel()
	logrotate := need.Program(t, "logrotate")
	for _, to := range []string{"file", "stdout"} {
		t.Run(to, func(t *testing.T) {
			t.Parallel()
			dir, small := t.TempDir(), need.SmallDisk(t, "16k")
			file := filepath.Join(small, "accounting")
			cmd, destination := exec.Command("usher"), file
			if to == "stdout" {
				out, err := os.OpenFile(file, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
				if err != nil {
					t.Fatal(err)
				}
				defer out.Close()
				cmd.Stdout, destination = out, "stdout"
			}
			p := launchCommand(t, cmd, "USHER_CONFIG="+ruleFile(t, passAndBlock), "USHER_ACCOUNTING="+destination)
			elsewhere := strings.Replace(rotationOf(t, "copytruncate", file), "{", "{\n\tolddir "+dir, 1)
			rules := write(t, filepath.Join(dir, "logrotate.conf"), elsewhere)
			end := busy(t, p)
			dropped := 0
			for range 3 {
				before := dropped
				redistest.Eventually(t, patience, "lines are dropped", func() bool {
					dropped = p.metric("usher_accounting_lines_dropped_total")
					return dropped > before+10
				})
				rotate(t, logrotate, rules)
			}
			sessions := end()
			p.eventually("/metrics", fmt.Sprintf("\nusher_session_duration_seconds_count %d\n", sessions))
			dropped = p.metric("usher_accounting_lines_dropped_total")
			stop(t, p)
			list := readAccounting(t, file, filepath.Join(dir, "accounting.1"), filepath.Join(dir, "accounting.2"), filepath.Join(dir, "accounting.3"))
			if n := sessionsOf(list, "ended"); n < 50 || n+dropped > sessions {
				t.Errorf("%d sessions in lines and %d dropped, of %d", n, dropped, sessions)
			}
		})
	}
}

// stalledReader returns the path of a FIFO, and its reader, which reads nothing by itself.
func stalledReader(t *testing.T) (fifo string, r *os.File) {
	t.Helper()
	fifo = filepath.Join(t.TempDir(), "accounting")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	r, err := os.OpenFile(fifo, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	return fifo, r
}

// A reader that stalls delays no session, reload or stop. When it goes on, it gets whole
// lines in their order.
func TestAccountingReaderStalls(t *testing.T) {
	t.Parallel()
	fifo, r := stalledReader(t)
	p := launch(t, "USHER_CONFIG="+ruleFile(t, passAndBlock), "USHER_ACCOUNTING="+fifo)
	target := webServer(t)
	const sessions = 250 // the pipe takes 64 KiB, and a line has about 400 bytes
	for range sessions {
		talk(t, p, target)
	}
	p.eventually("/metrics", fmt.Sprintf("\nusher_session_duration_seconds_count %d\n", sessions))
	p.signal(syscall.SIGHUP)
	p.logged("reloaded")
	ended := make(chan string, 1)
	go func() {
		text, _ := io.ReadAll(r) // a FIFO of which all writers are gone ends
		ended <- string(text)
	}()
	stop(t, p)
	list := parseAccounting(t, <-ended)
	if n := sessionsOf(list, "ended"); n != sessions || p.cmd.ProcessState.ExitCode() != 0 {
		t.Errorf("%d sessions, want %d", n, sessions)
	}
}

// A reader that stalls for good does not hold the stop.
func TestAccountingReaderStallsForGood(t *testing.T) {
	t.Parallel()
	fifo, _ := stalledReader(t)
	p := launch(t, "USHER_CONFIG="+ruleFile(t, passAndBlock), "USHER_ACCOUNTING="+fifo)
	target := webServer(t)
	for range 250 {
		talk(t, p, target)
	}
	stop(t, p)
	p.logged("accounting destination is stalled, its last lines may be lost")
}

// A file that takes the place of a FIFO whose reader is stalled gets the lines that the
// reader has not taken, after SIGHUP.
func TestAccountingReaderIsReplaced(t *testing.T) {
	t.Parallel()
	fifo, r := stalledReader(t)
	p := launch(t, "USHER_CONFIG="+ruleFile(t, passAndBlock), "USHER_ACCOUNTING="+fifo)
	target := webServer(t)
	const sessions = 250 // more than a pipe takes
	for range sessions {
		talk(t, p, target)
	}
	p.eventually("/metrics", fmt.Sprintf("\nusher_session_duration_seconds_count %d\n", sessions))
	if err := os.Rename(fifo, fifo+".old"); err != nil {
		t.Fatal(err)
	}
	p.signal(syscall.SIGHUP)
	wantLines(t, fifo)
	stop(t, p)
	old, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	list := append(parseAccounting(t, string(old)), readAccounting(t, fifo)...)
	if n := sessionsOf(list, "ended"); n != sessions {
		t.Errorf("%d sessions, want %d", n, sessions)
	}
}

// A reader that is killed costs the lines until there is another one.
func TestAccountingReaderIsKilled(t *testing.T) {
	t.Parallel()
	fifo := filepath.Join(t.TempDir(), "accounting")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	reader := exec.Command("cat", fifo)
	out, err := reader.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := reader.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		reader.Process.Kill() //nolint:errcheck // it may have been killed
		reader.Wait()         //nolint:errcheck // it was killed
	})
	redistest.Eventually(t, patience, "somebody reads the FIFO", func() bool {
		w, err := os.OpenFile(fifo, os.O_WRONLY|syscall.O_NONBLOCK, 0)
		if err == nil {
			t.Cleanup(func() { w.Close() }) // so that cat does not see an end before usher writes
		}
		return err == nil
	})
	p := launch(t, "USHER_CONFIG="+ruleFile(t, passAndBlock), "USHER_ACCOUNTING="+fifo)
	target := webServer(t)
	talk(t, p, target)
	if line, err := bufio.NewReader(out).ReadString('\n'); err != nil || len(parseAccounting(t, line)) != 1 {
		t.Fatal(line, err)
	}
	if err := reader.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := reader.Wait(); err == nil {
		t.Error("cat was not killed")
	}
	for range 3 {
		talk(t, p, target)
	}
	p.eventually("/metrics", "\nusher_accounting_lines_dropped_total 3\n")
	r, err := os.OpenFile(fifo, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	talk(t, p, target)
	p.eventually("/metrics", "\nusher_session_duration_seconds_count 5\n")
	stop(t, p)
	buffer := make([]byte, 4096)
	if n, err := r.Read(buffer); err != nil || len(parseAccounting(t, string(buffer[:n]))) != 1 {
		t.Errorf("%v: %q", err, buffer[:n])
	}
}

// Standard output has whole lines of the accounting beside those of the log.
func TestAccountingToStdout(t *testing.T) {
	t.Parallel()
	cmd := exec.Command("usher")
	var out strings.Builder
	cmd.Stdout = &out
	p := launchCommand(t, cmd, "USHER_CONFIG="+ruleFile(t, passAndBlock), "USHER_ACCOUNTING=stdout")
	talk(t, p, webServer(t))
	refused(t, p, 1, 1)
	stop(t, p)
	list := parseAccounting(t, out.String())
	if sessionsOf(list, "ended") != 1 || sessionsOf(list, "refused") != 1 || len(list) != 2 {
		t.Errorf("%+v", list)
	}
}

// busy keeps two clients busy until the returned function is called, which returns how many
// sessions they had.
func busy(t *testing.T, p *process) (end func() int) {
	t.Helper()
	target := webServer(t)
	over := make(chan struct{})
	var all sync.WaitGroup
	var sessions atomic.Int64
	for range 2 {
		all.Go(func() {
			for {
				select {
				case <-over:
					return
				default:
					talk(t, p, target)
					sessions.Add(1)
				}
			}
		})
	}
	return func() int {
		close(over)
		all.Wait()
		return int(sessions.Load())
	}
}

// The file is opened again at SIGHUP: each line is in one of both files.
func TestAccountingIsReopened(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "accounting")
	p := launch(t, "USHER_CONFIG="+ruleFile(t, passAndBlock), "USHER_ACCOUNTING="+file)
	end := busy(t, p)
	wantLines(t, file)
	if err := os.Rename(file, file+".1"); err != nil {
		t.Fatal(err)
	}
	p.signal(syscall.SIGHUP)
	wantLines(t, file)
	sessions := end()
	stop(t, p)
	if n := sessionsOf(readAccounting(t, file+".1", file), "ended"); n != sessions {
		t.Errorf("%d sessions, want %d", n, sessions)
	}
}

// wantLines waits until a file has some lines.
func wantLines(t *testing.T, file string) {
	t.Helper()
	redistest.Eventually(t, patience, "lines in the file", func() bool {
		info, err := os.Stat(file)
		return err == nil && info.Size() > 2000
	})
}

// In an upgrade, two processes append to the same file: lines are whole, and none is lost.
func TestAccountingInAnUpgrade(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "accounting")
	p := launchUpgradable(t, "USHER_STORE="+redistest.Start(t).URL(), "USHER_CONFIG="+ruleFile(t, passAndBlock), "USHER_ACCOUNTING="+file,
		"USHER_DRAIN_TIMEOUT=10m", "USHER_UPGRADE_TIMEOUT=5m")
	held, _ := connect(t, p, webServer(t))
	end := busy(t, p)
	wantLines(t, file)
	if out, code := ask(t, p, "upgrade", "--timeout", "5m"); code != "0" {
		t.Fatal(code, out)
	}
	size := func() int64 {
		info, err := os.Stat(file)
		if err != nil {
			t.Fatal(err)
		}
		return info.Size()
	}
	before := size()
	redistest.Eventually(t, patience, "lines of the new process", func() bool { return size() > before+5000 })
	sessions := end() + 1
	held.Close() // which the old process waits for
	gone(t, p.cmd.Process.Pid)
	if out, code := ask(t, p, "stop"); code != "0" {
		t.Error(code, out)
	}
	p.loggedTimes("stopped", 2)
	if n := sessionsOf(readAccounting(t, file), "ended"); n != sessions {
		t.Errorf("%d sessions, want %d", n, sessions)
	}
}

// A process that drains opens the file again, too.
func TestAccountingIsReopenedInADrain(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "accounting")
	p := launch(t, "USHER_CONFIG="+ruleFile(t, passAndBlock), "USHER_ACCOUNTING="+file, "USHER_DRAIN_TIMEOUT=10m")
	held, _ := connect(t, p, webServer(t))
	p.signal(syscall.SIGTERM)
	p.eventually("/readyz", "draining")
	if err := os.Rename(file, file+".1"); err != nil {
		t.Fatal(err)
	}
	p.signal(syscall.SIGHUP)
	p.logged("rules not reloaded while draining, files reopened")
	redistest.Eventually(t, patience, "the file is there again", func() bool {
		_, err := os.Stat(file)
		return err == nil
	})
	held.Close()
	if code := p.exit(); code != 0 {
		t.Error("exit code", code)
	}
	if n := sessionsOf(readAccounting(t, file), "ended"); n != 1 {
		t.Errorf("%d sessions in the new file, want 1", n)
	}
}

// rotationOf returns the configuration of docs/accounting.md for logrotate, for a file.
func rotationOf(t *testing.T, way, file string) string {
	t.Helper()
	page, err := os.ReadFile("../../docs/accounting.md")
	if err != nil {
		t.Fatal(err)
	}
	_, config, found := strings.Cut(string(page), "\n# "+way+".logrotate\n")
	config, _, ends := strings.Cut(config, "```")
	if !found || !ends {
		t.Fatal("the page has no such file")
	}
	return strings.NewReplacer("/var/log/usher/accounting", file, "\tcompress\n", "").Replace(config)
}

// rotate makes logrotate rotate before the time.
func rotate(t *testing.T, logrotate, rules string) {
	t.Helper()
	if out, err := exec.Command(logrotate, "--force", "--state", rules+".state", rules).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
}

// logrotate rotates the file in both ways of docs/accounting.md while sessions end.
func TestAccountingIsRotated(t *testing.T) {
	t.Parallel()
	logrotate := need.Program(t, "logrotate")
	for _, way := range []string{"accounting", "copytruncate"} {
		t.Run(way, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			file := filepath.Join(dir, "accounting")
			p := launch(t, "USHER_CONFIG="+ruleFile(t, passAndBlock), "USHER_ACCOUNTING="+file)
			config := rotationOf(t, way, file)
			config = strings.Replace(config, "systemctl reload usher", fmt.Sprintf("kill -HUP %d", p.cmd.Process.Pid), 1)
			rules := write(t, filepath.Join(dir, "logrotate.conf"), config)
			end := busy(t, p)
			for range 3 {
				wantLines(t, file)
				rotate(t, logrotate, rules)
			}
			wantLines(t, file)
			sessions := end()
			stop(t, p)
			n := sessionsOf(readAccounting(t, file+".3", file+".2", file+".1", file), "ended")
			if n != sessions && way == "accounting" || n > sessions || n < sessions/2 {
				t.Errorf("%d sessions, want %d", n, sessions)
			}
		})
	}
}

// A destination that cannot be opened is an error at the start.
func TestAccountingThatCannotBeOpened(t *testing.T) {
	t.Parallel()
	cmd := exec.CommandContext(t.Context(), "usher", "serve")
	cmd.Env = append(os.Environ(), "USHER_LISTEN=127.0.0.1:0", "USHER_ADMIN_LISTEN=off", "USHER_ACCOUNTING="+filepath.Join(t.TempDir(), "nowhere", "file"))
	out, err := cmd.CombinedOutput()
	if err == nil || !strings.Contains(string(out), "USHER_ACCOUNTING: open ") || !strings.Contains(string(out), "name a file that usher can write, or stdout") {
		t.Errorf("%v: %s", err, out)
	}
}
