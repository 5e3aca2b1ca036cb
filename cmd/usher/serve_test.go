package main

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"usher/deploy/need"
	"usher/proxy/socks"
)

const passLoopback = `
client pass { from: 127.0.0.0/8 to: 0/0 }
socks pass { from: 127.0.0.0/8 to: 0/0 maxsessions: 3 }
`

// connect asks usher for a connection to target and returns it with the reply
// code.
func connect(t *testing.T, p *process, target string) (net.Conn, byte) {
	t.Helper()
	to, err := net.ResolveTCPAddr("tcp", target)
	if err != nil {
		t.Fatal(err)
	}
	c, err := net.Dial("tcp", p.socks)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	request := append([]byte{5, 1, 0, 5, 1, 0, 1}, to.IP.To4()...)
	if _, err := c.Write(append(request, byte(to.Port>>8), byte(to.Port))); err != nil {
		t.Fatal(err)
	}
	reply := make([]byte, 12)
	if _, err := io.ReadFull(c, reply); err != nil {
		t.Fatal(err)
	}
	return c, reply[3]
}

// webServer answers every request with "hello".
func webServer(t *testing.T) string {
	t.Helper()
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "hello") }))
	t.Cleanup(srv.Close)
	return srv.Listener.Addr().String()
}

func TestServeWithoutConfiguration(t *testing.T) {
	t.Parallel()
	p := launch(t)
	for _, want := range []string{"USHER_CONFIG", "USHER_STORE=redis://", "set USHER_LISTEN, or internal:", "none (assumed)"} {
		p.mu.Lock()
		if !strings.Contains(p.raw.String(), want) {
			t.Errorf("the first lines do not mention %s", want)
		}
		p.mu.Unlock()
	}
	c, code := connect(t, p, webServer(t))
	if code != 0 {
		t.Fatal("reply", code)
	}
	if _, err := io.WriteString(c, "GET / HTTP/1.0\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	if body, err := io.ReadAll(c); err != nil || !strings.HasSuffix(string(body), "hello") {
		t.Errorf("%v %s", err, body)
	}
	c.Close()
	p.eventually("/readyz", `"ready": true`) // it may be told a moment after clients get in
	if code, body := p.get("/readyz"); code != 200 {
		t.Error(code, body)
	}
	p.signal(syscall.SIGTERM)
	if code := p.exit(); code != 0 {
		t.Error("exit code", code)
	}
}

func TestReload(t *testing.T) {
	t.Parallel()
	file := ruleFile(t, passLoopback)
	p := launch(t, "USHER_CONFIG="+file)
	before := p.logged("rules loaded")["digest"]
	p.eventually("/metrics", "usher_config_last_reload_successful 1\n")

	write(t, file, passLoopback+"socks pass { from: }\n")
	p.signal(syscall.SIGHUP)
	failed := p.logged("reload failed, keeping the old rules")
	if text := failed["error"].(string); !strings.Contains(text, file+":4:") || failed["digest"] != before {
		t.Error(failed)
	}
	p.eventually("/metrics", "usher_config_last_reload_successful 0\n")
	p.eventually("/status", `"reload_error": "`+file+":4:")
	if _, code := connect(t, p, webServer(t)); code != 0 {
		t.Error("the old rules do not serve on: reply", code)
	}

	write(t, file, passLoopback+"# a remark\n")
	p.signal(syscall.SIGHUP)
	if line := p.logged("reloaded"); line["changed"] != false || line["digest"] != before {
		t.Error(line)
	}
	p.eventually("/metrics", "usher_config_last_reload_successful 1\n")

	write(t, file, strings.Replace(passLoopback, "socks pass", "socks block", 1))
	p.signal(syscall.SIGHUP)
	p.eventually("/status", `"current": false`) // the session's, which lives on under the old rules
	if line := p.loggedTimes("reloaded", 2); line["changed"] != true || line["digest"] == before {
		t.Error(line)
	}
	if _, code := connect(t, p, webServer(t)); code != 2 {
		t.Error("the new rules are not in force: reply", code)
	}
}

