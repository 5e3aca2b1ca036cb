package integration

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/crypto/bcrypt"

	"usher/deploy/need"
)

// greeted is a client in the middle of its negotiation: it has sent its greeting and
// received the method. It has not sent a request.
func (c client) greeted(t testing.TB) net.Conn {
	t.Helper()
	conn, err := c.dial()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	if _, err := conn.Write([]byte{5, 1, 0}); err != nil {
		t.Fatal(err)
	}
	var method [2]byte
	if _, err := io.ReadFull(conn, method[:]); err != nil || method != [2]byte{5, 0} {
		t.Fatalf("method reply % x: %v", method, err)
	}
	return conn
}

// closedWithoutAByte sends a greeting. If the proxy does anything but close the
// connection, it says what, else it returns "".
func (c client) closedWithoutAByte() (trouble string) {
	conn, err := c.dial()
	if err != nil {
		return err.Error()
	}
	defer conn.Close()
	if _, err := conn.Write([]byte{5, 1, 0}); err != nil && !reset(err) {
		return err.Error()
	}
	got, err := io.ReadAll(conn)
	if len(got) > 0 || err != nil && !reset(err) {
		return fmt.Sprintf("got % x, %v", got, err)
	}
	return ""
}

// reset reports whether the other side dropped the connection. It does so with
// a reset if it closed before it had read everything.
func reset(err error) bool {
	return errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)
}

// TestTenNegotiating is the first example of the page on Dante's session module: a
// client-rule limits the clients that negotiate, over all replicas. It does not limit
// them after that.
func TestTenNegotiating(t *testing.T) {
	w := newWorld(t, options{rules: func(limited, _ endpoint) string {
		return fmt.Sprintf(`
client-pass {
   from: 127.0.0.0/8 to: 0/0
   maxsessions: 10
}
client-pass {
   from: 0/0 to: 0/0
}
pass {
   from: 0/0 to: %s
}`, limited.to())
	}})
	var negotiating []net.Conn
	for range 10 {
		negotiating = append(negotiating, w.proxy.greeted(t))
	}
	// Full: closed without a byte, whichever replica, and no other rule asked.
	for _, r := range w.replicas {
		if trouble := (client{proxy: r.socks}).closedWithoutAByte(); trouble != "" {
			t.Errorf("%s, eleventh client: %s", r.name, trouble)
		}
	}
	if trouble := w.proxy.closedWithoutAByte(); trouble != "" {
		t.Errorf("eleventh client through the balancer: %s", trouble)
	}
	// Ten times as many may be active once they have negotiated.
	for round := range 10 {
		for i, conn := range negotiating {
			if _, err := conn.Write(connectRequest(w.limited.String())); err != nil {
				t.Fatal(err)
			}
			a := readReply(conn)
			a.Conn = conn
			if a.reply != granted || !a.relays() {
				t.Fatalf("round %d, client %d: reply %d %v", round, i, a.reply, a.err)
			}
		}
		if now, _ := w.echo.open(); now != 10*(round+1) {
			t.Fatalf("the target has %d connections, want %d", now, 10*(round+1))
		}
		for i := range negotiating {
			eventually(t, patience, func() string {
				conn, err := w.proxy.dial()
				if err != nil {
					return err.Error()
				}
				var method [2]byte
				if _, err := conn.Write([]byte{5, 1, 0}); err == nil {
					if _, err = io.ReadFull(conn, method[:]); err == nil {
						negotiating[i] = conn
						t.Cleanup(func() { conn.Close() })
						return ""
					}
				}
				conn.Close()
				return fmt.Sprintf("round %d: slot %d of the negotiation is not free", round, i)
			})
		}
	}
}

// TestTenOnTheWeb is the second example of the page on the session module, with the
// port of a local target instead of http.
func TestTenOnTheWeb(t *testing.T) {
	w := newWorld(t, options{rules: func(web, other endpoint) string {
		return fmt.Sprintf(`
client-pass {
   from: 0/0 to: 0/0
}
pass {
   from: 127.0.0.0/8 to: 0/0 port %d
   maxsessions: 10
}
pass {
   from: 0/0 to: 0/0 port %d
}`, web.port, other.port)
	}})
	web := w.proxy.ask(t, 25, w.limited.String())
	web.want(t, 10, notAllowed)
	w.proxy.ask(t, 25, w.free.String()).want(t, 25, notAllowed)
	web.alive().want(t, 10, notAllowed)
}

