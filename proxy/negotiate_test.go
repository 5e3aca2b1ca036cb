package proxy_test

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"

	"usher/deploy/need"
	"usher/proxy"
	"usher/proxy/socks"
)

func TestPassword(t *testing.T) {
	to := echo(t)
	w := newWorld(t, anybody, withMonica(t))
	for i, c := range []struct {
		user, password string
		ok             bool
	}{
		{"monica", "sesame", true},
		{"monica", "Sesame", false},
		{"monica", "", false},
		{"nobody", "sesame", false},
		{"", "", false},
	} {
		client := w.client()
		client.must(socks.WriteGreeting(client, socks.NoAuth, socks.Username))
		client.expect([]byte{5, 2})
		client.must(socks.WriteCredentials(client, socks.Credentials{User: c.user, Password: c.password}))
		if !c.ok {
			client.expect([]byte{1, 1})
			client.closed()
			if line := w.log.wait(t, i+1)[i]; line["reason"] != "auth" {
				t.Errorf("log %v", line)
			}
			continue
		}
		client.expect([]byte{1, 0})
		client.must(socks.WriteRequest(client, socks.Request{Version: socks.V5, Command: socks.Connect, Addr: to}))
		reply, err := socks.ReadReply(client, socks.V5)
		if err != nil || reply.Code != socks.Succeeded {
			t.Fatalf("%+v, %v", reply, err)
		}
		client.echoes("hello")
		client.must(client.CloseWrite())
		client.closed()
		if line := w.log.wait(t, i+1)[i]; line["user"] != "monica" {
			t.Errorf("log %v, want the user", line)
		}
	}
	ok, failed := w.metric("usher_auth_attempts_total", "method", "username", "result", "ok"),
		w.metric("usher_auth_attempts_total", "method", "username", "result", "failed")
	if ok != 1 || failed != 4 {
		t.Errorf("%v good and %v bad passwords counted, want 1 and 4", ok, failed)
	}
	w.left("", 0)
}

// A source that fails too often gets the same answer, and is reported separately.
func TestTooManyPasswords(t *testing.T) {
	w := newWorld(t, anybody, withMonica(t), func(o *proxy.Options, _ *proxy.Policy) { o.MaxAuthFailures = 2 })
	for i, password := range []string{"a", "b", "sesame"} {
		c := w.client()
		c.must(socks.WriteGreeting(c, socks.Username))
		c.expect([]byte{5, 2})
		c.must(socks.WriteCredentials(c, socks.Credentials{User: "monica", Password: password}))
		c.expect([]byte{1, 1})
		c.closed()
		if want, line := []string{"auth", "auth", "auth_throttle"}[i], w.log.wait(t, i+1)[i]; line["reason"] != want {
			t.Errorf("log %v, want %s", line, want)
		}
	}
	if n := w.metric("usher_auth_attempts_total", "method", "username", "result", "throttled"); n != 1 {
		t.Errorf("%v throttled counted, want 1", n)
	}
}

// The server's order decides. Only methods that both offer are used.
func TestChoiceOfMethod(t *testing.T) {
	user := withMonica(t)
	const clientRule, rest = "client pass { from: 0/0 to: 0/0\n", "}\nsocks pass { from: 0/0 to: 0/0 }\n"
	for _, c := range []struct {
		name, rules string
		users       bool
		offered     []socks.Method
		want        socks.Method
	}{
		{"no line, no users", anybody, false, []socks.Method{socks.Username, socks.NoAuth}, socks.NoAuth},
		{"no line, users", anybody, true, []socks.Method{socks.NoAuth, socks.Username}, socks.Username},
		{"no line, users, not offered", anybody, true, []socks.Method{socks.NoAuth}, socks.NoAcceptable},
		{"nothing offered", anybody, false, nil, socks.NoAcceptable},
		{"unknown offered", anybody, false, []socks.Method{1, 0x80}, socks.NoAcceptable},
		{"order", "socksmethod: username none\n" + anybody, true, []socks.Method{socks.NoAuth, socks.Username}, socks.Username},
		{"second choice", "socksmethod: username none\n" + anybody, true, []socks.Method{socks.NoAuth}, socks.NoAuth},
		{"username without users", "socksmethod: username\n" + anybody, false, []socks.Method{socks.NoAuth, socks.Username}, socks.NoAcceptable},
		{"client-rule", "socksmethod: username none\n" + clientRule + "socksmethod: username\n" + rest, true, []socks.Method{socks.NoAuth}, socks.NoAcceptable},
	} {
		t.Run(c.name, func(t *testing.T) {
			var setups []setup
			if c.users {
				setups = append(setups, user)
			}
			w := newWorld(t, c.rules, setups...)
			client := w.client()
			client.must(socks.WriteGreeting(client, c.offered...))
			client.expect([]byte{5, byte(c.want)})
			if c.want == socks.NoAcceptable {
				client.closed()
				w.reason("method")
			}
		})
	}
}