func TestServeWarnsOfUsersWithoutLogins(t *testing.T) {
	t.Parallel()
	file := ruleFile(t, passLoopback+"socks pass { from: 0/0 to: 0/0 user: monica }\n")
	p := launch(t, "USHER_CONFIG="+file)
	const dead = "user: there is no users file, so no client can log in and this rule never matches"
	if line := p.logged(dead); line["level"] != "WARN" || line["location"] != file+":4:32" {
		t.Error(line)
	}
	p.logged("there is no socksmethod: line, so none is assumed and no client is asked for a name")
}

func TestServeWarnsOfTrustedNetworks(t *testing.T) {
	t.Parallel()
	p := launch(t, "USHER_PROXY_PROTOCOL_FROM=127.0.0.0/8,::/0", "USHER_CONFIG="+ruleFile(t, passLoopback))
	line := p.logged("USHER_PROXY_PROTOCOL_FROM: every host in ::/0, the whole Internet, can claim any client address")
	if location, is := line["location"]; line["level"] != "WARN" || line["severity"] != "danger" || is {
		t.Error(line, location)
	}
}

func TestReloadOfUsers(t *testing.T) {
	t.Parallel()
	const hash = "$2b$05$abcdefghijklmnopqrstuutXu9KzOt.1yBoZUeFWoT/914/JfszCO" // of open-sesame
	users := write(t, filepath.Join(t.TempDir(), "users"), "monica:"+hash+"\n")
	p := launch(t, "USHER_USERS_FILE="+users)
	target := webServer(t)
	if code := connectAs(t, p, "monica", "open-sesame", target); code != 0 {
		t.Error("reply", code)
	}
	write(t, users, "fred:"+hash+"\n")
	p.signal(syscall.SIGHUP)
	p.logged("reloaded")
	if code := connectAs(t, p, "monica", "open-sesame", target); code != refusedName {
		t.Error("who was removed is still let in: reply", code)
	}
	write(t, users, "monica:plain\n")
	p.signal(syscall.SIGHUP)
	if text := p.logged("reload failed, keeping the old rules")["error"].(string); !strings.Contains(text, users+":1") {
		t.Error(text)
	}
	p.eventually("/metrics", "usher_config_last_reload_successful 0\n")
}

// TestReloadOfGroups reloads a mistake and then a change in the groups file.
func TestReloadOfGroups(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	hash := "$2b$05$abcdefghijklmnopqrstuutXu9KzOt.1yBoZUeFWoT/914/JfszCO" // of open-sesame
	people := write(t, filepath.Join(dir, "users"), "monica:"+hash+"\nfred:"+hash+"\n")
	groups := write(t, filepath.Join(dir, "groups"), "guests: monica\n")
	file := ruleFile(t, "socksmethod: username\nclient pass { from: 0/0 to: 0/0 }\n"+
		"socks block { from: 0/0 to: 0/0\ngroup: guests }\nsocks pass { from: 0/0 to: 0/0 }\n")
	p := launch(t, "USHER_CONFIG="+file, "USHER_USERS_FILE="+people, "USHER_GROUPS_FILE="+groups)
	target := webServer(t)
	ask := func(user string, want byte) {
		t.Helper()
		if code := connectAs(t, p, user, "open-sesame", target); code != want {
			t.Errorf("%s: reply %d, want %d", user, code, want)
		}
	}
	ask("monica", 2)
	ask("fred", 0)

	write(t, groups, "guests: fred\nfred\n")
	p.signal(syscall.SIGHUP)
	if text := p.logged("reload failed, keeping the old rules")["error"].(string); !strings.Contains(text, groups+":2: ") {
		t.Error(text)
	}
	ask("fred", 0)

	write(t, groups, "guests: fred\n")
	p.signal(syscall.SIGHUP)
	p.logged("reloaded")
	ask("monica", 0)
	ask("fred", 2)
}

