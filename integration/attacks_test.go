package integration

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"
)

// The TestAttack tests attack one running replica from outside. Each checks what the
// attacker achieves, that log and metrics show the attack, that an honest client is
// served meanwhile, and that nothing is left behind. docs/security.md names them.

// Where attackers and honest clients of these tests come from.
const attackerSource, honestSource = "127.0.8.1", "127.0.7.1"

// attack is a replica under attack.
type attack struct {
	*world
	t     testing.TB
	r     *replica
	start leftovers // what the replica has when it is idle
}

// newAttack starts a replica and serves an honest client once. So what the first
// session leaves for good (resolver, pools) is not taken for a leak. At the end of the
// test, nothing else may be left.
func newAttack(t testing.TB, o options) *attack {
	t.Helper()
	o.replicas, o.alone = 1, true
	w := newWorld(t, o)
	a := &attack{world: w, t: t, r: w.replicas[0]}
	a.honest()
	w.waitNoSlots(t)
	a.start = a.r.idle(t)
	t.Cleanup(func() {
		if t.Failed() {
			return
		}
		a.honest()
		a.over()
	})
	return a
}

// over waits until the attack has left nothing behind.
func (a *attack) over() {
	a.t.Helper()
	a.waitNoSlots(a.t)
	a.r.waitIdle(a.t, a.start)
}

// honest fails the test unless an honest client is served.
func (a *attack) honest() {
	a.t.Helper()
	c := client{proxy: a.r.socks, from: netip.MustParseAddr(honestSource)}
	got := c.connect(a.free.String())
	if !got.relays() {
		a.t.Errorf("an honest client: reply %d, %v", got.reply, got.err)
	}
	if got.Conn != nil {
		got.Close()
	}
}

// send sends bytes from an address and returns all that comes back until the
// proxy closes the connection.
func (a *attack) send(from, bytes string) string {
	a.t.Helper()
	conn, err := client{proxy: a.r.socks, from: netip.MustParseAddr(from)}.dial()
	if err != nil {
		a.t.Fatal(err)
	}
	defer conn.Close()
	_, _ = io.WriteString(conn, bytes) // the proxy may hang up before it has read all
	got, err := io.ReadAll(conn)
	if err != nil && !reset(err) {
		a.t.Errorf("%.40q: the proxy does not close the connection: %v", bytes, err)
	}
	return string(got)
}

// open sends bytes from an address and returns the connection and the first n
// bytes that come back, fewer if the proxy closes it.
func (a *attack) open(from, bytes string, n int) (net.Conn, string) {
	a.t.Helper()
	conn, err := client{proxy: a.r.socks, from: netip.MustParseAddr(from)}.dial()
	if err != nil {
		a.t.Fatal(err)
	}
	a.t.Cleanup(func() { conn.Close() })
	if _, err := io.WriteString(conn, bytes); err != nil {
		a.t.Fatal(err)
	}
	got := make([]byte, n)
	read, err := io.ReadFull(conn, got)
	if err != nil && !reset(err) && read > 0 && read < n {
		a.t.Logf("%.40q: %d of %d bytes: %v", bytes, read, n, err)
	}
	return conn, string(got[:read])
}

// refused returns the log lines about refused sessions with this reason.
func (a *attack) refused(reason string) []map[string]any {
	a.t.Helper()
	return refusedIn(a.t, a.r.proc.out.String(), reason)
}

// refusedIn returns the lines of a JSON log about sessions that were refused for
// a reason.
func refusedIn(t testing.TB, log, reason string) (lines []map[string]any) {
	t.Helper()
	for line := range strings.Lines(log) {
		var fields map[string]any
		if err := json.Unmarshal([]byte(line), &fields); err != nil {
			t.Fatalf("log line %q: %v", line, err)
		}
		if fields["msg"] == "session refused" && fields["reason"] == reason {
			lines = append(lines, fields)
		}
	}
	return lines
}

// wantRefused waits until n sessions are logged and counted as refused for a
// reason. All log lines name the client's address.
func (a *attack) wantRefused(reason string, n int, from string) {
	a.t.Helper()
	eventually(a.t, patience, func() string {
		lines := a.refused(reason)
		counted := a.r.metrics(a.t).sum("usher_sessions_rejected_total", fmt.Sprintf("reason=%q", reason))
		if len(lines) != n || counted != float64(n) {
			return fmt.Sprintf("%d sessions are logged and %v counted as %s, want %d", len(lines), counted, reason, n)
		}
		return ""
	})
	for _, line := range a.refused(reason) {
		if host, _, _ := net.SplitHostPort(fmt.Sprint(line["client"])); host != from {
			a.t.Errorf("the log says %v, want a client at %s", line, from)
		}
	}
}
