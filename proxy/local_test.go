package proxy_test

import (
	"fmt"
	"io"
	"net/netip"
	"testing"

	proxyproto "github.com/pires/go-proxyproto"

	"usher/proxy/socks"
)

// localHeaders are PROXY headers of kind LOCAL: as balancers send it, and with
// addresses, which are allowed and must be ignored.
func localHeaders(t *testing.T) [][]byte {
	t.Helper()
	withAddresses := header(t, 2, proxyproto.PROXY)
	withAddresses[12] = byte(proxyproto.LOCAL)
	return [][]byte{header(t, 2, proxyproto.LOCAL), withAddresses}
}

// requireFree fails if a slot or a rate of a rule was used, or if anything was logged
// or counted.
func (w *world) requireFree() {
	w.t.Helper()
	w.left("", 0)
	w.log.wait(w.t, 0)
	if n := w.server.Sessions(); n != 0 {
		w.t.Errorf("%d sessions, want none", n)
	}
	families, err := w.metrics.Gather()
	if err != nil {
		w.t.Fatal(err)
	}
	for _, f := range families {
		switch f.GetName() {
		case "usher_sessions_admitted_total", "usher_sessions_rejected_total", "usher_connect_errors_total":
			for _, m := range f.GetMetric() {
				if m.GetCounter().GetValue() != 0 {
					w.t.Errorf("%s: %v, want nothing counted", f.GetName(), m)
				}
			}
		}
	}
}

// check runs health checks of each kind, one after the other. answer is the method in
// the reply to the greeting.
func (w *world) check(answer socks.Method) {
	w.t.Helper()
	w.client().Close() // connect and close
	for _, head := range localHeaders(w.t) {
		only := w.client()
		only.send(head)
		only.Close()
		greeted := w.client()
		greeted.send(append(head[:len(head):len(head)], 5, 2, 0, 2))
		greeted.expect([]byte{5, byte(answer)})
		greeted.Close()
		halfClosed := w.client()
		halfClosed.send(append(head[:len(head):len(head)], 5, 2, 0, 2))
		halfClosed.must(halfClosed.CloseWrite())
		halfClosed.expect([]byte{5, byte(answer)})
		halfClosed.closed()
		refused := w.client()
		refused.send(append(head[:len(head):len(head)], 5, 1, 7))
		refused.expect([]byte{5, byte(socks.NoAcceptable)})
		refused.closed()
	}
}

// A health check takes no slot, uses up no rate, and is not logged, whatever the rules
// say about the balancer's address.
func TestHealthChecks(t *testing.T) {
	for _, c := range []struct {
		name, rules string
		answer      socks.Method
	}{
		{"nobody is let in", "client block { from: 0/0 to: 0/0 }\n", socks.NoAuth},
		{"no rule matches", "client pass { from: 192.0.2.0/24 to: 0/0\nsocksmethod: username\n}\n", socks.NoAuth},
		{"its rule has another method", "client pass { from: 127.0.0.0/8 to: 0/0\nsocksmethod: username\n}\n", socks.Username},
		{"its rule has a limit and a rate", "client pass { from: 127.0.0.0/8 to: 0/0\nsession.max: 1\nsession.throttle: 1/3600\n}\n", socks.NoAuth},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t, "socksmethod: none username\n"+c.rules+"socks pass { from: 0/0 to: 0/0 }\n", trusting, withMonica(t), unhurried)
			w.check(c.answer)
			w.requireFree()
		})
	}
}

// A health check passes while the limit is full of clients.
func TestHealthChecksBesideAFullLimit(t *testing.T) {
	to := echo(t)
	w := newWorld(t, "client pass { from: 0/0 to: 0/0\nsession.max: 1\n}\nsocks pass { from: 0/0 to: 0/0 }\n", trusting, unhurried)
	one := w.client()
	one.send(header(t, 2, proxyproto.PROXY))
	one.connect(to, socks.Succeeded)
	w.check(socks.NoAuth)
	one.Close()
	w.reason("done")
	w.left("c1", 1)
}