// TestSecretsAreNotLogged searches the whole output of a process, at level debug, for
// the passwords that it handles.
func TestSecretsAreNotLogged(t *testing.T) {
	t.Parallel()
	const hash = "$2b$05$abcdefghijklmnopqrstuutXu9KzOt.1yBoZUeFWoT/914/JfszCO" // of open-sesame
	users := write(t, filepath.Join(t.TempDir(), "users"), "monica:"+hash+"\n")
	p := launch(t, "USHER_USERS_FILE="+users, "USHER_STORE=redis://usher:geheim@127.0.0.1:1/0", "USHER_LOG_LEVEL=debug",
		"USHER_DRAIN_TIMEOUT=0s")
	target := webServer(t)
	if code := connectAs(t, p, "monica", "open-sesame", target); code != 0 {
		t.Error("reply", code)
	}
	if code := connectAs(t, p, "monica", "false-sesame", target); code != refusedName {
		t.Error("reply", code)
	}
	p.logged("session refused")
	write(t, users, "monica:"+hash+"\nfred:plain-sesame\n")
	p.signal(syscall.SIGHUP)
	p.logged("reload failed, keeping the old rules")
	_, status := p.get("/status")
	_, metrics := p.get("/metrics")
	p.signal(syscall.SIGTERM)
	p.exit()
	all := p.raw.String() + status + metrics
	for _, secret := range []string{"geheim", "sesame", hash[:7], hash[30:]} {
		if strings.Contains(all, secret) {
			t.Errorf("%q is shown", secret)
		}
	}
}

// refusedName is what connectAs returns for a wrong name or password.
const refusedName = 255

// connectAs asks usher for a connection with name and password, and returns
// the reply code, or refusedName.
func connectAs(t *testing.T, p *process, user, password, target string) byte {
	t.Helper()
	c, err := net.Dial("tcp", p.socks)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	to := socks.AddrOf(netip.MustParseAddrPort(target))
	if err := errors.Join(
		c.SetDeadline(time.Now().Add(patience)),
		socks.WriteGreeting(c, socks.Username),
		socks.WriteCredentials(c, socks.Credentials{User: user, Password: password}),
		socks.WriteRequest(c, socks.Request{Version: socks.V5, Command: socks.Connect, Addr: to}),
	); err != nil {
		t.Fatal(err)
	}
	reply := make([]byte, 6)
	n, err := io.ReadFull(c, reply)
	if n >= 4 && reply[3] != 0 {
		return refusedName
	}
	if err != nil {
		t.Fatal(err)
	}
	return reply[5]
}

func TestDrainIsSeenBeforeItHurts(t *testing.T) {
	need.Seconds(t)
	t.Parallel()
	p := launch(t, "USHER_DRAIN_GRACE=5s", "USHER_DRAIN_TIMEOUT=1m")
	target := webServer(t)
	c, _ := connect(t, p, target)
	p.signal(syscall.SIGTERM)
	p.eventually("/readyz", `"ready": false`)
	if code, body := p.get("/readyz"); code != 503 || !strings.Contains(body, "draining") {
		t.Error(code, body)
	}
	late, code := connect(t, p, target)
	if code != 0 {
		t.Error("refused within the grace: reply", code)
	}
	late.Close()
	// The session outlives the listener, and its end ends the process.
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(patience); ; <-tick.C {
		probe, err := net.Dial("tcp", p.socks)
		if err != nil {
			break
		}
		probe.Close()
		if time.Now().After(end) {
			t.Fatal("the listener stays open after the grace")
		}
	}
	if _, err := io.WriteString(c, "GET / HTTP/1.0\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	if body, err := io.ReadAll(c); err != nil || !strings.HasSuffix(string(body), "hello") {
		t.Errorf("a session was cut by the drain: %v %s", err, body)
	}
	c.Close()
	if line := p.logged("stopped"); line["cut"] != 0.0 {
		t.Error(line)
	}
	if code := p.exit(); code != 0 {
		t.Error("exit code", code)
	}
}

func TestDrainCutsWhatDoesNotEnd(t *testing.T) {
	t.Parallel()
	p := launch(t, "USHER_DRAIN_TIMEOUT=100ms", "USHER_CONFIG="+ruleFile(t, passLoopback))
	c, _ := connect(t, p, webServer(t))
	p.signal(syscall.SIGTERM)
	line := p.logged("stopped")
	if seconds, ok := line["longest_seconds"].(float64); line["cut"] != 1.0 || line["cut_by_rule"] != "s1 connect 1" || !ok || seconds <= 0 {
		t.Error(line)
	}
	if ended := p.logged("session ended"); line["longest_session"] != ended["session"] {
		t.Error(line, ended)
	}
	if code := p.exit(); code != 0 {
		t.Error("exit code", code)
	}
	if _, err := c.Read(make([]byte, 1)); err == nil {
		t.Error("the session goes on without usher")
	}
}

