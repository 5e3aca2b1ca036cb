package probe

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"usher/deploy/need"
	"usher/proxy/socks"
)

// started runs a SOCKS server until the test ends, and waits until it listens.
func started(t *testing.T, address, program string, args ...string) {
	t.Helper()
	cmd := exec.Command(need.Program(t, program), args...)
	log, err := os.CreateTemp(t.TempDir(), "log")
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		// Whatever is started in the background of a shell ignores SIGINT.
		cmd.Process.Signal(syscall.SIGTERM)                                 //nolint:errcheck // it may have ended
		ended := time.AfterFunc(time.Minute, func() { cmd.Process.Kill() }) //nolint:errcheck // it may have ended
		defer ended.Stop()
		cmd.Wait() //nolint:errcheck // it ends by a signal
		if text, _ := os.ReadFile(log.Name()); t.Failed() {
			t.Logf("%s:\n%s", program, text)
		}
	})
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(time.Minute); time.Now().Before(end); <-tick.C {
		if conn, err := net.Dial("tcp", address); err == nil {
			conn.Close()
			return
		}
	}
	t.Fatalf("%s does not listen at %s", program, address)
}

// TestDante probes danted by every command.
func TestDante(t *testing.T) {
	address := dead(t)
	host, port, _ := net.SplitHostPort(address)
	dir := t.TempDir()
	config := filepath.Join(dir, "danted.conf")
	err := os.WriteFile(config, fmt.Appendf(nil, `logoutput: stderr
internal: %s port = %s
external: lo
socksmethod: none
clientmethod: none
user.privileged: root
user.unprivileged: root
client pass { from: 0/0 to: 0/0 }
socks block { from: 0/0 to: 127.0.0.66/32 }
socks pass { from: 0/0 to: 0/0
	command: connect bind udpassociate bindreply udpreply }
`, host, port), 0o600)
	if err != nil {
		t.Fatal(err)
	}
	started(t, address, "danted", "-f", config, "-p", filepath.Join(dir, "pid"))
	o := options(address)
	isUp(t, "connect", o)
	for name, command := range map[string]socks.Command{"bind": socks.Bind, "udp": socks.UDPAssociate} {
		p := o
		p.Command = command
		isUp(t, name, p)
	}
	o.Count = 20
	isUp(t, "20 sessions", o)
	o.Count, o.Bind = 1, netip.MustParseAddr("127.0.0.66")
	isDown(t, "blocked", o, Refused, "reply 2, not allowed by the rules")
	o.Bind, o.Version = netip.Addr{}, socks.V4
	isUp(t, "SOCKS 4", o)
}

func TestMicrosocks(t *testing.T) {
	address := dead(t)
	host, port, _ := net.SplitHostPort(address)
	started(t, address, "microsocks", "-i", host, "-p", port, "-u", "monica", "-P", "secret")
	o := options(address)
	isDown(t, "without a password", o, Method, "without a password")
	o.User, o.Password = "monica", "secret"
	isUp(t, "with a password", o)
	o.Password = "other"
	isDown(t, "with another password", o, Password, `rejected the password of "monica"`)
	o.Password, o.Command = "secret", socks.UDPAssociate
	isDown(t, "udp", o, Refused, "reply 7, command not supported")
}