// SOCKS 4 has no passwords, so it is refused wherever one is required (as a bypass:
// CVE-2024-54662).
func TestSocks4IsNoWayRoundPasswords(t *testing.T) {
	t.Parallel()
	to := echo(t)
	const in = "client pass { from: 0/0 to: 0/0 }\n"
	for _, c := range []struct {
		what, rules string
		reason      string
	}{
		{"a users file alone", anybody, "method"},
		{"a client-rule", "socksmethod: username none\nclient pass { from: 0/0 to: 0/0\nsocksmethod: username\n}\nsocks pass { from: 0/0 to: 0/0 }\n", "method"},
		{"the settings", "socksmethod: username\n" + anybody, "method"},
		{"a socks-rule that asks for the method", "socksmethod: username none\n" + in + "socks pass { from: 0/0 to: 0/0\nsocksmethod: username\n}\n", "blocked"},
		{"a socks-rule that asks for the user", "socksmethod: username none\n" + in + "socks pass { from: 0/0 to: 0/0\nuser: monica\n}\n", "blocked"},
		{"a socks-rule that asks for the group", "socksmethod: username none\n" + in + "socks pass { from: 0/0 to: 0/0\ngroup: staff\n}\n", "blocked"},
	} {
		w := newWorld(t, c.rules, withMonica(t), withGroups(t, "staff: monica\n"))
		four := w.client()
		if r := four.request(socks.Request{Version: socks.V4, UserID: "monica", Addr: to}); r.Code == socks.Succeeded {
			t.Errorf("%s: SOCKS 4 got through", c.what)
		}
		four.closed()
		if line := w.log.wait(t, 1)[0]; line["reason"] != c.reason {
			t.Errorf("%s: log %v, want %s", c.what, line, c.reason)
		}
		if c.reason == "blocked" { // nor is SOCKS 5 without a name
			w.client().connect(to, socks.NotAllowed)
		}
		five := w.client()
		five.must(socks.WriteGreeting(five, socks.Username))
		five.expect([]byte{5, 2})
		five.must(socks.WriteCredentials(five, socks.Credentials{User: "monica", Password: "sesame"}))
		five.expect([]byte{1, 0})
		five.must(socks.WriteRequest(five, socks.Request{Version: socks.V5, Command: socks.Connect, Addr: to}))
		if r, err := socks.ReadReply(five, socks.V5); err != nil || r.Code != socks.Succeeded {
			t.Errorf("%s: monica gets %v, %v", c.what, r.Code, err)
		}
	}
}

// script is everything that a client with a password sends, written at once.
func script(t *testing.T, command socks.Command, to socks.Addr) (text []byte, answer []byte) {
	t.Helper()
	var b bytes.Buffer
	if err := errors.Join(
		socks.WriteGreeting(&b, socks.Username),
		socks.WriteCredentials(&b, socks.Credentials{User: "monica", Password: "sesame"}),
		socks.WriteRequest(&b, socks.Request{Version: socks.V5, Command: command, Addr: to}),
	); err != nil {
		t.Fatal(err)
	}
	return b.Bytes(), []byte{5, 2, 1, 0, 5, 0, 0, 1}
}