// users returns a users file with these names, whose passwords are "pw-NAME".
func users(t testing.TB, names ...string) string {
	t.Helper()
	var text strings.Builder
	for _, name := range names {
		hash, err := bcrypt.GenerateFromPassword([]byte("pw-"+name), bcrypt.MinCost)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&text, "%s:%s\n", name, hash)
	}
	return text.String()
}

// TestMonica is the third example of the page on the session module: one FTP session
// for monica, no limit for others.
func TestMonica(t *testing.T) {
	w := newWorld(t, options{users: users(t, "monica", "jo"), rules: func(ftp, _ endpoint) string {
		return fmt.Sprintf(`
socksmethod: username none
client-pass {
   from: 0/0 to: 0/0
}
# first, limit monica to one FTP session
pass {
   from: 0/0 to: 0/0 port %[1]d
   maxsessions: 1
   user: monica
}

# then a rule with no limits for all other users.  Remember,
# first match is what is used for matching rules.  The above
# rule should match "monica", while the rule below should
# match everyone else.
pass {
   from: 0/0 to: 0/0 port %[1]d
}`, ftp.port)
	}})
	as := func(user, password string) client {
		return client{proxy: w.proxy.proxy, user: user, password: password}
	}
	monica := as("monica", "pw-monica").ask(t, 12, w.limited.String())
	monica.want(t, 1, notAllowed)
	as("jo", "pw-jo").ask(t, 12, w.limited.String()).want(t, 12, notAllowed)
	w.proxy.ask(t, 12, w.limited.String()).want(t, 12, notAllowed)
	as("monica", "pw-monica").ask(t, 3, w.limited.String()).want(t, 0, notAllowed)
	as("monica", "pw-jo").ask(t, 3, w.limited.String()).want(t, 0, noMethod)
	as("nobody", "pw-monica").ask(t, 3, w.limited.String()).want(t, 0, noMethod)
	monica.close()
	eventually(t, patience, func() string {
		a := as("monica", "pw-monica").connect(w.limited.String())
		if a.Conn == nil {
			return fmt.Sprintf("monica's only session is over, and the next gets reply %d", a.reply)
		}
		a.Close()
		return ""
	})
}

// TestLayer4Page is the minimal configuration for two nodes on Dante's page about
// redundancy, with addresses and a log file of the test. It listens at internal:, and
// connects from external:.
func TestLayer4Page(t *testing.T) {
	e := startEcho(t)
	adminPort := need.Port(t)
	for i, node := range []struct{ internal, external string }{
		{"127.0.2.1", "127.0.2.11"},
		{"127.0.2.2", "127.0.2.12"},
	} {
		log := filepath.Join(t.TempDir(), "sockd.log")
		rules := filepath.Join(t.TempDir(), "sockd.conf")
		writeFile(t, rules, fmt.Sprintf(`errorlog: syslog
logoutput: %s

internal: %s     #IP-DANTE2 for second node
external: %s  #IP-DANTEEXT2 for second node

client pass {
        from: 0/0 to: 0/0
        log: error connect disconnect
}

socks pass {
        from: 0/0 to: 0/0
        log: error connect disconnect
}
`, log, node.internal, node.external))
		r := startReplica(t, fmt.Sprintf("node %d", i+1), node.internal, 1080, adminPort, map[string]string{
			"USHER_LISTEN": "", "USHER_CONFIG": rules,
		})
		all := client{proxy: r.socks, from: netip.MustParseAddr("127.0.3.1")}.ask(t, 3, e.endpoint().String())
		all.want(t, 3, notAllowed)
		for _, from := range e.sources() {
			if from.String() != node.external {
				t.Errorf("the target sees a client from %v, want %s", from, node.external)
			}
		}
		all.close()
		eventually(t, patience, func() string {
			if now, _ := e.open(); now != 0 {
				return fmt.Sprintf("%d connections to the target are left", now)
			}
			if said := readFile(t, log); strings.Count(said, e.endpoint().String()) < 3 {
				return "the log file does not tell of three sessions:\n" + said
			}
			return ""
		})
	}
}