func TestSecondSignalExitsAtOnce(t *testing.T) {
	t.Parallel()
	p := launch(t, "USHER_DRAIN_GRACE=10m")
	p.signal(syscall.SIGTERM)
	p.logged("draining")
	tick := time.NewTicker(50 * time.Millisecond) // some of these are repeats
	defer tick.Stop()
	for ended := false; !ended; {
		select {
		case <-p.ended:
			ended = true
		case <-tick.C:
			_ = p.cmd.Process.Signal(syscall.SIGINT) // it may have ended
		}
	}
	if code := p.exit(); code != 1 {
		t.Error("exit code", code)
	}
	p.logged("second signal, exiting at once")
}

// One wish to stop may arrive as several signals, in any order.
func TestRepeatedSignalsAreOneStop(t *testing.T) {
	t.Parallel()
	for _, order := range [][]syscall.Signal{{syscall.SIGTERM, syscall.SIGTERM}, {syscall.SIGTERM, syscall.SIGINT, syscall.SIGTERM}, {syscall.SIGINT, syscall.SIGTERM}} {
		p := launch(t)
		c, _ := connect(t, p, webServer(t)) // so that the drain lasts
		for _, sig := range order {
			p.signal(sig)
		}
		p.logged("draining")
		if order[0] != order[1] { // two pending signals of one kind are one
			p.logged("repeated signal ignored")
		}
		c.Close()
		if code := p.exit(); code != 0 {
			t.Errorf("%v: exit code %d", order, code)
		}
		p.logged("stopped")
	}
}

func TestEnvironmentWinsOverInternal(t *testing.T) {
	t.Parallel()
	file := ruleFile(t, "internal: 127.0.0.1 port = 1\nexternal: 127.0.0.1\n"+passLoopback)
	p := launch(t, "USHER_CONFIG="+file)
	if line := p.logged("USHER_LISTEN overrides internal: in the rule file"); line["internal"] != file+":1:11" {
		t.Error(line)
	}
}

// Warnings about correct rules are logged at the start and at a reload.
func TestRulesAreLintedAtTheStart(t *testing.T) {
	t.Parallel()
	p := launch(t, "USHER_CONFIG="+ruleFile(t, passLoopback+"socks pass { from: 127.0.0.1/32 to: 192.0.2.0/24 }\n"))
	const dead = "this rule never matches: s1 (line 3) matches everything first"
	p.logged(dead)
	p.signal(syscall.SIGHUP)
	p.loggedTimes(dead, 2)
}

// overlooked returns rules that take much longer to lint than to load, even on a busy
// machine: no index tells them apart, and many names must be compared before two rules
// differ.
func overlooked() string {
	var text strings.Builder
	text.WriteString("socksmethod: username\nclient pass { from: 0/0 to: 0/0 }\n")
	for i := range 2048 {
		text.WriteString("socks block { from: 0/0 to: ::1/128\nuser:")
		for name := range 100 {
			fmt.Fprint(&text, " a", name)
		}
		for bit := range 11 { // every rule has a name that another one has not
			fmt.Fprintf(&text, " b%d%c", bit, "ny"[i>>bit&1])
		}
		text.WriteString(" }\n")
	}
	return text.String() + "socks pass { from: 0/0 to: 0/0 }\n"
}