// asLocal sends a header of kind LOCAL and then a whole session. It reports whether
// that was granted.
func (w *world) asLocal(head []byte, q socks.Request) (c *client, granted bool) {
	w.t.Helper()
	c = w.client()
	c.send(head)
	if q.Version == socks.V5 {
		c.must(socks.WriteGreeting(c, socks.NoAuth))
		c.expect([]byte{5, 0})
	}
	c.must(socks.WriteRequest(c, q))
	reply, err := socks.ReadReply(c, q.Version)
	if err != nil && err != io.EOF { //nolint:errorlint // an end after the first byte is another error
		w.t.Fatal(err)
	}
	return c, err == nil && reply.Code == socks.Succeeded
}

// A connection that sends more than a greeting after LOCAL is a client, with the
// address of the connection. All of them count in the limit of 2, whatever they ask
// for.
func TestLocalIsLimited(t *testing.T) {
	t.Parallel()
	to := echo(t)
	const attempts, limit = 50, 2
	for _, q := range []socks.Request{
		{Version: socks.V5, Command: socks.Connect, Addr: to},
		{Version: socks.V4, Command: socks.Connect, Addr: to},
		{Version: socks.V5, Command: socks.Bind, Addr: to},
		{Version: socks.V4, Command: socks.Bind, Addr: to},
		{Version: socks.V5, Command: socks.UDPAssociate, Addr: nowhere},
	} {
		for _, where := range []string{"client", "socks"} {
			t.Run(fmt.Sprintf("%d-%d-%s", q.Version, q.Command, where), func(t *testing.T) {
				w := newWorld(t, limitIn(where, limit), trusting)
				heads := localHeaders(t)
				granted := 0
				for i := range attempts {
					if _, ok := w.asLocal(heads[i%len(heads)], q); ok {
						granted++
					}
				}
				if granted != limit {
					t.Errorf("%d of %d granted, want %d", granted, attempts, limit)
				}
				w.localIsShown(where, attempts, limit)
			})
		}
	}
}

// limitIn returns rules that let clients of loopback in, with a limit in the
// client-rule or in the socks-rule.
func limitIn(where string, limit int) string {
	in := map[string]string{where: fmt.Sprintf("session.max: %d", limit)}
	return "client pass { from: 127.0.0.0/8 to: 0/0\n" + in["client"] + "\n}\nsocks pass { from: 127.0.0.0/8 to: 0/0\n" + in["socks"] + "\n}\n"
}

// localIsShown checks that log, metrics and status show granted and refused sessions,
// with the address of the connection.
func (w *world) localIsShown(where string, attempts, granted int) {
	w.t.Helper()
	rule := map[string]string{"client": "c1", "socks": "s1"}[where]
	for _, line := range w.log.wait(w.t, attempts-granted) {
		at, err := netip.ParseAddrPort(fmt.Sprint(line["client"]))
		if line["reason"] != "limit" || err != nil || !at.Addr().IsLoopback() {
			w.t.Fatalf("log %v, want the limit at the address of the connection", line)
		}
	}
	if n := w.metric("usher_sessions_rejected_total", "rule", rule, "reason", "limit"); n != float64(attempts-granted) {
		w.t.Errorf("%v counted as refused by %s, want %d", n, rule, attempts-granted)
	}
	eventually(w.t, func() string { // a session is logged before it leaves
		if n := w.server.Sessions(); n != granted {
			return fmt.Sprintf("%d sessions, want %d", n, granted)
		}
		return ""
	})
	w.hold("s1", granted)
}

