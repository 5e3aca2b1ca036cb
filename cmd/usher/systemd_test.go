package main

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"usher/deploy/need"
	"usher/store/redisstore/redistest"
)

// manager is the socket of a service manager, as NOTIFY_SOCKET names it.
type manager struct {
	*net.UnixConn
	t *testing.T
}

func startManager(t *testing.T) (m manager, env string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "notify")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return manager{conn, t}, "NOTIFY_SOCKET=" + path
}

// next returns the next message but those of the watchdog, which have been if alive.
func (m manager) next() (fields map[string]string, alive bool) {
	m.t.Helper()
	if err := m.SetDeadline(time.Now().Add(patience)); err != nil {
		m.t.Fatal(err)
	}
	buffer := make([]byte, 4096)
	for {
		n, err := m.Read(buffer)
		if err != nil {
			m.t.Fatal(err)
		}
		if string(buffer[:n]) == "WATCHDOG=1" {
			alive = true
			continue
		}
		fields = map[string]string{}
		for line := range strings.Lines(string(buffer[:n])) {
			name, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), "=")
			fields[name] = value
		}
		return fields, alive
	}
}

// want checks the fields of the next message: NAME=VALUE, or NAME= and any value.
func (m manager) want(fields ...string) {
	m.t.Helper()
	got, _ := m.next()
	for _, f := range fields {
		name, value, _ := strings.Cut(f, "=")
		if has, ok := got[name]; !ok || value != "" && has != value {
			m.t.Errorf("the service manager heard %v, want %v", got, fields)
		}
	}
	if len(got) != len(fields) {
		m.t.Errorf("the service manager heard %v, want %v", got, fields)
	}
}

// starts waits until the service is ready. Before, each message must say why it is not,
// and ask for more time: texts are parts of what some of them say.
func (m manager) starts(texts ...string) {
	m.t.Helper()
	for {
		got, _ := m.next()
		if got["READY"] == "1" {
			if got["STATUS"] != "ready" {
				m.t.Errorf("the service manager heard %v", got)
			}
			break
		}
		if more, err := strconv.Atoi(got["EXTEND_TIMEOUT_USEC"]); err != nil || more < 1_000_000 || got["STATUS"] == "" || len(got) != 2 {
			m.t.Errorf("the service manager got %v, want what usher waits for and for how long", got)
		}
		texts = slices.DeleteFunc(texts, func(text string) bool { return strings.Contains(got["STATUS"], text) })
	}
	if len(texts) > 0 {
		m.t.Errorf("the service manager never heard %q", texts)
	}
}

// alive waits for a message of the watchdog.
func (m manager) alive() {
	m.t.Helper()
	if err := m.SetDeadline(time.Now().Add(patience)); err != nil {
		m.t.Fatal(err)
	}
	buffer := make([]byte, 4096)
	if n, err := m.Read(buffer); err != nil || string(buffer[:n]) != "WATCHDOG=1" {
		m.t.Fatalf("the service manager got %q, %v, want the watchdog", buffer[:n], err)
	}
}

