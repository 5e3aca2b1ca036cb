package main

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
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
	failed := p.logged("reload failed, the old rules serve on")
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
	if line := p.logged("reloaded"); line["changed"] != true || line["digest"] == before {
		t.Error(line)
	}
	if _, code := connect(t, p, webServer(t)); code != 2 {
		t.Error("the new rules are not in force: reply", code)
	}
}

func TestServeWarnsOfWhatNobodyCanProve(t *testing.T) {
	t.Parallel()
	file := ruleFile(t, passLoopback+"socks pass { from: 0/0 to: 0/0 user: monica }\n")
	p := launch(t, "USHER_CONFIG="+file)
	const dead = "user: there is no users file, so no client can log in and this rule never matches"
	if line := p.logged(dead); line["level"] != "WARN" || line["place"] != file+":4:32" {
		t.Error(line)
	}
	p.logged("there is no socksmethod: line, so none is assumed and no client is asked for a name")
}

func TestReloadOfUsers(t *testing.T) {
	t.Parallel()
	users := write(t, filepath.Join(t.TempDir(), "users"), "")
	p := launch(t, "USHER_USERS_FILE="+users)
	write(t, users, "monica:plain\n")
	p.signal(syscall.SIGHUP)
	if text := p.logged("reload failed, the old rules serve on")["error"].(string); !strings.Contains(text, users+":1") {
		t.Error(text)
	}
	p.eventually("/metrics", "usher_config_last_reload_successful 0\n")
}

func TestDrainIsSeenBeforeItHurts(t *testing.T) {
	t.Parallel()
	p := launch(t, "USHER_DRAIN_GRACE=2s", "USHER_DRAIN_TIMEOUT=10s")
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
	if line := p.logged("stopped"); line["cut"] != 1.0 {
		t.Error(line)
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
	p.signal(syscall.SIGINT)
	if code := p.exit(); code != 1 {
		t.Error("exit code", code)
	}
}

func TestEnvironmentWinsOverInternal(t *testing.T) {
	t.Parallel()
	file := ruleFile(t, "internal: 127.0.0.1 port = 1\nexternal: 127.0.0.1\n"+passLoopback)
	p := launch(t, "USHER_CONFIG="+file)
	if line := p.logged("USHER_LISTEN wins over internal: in the rule file"); line["internal"] != file+":1:11" {
		t.Error(line)
	}
}

func TestInternal(t *testing.T) {
	t.Parallel()
	p := launch(t, "USHER_LISTEN=", "USHER_CONFIG="+ruleFile(t, "internal: 127.0.0.7 port = 0\n"+passLoopback))
	if !strings.HasPrefix(p.socks, "127.0.0.7:") {
		t.Error(p.socks)
	}
}

func TestLogFilesAreOpenedAnew(t *testing.T) {
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
	p.logged("reload failed, the old rules serve on")
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

// TestMetricsAreDocumented holds docs/operations.md to what /metrics says.
func TestMetricsAreDocumented(t *testing.T) {
	t.Parallel()
	doc, err := os.ReadFile("../../docs/operations.md")
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
				t.Errorf("docs/operations.md does not describe %s", name)
			}
		}
	}
	// Those that only failures of the store and refusals bring are not here.
	if rows := strings.Count(string(doc), "\n| `usher_"); found < 15 || rows < found || rows > found+3 {
		t.Errorf("docs/operations.md describes %d metrics, /metrics has %d", rows, found)
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