func TestPipelinedAndByteByByte(t *testing.T) {
	to := echo(t)
	w := newWorld(t, anybody, withMonica(t))
	text, answer := script(t, socks.Connect, to)
	early := bytes.Repeat([]byte("early "), 50) // more than one read takes
	text = append(text, early...)
	for _, step := range []int{len(text), 1, 3, 50} {
		c := w.client()
		c.must(c.SetNoDelay(true))
		for i := 0; i < len(text); i += step {
			c.send(text[i:min(i+step, len(text))])
		}
		c.expect(answer)
		c.skip(6) // the bound address
		c.expect(early)
		c.must(c.CloseWrite())
		c.closed()
	}
	w.left("", 0)
	if up, want := w.metric("usher_transferred_bytes_total", "direction", "up", "protocol", "tcp"), float64(4*len(early)); up != want {
		t.Errorf("%v bytes went to the target, want %v", up, want)
	}
}

// Wherever a client stops, nothing of it is left behind.
func TestTruncatedEverywhere(t *testing.T) {
	to := echo(t)
	w := newWorld(t, `
client pass { from: 0/0 to: 0/0
	session.max: 64 }
socks pass { from: 0/0 to: 0/0 }
`, withMonica(t))
	for _, r := range []socks.Request{
		{Command: socks.Connect, Addr: to},
		{Command: socks.Connect, Addr: socks.Addr{IP: netip.IPv6Loopback(), Port: to.Port}},
		{Command: socks.Bind, Addr: socks.Addr{IP: netip.MustParseAddr("127.0.0.1")}},
		{Command: socks.UDPAssociate, Addr: nowhere},
	} {
		text, _ := script(t, r.Command, r.Addr)
		for n := range len(text) + 1 {
			c := w.client()
			c.send(text[:n])
			if n%2 == 0 {
				c.must(c.SetLinger(0)) // a reset instead of an end
			}
			c.Close()
		}
	}
	for _, m := range [][]byte{{4, 1}, {4, 1, 0, 80, 127, 0, 0, 1}, {4, 1, 0, 80, 0, 0, 0, 1, 'f', 0, 'e'}} {
		c := w.client()
		c.send(m)
		c.Close()
	}
	w.left("c1", 64)
}

func TestRandomBytesLeaveNothing(t *testing.T) {
	w := newWorld(t, "client pass { from: 0/0 to: 0/0\n session.max: 500 }\nsocks block { from: 0/0 to: 0/0 }\n")
	random := rand.New(rand.NewPCG(3, 4))
	for range 200 {
		b := make([]byte, random.IntN(600))
		for i := range b {
			b[i] = byte(random.IntN(256))
		}
		if len(b) > 1 && random.IntN(3) > 0 {
			b[0] = byte(4 + random.IntN(2))
		}
		c := w.client()
		c.try(b)
		c.Close()
	}
	w.left("c1", 500)
}

// One absolute deadline ends silent clients and those that send single bytes.
func TestNegotiationDeadline(t *testing.T) {
	need.Seconds(t)
	w := newWorld(t, "client pass { from: 0/0 to: 0/0\n session.max: 3\n timeout.negotiate: 3 }\nsocks pass { from: 0/0 to: 0/0 }\n")
	began := time.Now()
	silent, half, slow := w.client(), w.client(), w.client()
	half.send([]byte{5, 1, 0})
	half.expect([]byte{5, 0})
	stop := slow.trickle([]byte{4, 1, 0, 80, 127, 0, 0, 1}, 'x') // a long SOCKS 4 user id
	for _, c := range []*client{silent, half, slow} {
		c.closed()
	}
	stop()
	if took := time.Since(began); took < 3*time.Second {
		t.Errorf("ended after %v, before the 3s", took)
	}
	for _, line := range w.log.wait(t, 3) {
		if line["reason"] != "negotiation_timeout" {
			t.Errorf("log %v", line)
		}
	}
	if n := w.metric("usher_sessions_rejected_total", "rule", "", "reason", "negotiation_timeout"); n != 3 {
		t.Errorf("%v counted, want 3", n)
	}
	w.left("c1", 3)
}