// TestSystemdIsNotified follows a service from its start over a reload, an upgrade that
// fails and one that succeeds to its end. The new process answers the watchdog, too.
func TestSystemdIsNotified(t *testing.T) {
	t.Parallel()
	m, socket := startManager(t)
	file := ruleFile(t, passLoopback)
	p := launchUpgradable(t, socket, "WATCHDOG_USEC=200000", "USHER_STORE="+redistest.Start(t).URL(),
		"USHER_CONFIG="+file, "USHER_LEASE_TTL=2s", "USHER_UPGRADE_TIMEOUT=5m")
	m.starts("waiting for the store")
	p.eventually("/readyz", `"ready": true`)
	m.alive()
	p.signal(syscall.SIGHUP)
	m.want("RELOADING=1", "MONOTONIC_USEC=")
	m.want("READY=1")
	write(t, file, "nonsense")
	p.signal(syscall.SIGUSR2)
	m.want("RELOADING=1", "MONOTONIC_USEC=")
	m.want("READY=1")
	p.logged("upgrade failed, this process goes on")
	write(t, file, passLoopback)
	p.signal(syscall.SIGUSR2)
	m.want("RELOADING=1", "MONOTONIC_USEC=")
	pid := int(p.loggedTimes("upgrading", 2)["new_process"].(float64))
	m.want("MAINPID="+strconv.Itoa(pid), "READY=1")
	gone(t, p.cmd.Process.Pid) // and has not said that the service stops
	m.alive()
	if err := syscall.Kill(pid, syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	m.want("STOPPING=1")
	p.exit()
}

// TestSystemdWaits: a service that waits for published rules, or for its store, asks
// systemd for time, and says what it waits for.
func TestSystemdWaits(t *testing.T) {
	need.Seconds(t)
	t.Parallel()
	m, socket := startManager(t)
	c := newCluster(t)
	c.replica("web1", socket)
	got, _ := m.next()
	for ; !strings.Contains(got["STATUS"], "usher apply"); got, _ = m.next() {
		if got["EXTEND_TIMEOUT_USEC"] == "" || got["READY"] != "" {
			t.Fatal("the service manager heard", got)
		}
	}
	c.verb(0, nil, "apply", c.file("sockd.conf", rulesFor(3)))
	m.starts()
}

// TestSystemdStopsWhatWaits: a service that is told to end before there are rules says
// that it stops.
func TestSystemdStopsWhatWaits(t *testing.T) {
	t.Parallel()
	m, socket := startManager(t)
	p := newCluster(t).replica("web1", socket)
	p.logged("admin listener open")
	p.signal(syscall.SIGTERM)
	got, _ := m.next()
	for ; got["STOPPING"] == ""; got, _ = m.next() {
		if got["EXTEND_TIMEOUT_USEC"] == "" || got["READY"] != "" {
			t.Fatal("the service manager heard", got)
		}
	}
	if code := p.exit(); code != 0 {
		t.Error("exit code", code)
	}
}

// The watchdog is for the process that it names.
func TestWatchdogOfAnotherProcess(t *testing.T) {
	t.Parallel()
	m, socket := startManager(t)
	p := launch(t, socket, "WATCHDOG_USEC=20000", "WATCHDOG_PID=1")
	hears := func(want string) {
		t.Helper()
		if got, alive := m.next(); alive || got[want] != "1" {
			t.Errorf("the service manager got %v, watchdog %v, want %s", got, alive, want)
		}
	}
	m.starts()
	p.signal(syscall.SIGTERM)
	hears("STOPPING")
	p.exit()
}

// launchActivated is launch with sockets that systemd has opened.
func launchActivated(t *testing.T, names string, files []*os.File, env ...string) *process {
	t.Helper()
	cmd := exec.Command("sh", "-c", fmt.Sprintf("LISTEN_PID=$$ LISTEN_FDS=%d LISTEN_FDNAMES=%s exec usher", len(files), names))
	cmd.ExtraFiles = files
	return launchCommand(t, cmd, env...)
}

// socketsOf returns listening sockets at free ports, as systemd opens them.
func socketsOf(t *testing.T, n int) (files []*os.File, addrs []string) {
	t.Helper()
	for range n {
		var plain net.ListenConfig
		plain.SetMultipathTCP(false)
		ln, err := plain.Listen(t.Context(), "tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer ln.Close()
		file, err := ln.(*net.TCPListener).File()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { file.Close() })
		files, addrs = append(files, file), append(addrs, ln.Addr().String())
	}
	return files, addrs
}

// TestSocketActivation takes sockets of systemd instead of the addresses of variables,
// and keeps them over an upgrade, a drain and its end.
func TestSocketActivation(t *testing.T) {
	t.Parallel()
	files, addrs := socketsOf(t, 3)
	p := launchActivated(t, "usher.socket:admin:agent", files, "USHER_LISTEN=127.0.0.1:1", "USHER_ADMIN_LISTEN=off",
		"USHER_STORE="+redistest.Start(t).URL(), "USHER_LEASE_TTL=2s", "USHER_UPGRADE_TIMEOUT=5m")
	endSuccessors(t, p)
	if line := p.logged("listening for SOCKS clients"); line["address"] != addrs[0] || line["decided_by"] != "systemd" {
		t.Error(line, addrs)
	}
	if line := p.logged("agent listener open"); line["address"] != addrs[2] || p.admin != addrs[1] {
		t.Error(line, p.admin, addrs)
	}
	target := webServer(t)
	if code := replyTo(t, p, target); code != 0 {
		t.Error("reply", code)
	}
	for range 2 {
		if out, code := ask(t, p, "upgrade", "--timeout", "5m"); code != "0" {
			t.Fatal(code, out)
		}
		if out, code := ask(t, p, "drain", "--wait"); code != "0" {
			t.Fatal(code, out)
		}
		// Systemd keeps the socket open: who comes now waits.
		c := dialSocks(t, p)
		if out, code := ask(t, p, "undrain"); code != "0" {
			t.Fatal(code, out)
		}
		if _, err := c.Write([]byte{5, 1, 0}); err != nil {
			t.Fatal(err)
		}
		if n, err := c.Read(make([]byte, 2)); err != nil {
			t.Errorf("who waited got %d bytes, %v", n, err)
		}
		c.Close()
		if code := replyTo(t, p, target); code != 0 {
			t.Error("reply", code)
		}
	}
}

// A socket that is of no use is an error, not overlooked.
func TestSocketActivationWithAnotherKind(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "s")
	ln, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	file, err := ln.File()
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	cmd := exec.Command("sh", "-c", "LISTEN_PID=$$ LISTEN_FDS=1 exec usher")
	cmd.ExtraFiles = []*os.File{file}
	out, err := cmd.CombinedOutput()
	if err == nil || !strings.Contains(string(out), "is not a TCP socket") {
		t.Errorf("%v: %s", err, out)
	}
}

// TestSystemdUnits has systemd itself check the files that we ship, and what their
// sandbox leaves open.
func TestSystemdUnits(t *testing.T) {
	t.Parallel()
	analyze := need.Program(t, "systemd-analyze")
	program, err := exec.LookPath("usher")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for _, name := range []string{"usher.service", "usher.socket"} {
		text, err := os.ReadFile(filepath.Join(top, "deploy/systemd", name))
		if err != nil {
			t.Fatal(err)
		}
		write(t, filepath.Join(dir, name), strings.ReplaceAll(string(text), "/usr/local/bin/usher", program))
	}
	unit := filepath.Join(dir, "usher.service")
	out, err := exec.Command(analyze, "verify", "--man=no", unit, filepath.Join(dir, "usher.socket")).CombinedOutput()
	if err != nil || strings.Contains(string(out), dir) || strings.Contains(string(out), "usher.") { // a warning has exit code 0
		t.Errorf("systemd-analyze verify: %v\n%s", err, out)
	}
	out, err = exec.Command(analyze, "security", "--offline=yes", "--threshold=15", "--no-pager", unit).CombinedOutput()
	if err != nil {
		t.Errorf("systemd-analyze security: %v\n%s", err, out)
	}
}