// TestFullRuleIsAVerdict checks that a full rule ends the search for a rule, and that
// the kinds of refusal differ as with Dante.
func TestFullRuleIsAVerdict(t *testing.T) {
	w := newWorld(t, options{replicas: 1, rules: func(limited, free endpoint) string {
		return fmt.Sprintf(`
client block {
	from: 127.0.9.0/24 to: 0/0
}
client pass {
	from: 0/0 to: 0/0
}
socks pass {
	from: 0/0 to: %s
	session.max: 2
}
socks block {
	from: 0/0 to: %s
}
socks pass {
	from: 0/0 to: 0/0
}`, limited.to(), free.to())
	}})
	direct := client{proxy: w.replicas[0].socks}
	direct.ask(t, 6, w.limited.String()).want(t, 2, notAllowed)
	direct.ask(t, 2, w.free.String()).want(t, 0, notAllowed)
	other := startEcho(t)
	direct.ask(t, 2, other.endpoint().String()).want(t, 2, notAllowed)
	direct.from = netip.MustParseAddr("127.0.9.1")
	if trouble := direct.closedWithoutAByte(); trouble != "" {
		t.Errorf("a blocked client: %s", trouble)
	}
	// The balancer passes the client's address on.
	blocked := client{proxy: w.proxy.proxy, from: direct.from}
	if trouble := blocked.closedWithoutAByte(); trouble != "" {
		t.Errorf("a blocked client through the balancer: %s", trouble)
	}
	eventually(t, patience, func() string { // a session is counted after its connection is closed
		m := w.replicas[0].metrics(t)
		for _, reason := range []string{"limit", "blocked"} {
			if got := m.sum("usher_sessions_rejected_total", fmt.Sprintf("reason=%q", reason)); got != 4 {
				return fmt.Sprintf("usher_sessions_rejected_total{reason=%q} is %v, want 4", reason, got)
			}
		}
		return ""
	})
}

// TestProxyHeaderIsForTheBalancerAlone sends PROXY headers from other addresses, and
// connects without one from the balancer's address.
func TestProxyHeaderIsForTheBalancerAlone(t *testing.T) {
	w := newWorld(t, options{replicas: 1})
	direct := client{proxy: w.replicas[0].socks}
	for name, header := range map[string]string{
		"version 1": "PROXY TCP4 127.0.5.5 127.0.0.1 4444 1080\r\n",
		"version 2": "\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x0c\x7f\x00\x05\x05\x7f\x00\x00\x01\x11\x5c\x04\x38",
	} {
		send := func(from string) []byte {
			c := direct
			c.from = netip.MustParseAddr(from)
			conn, err := c.dial()
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			if _, err := io.WriteString(conn, header+"\x05\x01\x00"); err != nil && !reset(err) {
				t.Fatal(err)
			}
			got := make([]byte, 2)
			n, err := io.ReadFull(conn, got)
			if err != nil && !reset(err) && !errors.Is(err, io.EOF) {
				t.Errorf("%s from %s: %v", name, from, err)
			}
			return got[:n]
		}
		if got := send("127.0.0.1"); len(got) != 0 {
			t.Errorf("%s header from a client that is no balancer: answered % x", name, got)
		}
		if got := send(balancerSource); !bytes.Equal(got, []byte{5, 0}) {
			t.Errorf("%s header from the balancer: answered % x", name, got)
		}
	}
	direct.from = netip.MustParseAddr(balancerSource)
	if trouble := direct.closedWithoutAByte(); trouble != "" {
		t.Errorf("the balancer without a header: %s", trouble)
	}
}

// TestSilentClient checks that negotiation has one absolute deadline.
func TestSilentClient(t *testing.T) {
	w := newWorld(t, options{replicas: 1, rules: func(limited, free endpoint) string {
		return "timeout.negotiate: 1\n" + standard(5)(limited, free)
	}})
	direct := client{proxy: w.replicas[0].socks}
	for name, sent := range map[string][]byte{
		"silent":         nil,
		"half greeting":  {5, 2},
		"half a request": {5, 1, 0, 5, 1, 0, 1, 127},
	} {
		begin := time.Now()
		conn, err := direct.dial()
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if _, err := conn.Write(sent); err != nil {
			t.Fatal(err)
		}
		if _, err := io.Copy(io.Discard, conn); err != nil && !reset(err) {
			t.Fatalf("%s: %v", name, err)
		}
		if took := time.Since(begin); took < time.Second {
			t.Errorf("%s client: ended after %v, before the 1s", name, took)
		}
	}
	// Single bytes do not extend the deadline.
	conn, err := direct.dial()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	slow := append([]byte{5, 200}, bytes.Repeat([]byte{0}, 200)...) // 20 seconds
	for len(slow) > 0 {
		if _, err := conn.Write(slow[:1]); err != nil {
			break
		}
		slow = slow[1:]
		<-tick.C
	}
	if len(slow) == 0 {
		t.Error("a trickling client got its whole greeting through")
	}
	w.waitIdle()
}