// Neither clients nor signals wait until the rules have been linted. Many requests to
// reload do not displace a request to stop.
func TestNobodyWaitsForTheLint(t *testing.T) {
	need.Seconds(t)
	t.Parallel()
	file := ruleFile(t, overlooked())
	people := write(t, filepath.Join(t.TempDir(), "users"),
		"monica:$2b$05$abcdefghijklmnopqrstuutXu9KzOt.1yBoZUeFWoT/914/JfszCO\n") // open-sesame
	for _, reloads := range []int{0, 100} {
		p := launch(t, "USHER_CONFIG="+file, "USHER_USERS_FILE="+people, "USHER_DRAIN_TIMEOUT=100ms")
		if code := connectAs(t, p, "monica", "open-sesame", webServer(t)); code != 0 {
			t.Error("reply", code)
		}
		for range reloads {
			p.signal(syscall.SIGHUP)
			p.get("/readyz") // without a pause they would be one
		}
		p.signal(syscall.SIGTERM)
		p.logged("draining")
		if code := p.exit(); code != 0 {
			t.Error("exit code", code)
		}
		p.mu.Lock()
		if strings.Contains(p.raw.String(), "lets clients reach") {
			t.Error("the rules were linted before the test could ask: the test proves nothing")
		}
		p.mu.Unlock()
	}
}

func TestInternal(t *testing.T) {
	t.Parallel()
	p := launch(t, "USHER_LISTEN=", "USHER_CONFIG="+ruleFile(t, "internal: 127.0.0.7 port = 0\n"+passLoopback))
	if !strings.HasPrefix(p.socks, "127.0.0.7:") {
		t.Error(p.socks)
	}
}

func TestLogFilesAreReopened(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	all, errs := filepath.Join(dir, "all.log"), filepath.Join(dir, "errors.log")
	file := ruleFile(t, "logoutput: stderr "+all+"\nerrorlog: "+errs+"\n"+passLoopback)
	p := launch(t, "USHER_CONFIG="+file)
	if err := os.Rename(all, all+".1"); err != nil {
		t.Fatal(err)
	}
	write(t, file, "nonsense\n")
	p.signal(syscall.SIGHUP)
	p.eventually("/metrics", "usher_config_last_reload_successful 0\n")
	p.logged("reload failed, keeping the old rules")
	p.signal(syscall.SIGTERM)
	p.exit()
	for name, want := range map[string][2]string{ // what is in it, and what is not
		all + ".1": {"usher starts", "reload failed"},
		all:        {"reload failed", "usher starts"},
		errs:       {"reload failed", "usher starts"},
	} {
		text, err := os.ReadFile(name)
		if err != nil || !strings.Contains(string(text), want[0]) || strings.Contains(string(text), want[1]) {
			t.Errorf("%s: %v\n%s", name, err, text)
		}
	}
}

// TestMetricsAreDocumented compares docs/observability.md with /metrics.
func TestMetricsAreDocumented(t *testing.T) {
	t.Parallel()
	doc, err := os.ReadFile("../../docs/observability.md")
	if err != nil {
		t.Fatal(err)
	}
	p := launch(t, "USHER_CONFIG="+ruleFile(t, passLoopback))
	connect(t, p, webServer(t))
	connect(t, p, "127.0.0.1:1") // nobody listens there
	p.eventually("/metrics", "usher_connect_errors_total{")
	_, body := p.get("/metrics")
	found := 0
	for line := range strings.Lines(body) {
		name, isHelp := strings.CutPrefix(line, "# HELP ")
		if name, _, _ = strings.Cut(name, " "); isHelp && strings.HasPrefix(name, "usher_") {
			found++
			if !strings.Contains(string(doc), "\n| `"+name+"` |") {
				t.Errorf("docs/observability.md does not describe %s", name)
			}
		}
	}
	// Those that only failures of the store and refusals bring are not here.
	if rows := strings.Count(string(doc), "\n| `usher_"); found < 15 || rows < found || rows > found+3 {
		t.Errorf("docs/observability.md describes %d metrics, /metrics has %d", rows, found)
	}
}

func TestExternalIsTheSource(t *testing.T) {
	t.Parallel()
	target, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer target.Close()
	p := launch(t, "USHER_CONFIG="+ruleFile(t, "external: 127.0.0.9\n"+passLoopback))
	if _, code := connect(t, p, target.Addr().String()); code != 0 {
		t.Fatal("reply", code)
	}
	c, err := target.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if from := c.RemoteAddr().String(); !strings.HasPrefix(from, "127.0.0.9:") {
		t.Error("connected from", from)
	}
}

func TestAdminIsNoTarget(t *testing.T) {
	t.Parallel()
	p := launch(t)
	if _, code := connect(t, p, p.admin); code != 2 {
		t.Error("a client reached the admin listener: reply", code)
	}
}