// The client-rules judge the address of the connection. Blocked clients are closed
// without a reply and logged.
func TestLocalIsJudged(t *testing.T) {
	to := echo(t)
	for _, c := range []struct{ name, rules, reason string }{
		{"blocked", "client block { from: 127.0.0.0/8 to: 0/0 }\nclient pass { from: 0/0 to: 0/0 }\n", "blocked"},
		{"not let in", "client pass { from: 192.0.2.0/24 to: 0/0 }\n", "blocked"},
		{"rate", "client pass { from: 0/0 to: 0/0\nsession.throttle: 1/3600\n}\n", "throttle"},
	} {
		for _, version := range []socks.Version{socks.V4, socks.V5} {
			t.Run(fmt.Sprintf("%s-%d", c.name, version), func(t *testing.T) {
				w := newWorld(t, c.rules+"socks pass { from: 0/0 to: 0/0 }\n", trusting)
				connect := socks.Request{Version: version, Command: socks.Connect, Addr: to}
				n := 0
				if c.reason == "throttle" {
					n = 1
					first, granted := w.asLocal(localHeaders(t)[0], connect)
					if !granted {
						t.Fatal("the first one of the rate is refused")
					}
					first.Close()
					w.log.wait(t, n)
				}
				refused, granted := w.asLocal(localHeaders(t)[0], connect)
				if granted {
					t.Error("granted")
				}
				refused.closed()
				line := w.log.wait(t, n+1)[n]
				if line["reason"] != c.reason || line["client"] != refused.LocalAddr().String() || line["command"] != nil {
					t.Errorf("log %v, want %s before there is a request", line, c.reason)
				}
			})
		}
	}
}

// Clients that come with LOCAL must use a method of the rules, too.
func TestLocalNeedsItsPassword(t *testing.T) {
	to := echo(t)
	for _, rules := range []string{
		"socksmethod: username\n" + anybody,
		"socksmethod: none username\nclient pass { from: 0/0 to: 0/0\nsocksmethod: username\n}\nsocks pass { from: 0/0 to: 0/0 }\n",
	} {
		w := newWorld(t, rules, trusting, withMonica(t))
		if _, granted := w.asLocal(localHeaders(t)[0], socks.Request{Version: socks.V4, Command: socks.Connect, Addr: to}); granted {
			t.Error("SOCKS 4 was granted")
		}
		if line := w.log.wait(t, 1)[0]; line["reason"] != "method" {
			t.Errorf("log %v, want the method", line)
		}
		for i, password := range []string{"wrong", "sesame"} {
			c := w.client()
			c.send(localHeaders(t)[0])
			c.must(socks.WriteGreeting(c, socks.NoAuth, socks.Username))
			c.expect([]byte{5, byte(socks.Username)})
			c.must(socks.WriteCredentials(c, socks.Credentials{User: "monica", Password: password}))
			if password == "wrong" {
				c.skip(2)
			} else {
				c.expect([]byte{1, 0})
				c.must(socks.WriteRequest(c, socks.Request{Version: socks.V5, Command: socks.Connect, Addr: to}))
				c.expect([]byte{5, 0, 0, 1})
				c.skip(6)
			}
			c.Close()
			line := w.log.wait(t, i+2)[i+1]
			if want := []string{"auth", "done"}[i]; line["reason"] != want || line["user"] != "monica" {
				t.Errorf("log %v, want %s", line, want)
			}
		}
	}
}

// If a connection ends before it is a complete check, and the balancer has not ended
// it, it is reported like a client's.
func TestLocalThatIsNoCheck(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ name, sent, reason string }{
		{"silent", "", "negotiation_timeout"},
		{"silent after the greeting", "\x05\x01\x00", "negotiation_timeout"},
		{"not SOCKS", "GET / HTTP/1.1\r\n\r\n", "protocol"},
		{"a second header", "PROXY TCP4 192.0.2.7 192.0.2.1 4711 1080\r\n", "proxy_header"},
		{"a byte more than a check", "\x05\x01\x00\x06", "protocol"},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t, "timeout.negotiate: 3\n"+anybody, trusting)
			client := w.client()
			client.send(append(localHeaders(t)[0], c.sent...))
			if len(c.sent) > 2 && c.sent[0] == 5 {
				client.expect([]byte{5, 0})
			}
			client.closed()
			if line := w.reason(c.reason); line["client"] != client.LocalAddr().String() {
				t.Errorf("log %v, want the address of the connection", line)
			}
		})
	}
}
