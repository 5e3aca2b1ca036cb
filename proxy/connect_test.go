package proxy_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"usher/deploy/need"
	"usher/proxy"
	"usher/proxy/socks"
)

func TestConnectToAddressesAndNames(t *testing.T) {
	four := echo(t)
	six := target(t, "tcp6", echoing)
	w := newWorld(t, anybody, withNames(names{"four.test": {four.IP}, "six.test": {six.IP}}))
	for _, a := range []socks.Addr{
		four, six,
		{Name: "four.test", Port: four.Port},
		{Name: "six.test", Port: six.Port},
		{Name: "127.0.0.1", Port: four.Port}, // no resolver knows it, none is asked
		{Name: "::1", Port: six.Port},
		{IP: netip.MustParseAddr("::ffff:127.0.0.1"), Port: four.Port},
	} {
		c := w.client()
		reply := c.connect(a, socks.Succeeded)
		if !reply.Addr.IP.IsLoopback() || reply.Addr.Port == 0 {
			t.Errorf("%v: bound address %v", a, reply.Addr)
		}
		c.echoes("hello")
		c.Close()
	}
	w.left("", 0)
	for _, line := range w.log.wait(t, 7) {
		if line["msg"] != "session ended" || line["reason"] != "done" && line["reason"] != "client_error" ||
			line["bytes_up"] != 5.0 || line["bytes_down"] != 5.0 {
			t.Errorf("log %v", line)
		}
	}
	if up, down := w.metric("usher_transferred_bytes_total", "direction", "up", "protocol", "tcp"),
		w.metric("usher_transferred_bytes_total", "direction", "down", "protocol", "tcp"); up != 35 || down != 35 {
		t.Errorf("%v bytes up, %v down; want 35 each", up, down)
	}
}

func TestSocks4(t *testing.T) {
	to := echo(t)
	w := newWorld(t, anybody, withNames(names{"echo.test": {to.IP}}))
	for _, a := range []socks.Addr{to, {Name: "echo.test", Port: to.Port}} {
		c := w.client()
		if r := c.request(socks.Request{Version: socks.V4, UserID: "fred", Addr: a}); r.Code != socks.Succeeded || r.Addr.IP != to.IP {
			t.Fatalf("%v: %+v", a, r)
		}
		c.echoes("hello")
		c.Close()
	}
	c := w.client()
	if r := c.request(socks.Request{Version: socks.V4, Addr: refused(t)}); r.Code == socks.Succeeded {
		t.Error("connected to nobody")
	}
	c.closed()
	w.left("", 0)
}

func TestLogLine(t *testing.T) {
	t.Parallel()
	to := echo(t)
	w := newWorld(t, anybody, withNames(names{"echo.test": {to.IP}}))
	c := w.client()
	c.connect(socks.Addr{Name: "echo.test", Port: to.Port}, socks.Succeeded)
	c.echoes("hello")
	c.must(c.CloseWrite())
	c.closed()
	line := w.reason("done")
	for key, want := range map[string]any{
		"level": "INFO", "msg": "session ended", "client": c.LocalAddr().String(),
		"client_rule": "c1", "client_rule_at": "sockd.conf:2", "rule": "s1", "rule_at": "sockd.conf:3",
		"socks": 5.0, "command": "connect", "target": fmt.Sprintf("echo.test:%d", to.Port), "dialled": to.String(),
		"bytes_up": 5.0, "bytes_down": 5.0, "generation": w.server.Generation(),
	} {
		if line[key] != want {
			t.Errorf("%s=%v, want %v", key, line[key], want)
		}
	}
	if line["session"] == "" || line["seconds"] == nil {
		t.Errorf("log %v lacks a key", line)
	}
}

// A name with a NUL is a protocol error. Usher's own client code cannot write one.
func TestReplyToANUL(t *testing.T) {
	w := newWorld(t, anybody)
	c := w.client()
	c.send([]byte("\x05\x01\x00"))
	c.expect([]byte{5, 0})
	c.send([]byte("\x05\x01\x00\x03\x0aevil\x00.test\x00\x50"))
	if r, err := socks.ReadReply(c, socks.V5); err != nil || r.Code != socks.HostUnreachable {
		t.Errorf("%+v, %v; want reply %d", r, err, socks.HostUnreachable)
	}
	c.closed()
	w.reason("protocol")
}

func TestRepliesToWhatFails(t *testing.T) {
	nobody, broadcast := refused(t), netip.MustParseAddr("255.255.255.255") // to which the system has no way
	w := newWorld(t, `
client pass { from: 0/0 to: 0/0 }
socks block { from: 0/0 to: 127.0.0.9/32 }
socks pass { from: 0/0 to: 0/0 }
`, withNames(names{
		"refused-first.test": {nobody.IP, broadcast}, "refused-last.test": {broadcast, nobody.IP},
		"blocked.test": {netip.MustParseAddr("127.0.0.9")},
		"zero.test":    {netip.IPv4Unspecified(), netip.IPv6Unspecified()},
	}))
	loopback := netip.MustParseAddr("127.0.0.1")
	for i, c := range []struct {
		request socks.Request
		want    socks.Code
		reason  string
	}{
		{socks.Request{Addr: socks.Addr{IP: netip.MustParseAddr("127.0.0.9"), Port: 80}}, socks.NotAllowed, "blocked"},
		{socks.Request{Addr: socks.Addr{Name: "blocked.test", Port: 80}}, socks.HostUnreachable, "blocked"},
		{socks.Request{Addr: nobody}, socks.ConnectionRefused, "refused"},
		{socks.Request{Addr: socks.Addr{IP: broadcast, Port: 80}}, socks.NetworkUnreachable, "net_unreachable"},
		{socks.Request{Addr: socks.Addr{Name: "refused-first.test", Port: nobody.Port}}, socks.ConnectionRefused, "refused"},
		{socks.Request{Addr: socks.Addr{Name: "refused-last.test", Port: nobody.Port}}, socks.ConnectionRefused, "refused"},
		{socks.Request{Addr: socks.Addr{Name: "nowhere.test", Port: 80}}, socks.HostUnreachable, "unresolved"},
		{socks.Request{Addr: socks.Addr{Name: "zero.test", Port: 80}}, socks.HostUnreachable, "unresolved"},
		{socks.Request{Addr: socks.Addr{IP: loopback, Port: 0}}, socks.AddressNotSupported, "target"},
		{socks.Request{Addr: socks.Addr{IP: netip.IPv4Unspecified(), Port: 80}}, socks.AddressNotSupported, "target"},
		{socks.Request{Addr: socks.Addr{IP: netip.MustParseAddr("::ffff:0.0.0.0"), Port: 80}}, socks.AddressNotSupported, "target"},
		{socks.Request{Addr: socks.Addr{Name: "::", Port: 80}}, socks.AddressNotSupported, "target"},
		{socks.Request{Version: socks.V4, Command: socks.UDPAssociate, Addr: socks.Addr{IP: loopback, Port: 80}}, socks.GeneralFailure, "command"},
		{socks.Request{Command: 0x63, Addr: socks.Addr{IP: loopback, Port: 80}}, socks.CommandNotSupported, "command"},
	} {
		client := w.client()
		if r := client.request(c.request); r.Code != c.want {
			t.Errorf("%v: reply %d, want %d", c.request.Addr, r.Code, c.want)
		}
		client.closed()
		if line := w.log.wait(t, i+1)[i]; line["reason"] != c.reason || line["msg"] != "session refused" {
			t.Errorf("%v: log %v, want reason %q", c.request.Addr, line, c.reason)
		}
	}
	w.left("", 0)
	if n := w.metric("usher_sessions_rejected_total", "rule", "s1", "reason", "blocked"); n != 2 {
		t.Errorf("%v counted as blocked, want 2", n)
	}
	if n := w.metric("usher_connect_errors_total", "type", "refused"); n != 3 {
		t.Errorf("%v counted as refused by the target, want 3", n)
	}
}

func TestUnknownAddressType(t *testing.T) {
	w := newWorld(t, anybody)
	c := w.client()
	c.send([]byte("\x05\x01\x00" + "\x05\x01\x00\x02\x00"))
	c.expect([]byte{5, 0, 5, byte(socks.AddressNotSupported), 0, 1, 0, 0, 0, 0, 0, 0})
	c.closed()
	w.reason("protocol")
}

// A name matches by its addresses. Usher dials only the addresses inside the rule's
// network, in the order of the resolver.
func TestOnlyMatchedAddressesAreDialled(t *testing.T) {
	to := echo(t)
	outside := target(t, "tcp6", func(c *net.TCPConn) { t.Error("an address was dialled that no rule matched") })
	w := newWorld(t, `
client pass { from: 0/0 to: 0/0 }
socks pass { from: 0/0 to: 127.0.0.0/8 }
`, withNames(names{"many.test": {outside.IP, netip.MustParseAddr("127.0.0.3"), to.IP, outside.IP}}))
	// Nobody listens at 127.0.0.3 with the port of to, so this falls through to to.
	c := w.client()
	c.connect(socks.Addr{Name: "many.test", Port: to.Port}, socks.Succeeded)
	c.echoes("hello")
	c.Close()
	if line := w.log.wait(t, 1)[0]; line["dialled"] != to.String() {
		t.Errorf("dialled %v, want %v", line["dialled"], to)
	}
	c = w.client()
	c.connect(socks.Addr{Name: "many.test", Port: outside.Port}, socks.ConnectionRefused)
}

func TestOwnListenersAreNoTargets(t *testing.T) {
	admin, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer admin.Close()
	own := admin.Addr().(*net.TCPAddr).AddrPort()
	everywhere := netip.AddrPortFrom(netip.IPv4Unspecified(), own.Port())
	for _, o := range []netip.AddrPort{own, everywhere} {
		w := newWorld(t, anybody, func(opts *proxy.Options, _ *proxy.Policy) { opts.Own = []netip.AddrPort{o} })
		w.client().connect(socks.AddrOf(netip.MustParseAddrPort(w.addr)), socks.NotAllowed)
		w.client().connect(socks.AddrOf(own), socks.NotAllowed)
		for _, line := range w.log.wait(t, 2) {
			if line["reason"] != "self" {
				t.Errorf("log %v", line)
			}
		}
	}
}

func TestExternal(t *testing.T) {
	seen := make(chan netip.AddrPort, 1)
	to := target(t, "tcp4", func(c *net.TCPConn) { seen <- c.RemoteAddr().(*net.TCPAddr).AddrPort() })
	from := netip.MustParseAddr("127.0.0.77")
	w := newWorld(t, anybody, func(_ *proxy.Options, p *proxy.Policy) { p.External = []netip.Addr{from} })
	c := w.client()
	if r := c.connect(to, socks.Succeeded); r.Addr.IP != from {
		t.Errorf("reply says %v, want %v", r.Addr, from)
	}
	if got := <-seen; got.Addr() != from {
		t.Errorf("the target sees %v, want %v", got, from)
	}
	w.client().connect(socks.Addr{IP: netip.IPv6Loopback(), Port: 80}, socks.AddressNotSupported)
}

func TestConnectTimeout(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "timeout.connect: 1\n"+anybody)
	hole := blackhole(t)
	w.client().connect(hole, socks.TTLExpired)
	w.reason("connect_timeout")
}

// waits is a resolver. It answers about slow.test only when the lookup is cancelled,
// and about other names after a delay.
type waits struct {
	names
	delay time.Duration
}

func (r waits) LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error) {
	if host != "slow.test" {
		time.Sleep(r.delay)
		return r.names.LookupNetIP(ctx, network, host)
	}
	<-ctx.Done()
	return nil, ctx.Err()
}

// timeout.connect includes the lookups. If the name of the request takes too long, the
// reply is that of a name that does not resolve. If names of rules take too long, there
// is no verdict. This holds for each command.
func TestConnectTimeoutOfNames(t *testing.T) {
	w := newWorld(t, `
timeout.connect: 1
client pass { from: 0/0 to: 0/0 }
socks pass { from: 0/0 to: ::1/128 command: bind }
socks block { from: slow.test to: 0/0 }
socks pass { from: 0/0 to: 0/0 }
`, func(o *proxy.Options, _ *proxy.Policy) { o.Resolver = waits{} })
	awaiting := w.client()
	bound := awaiting.bind(socks.V5, socks.Addr{IP: netip.IPv6Loopback()})
	cases := []struct {
		request socks.Request
		want    socks.Code
	}{
		{socks.Request{Command: socks.Connect, Addr: socks.Addr{Name: "slow.test", Port: 80}}, socks.HostUnreachable},
		{socks.Request{Command: socks.Connect, Addr: socks.Addr{IP: loopback, Port: 80}}, socks.TTLExpired},
		{socks.Request{Command: socks.Bind, Addr: socks.Addr{Name: "slow.test", Port: 80}}, socks.HostUnreachable},
		{socks.Request{Command: socks.Bind, Addr: socks.Addr{IP: loopback, Port: 80}}, socks.TTLExpired},
		{socks.Request{Command: socks.UDPAssociate, Addr: nowhere}, socks.TTLExpired},
	}
	var clients []*client
	for _, test := range cases {
		c := w.client()
		clients = append(clients, c)
		c.must(socks.WriteGreeting(c, socks.NoAuth))
		c.expect([]byte{5, 0})
		test.request.Version = socks.V5
		c.must(socks.WriteRequest(c, test.request))
	}
	peer := dialFrom(t, "::1", bound) // its rule is asked now
	awaiting.second(socks.V5, socks.TTLExpired)
	peer.closed()
	for i, c := range clients {
		reply, err := socks.ReadReply(c, socks.V5)
		if err != nil || reply.Code != cases[i].want {
			t.Errorf("%+v: reply %d, %v; want %d", cases[i].request, reply.Code, err, cases[i].want)
		}
		c.closed()
	}
	w.left("", 0)
}

// The lookups for rules about a peer have the time limit of the rule that passed the
// BIND request, not that of the settings.
func TestConnectTimeoutOfPeers(t *testing.T) {
	t.Parallel()
	w := newWorld(t, `
timeout.connect: 0
client pass { from: 0/0 to: 0/0 }
socks pass { from: 0/0 to: 0/0
	command: bind
	timeout.connect: 1 }
socks block { from: slow.test to: 0/0 }
`, func(o *proxy.Options, _ *proxy.Policy) { o.Resolver = waits{} })
	c := w.client()
	peer := dialFrom(t, "127.0.0.1", c.bind(socks.V5, socks.Addr{IP: loopback}))
	c.second(socks.V5, socks.TTLExpired)
	peer.closed()
	w.reason("connect_timeout")
}

// The time of the lookup is not available to the connection.
func TestConnectTimeoutIsOne(t *testing.T) {
	need.Seconds(t)
	t.Parallel()
	to := echo(t)
	const text = `
client pass { from: 0/0 to: 0/0 }
socks pass { from: 0/0 to: 0/0
	timeout.connect: 3 }
`
	resolver := waits{names{"late.test": {to.IP}}, 3100 * time.Millisecond}
	w := newWorld(t, text, func(o *proxy.Options, _ *proxy.Policy) { o.Resolver = resolver })
	w.client().connect(socks.Addr{Name: "late.test", Port: to.Port}, socks.TTLExpired)
	w.reason("connect_timeout")
	w.client().connect(socks.Addr{Name: "late.test", Port: to.Port}, socks.Succeeded) // it is known now
}

// Without a timeout, a silent address before a good one delays a session by no more
// than the pause between attempts. There is one slot, and one log line with the outcome
// of each address.
func TestSilentAddressHoldsNobodyUp(t *testing.T) {
	t.Parallel()
	hole, second := holeAndEcho(t)
	refuses := netip.IPv6Loopback() // nobody listens there at this port
	w := newWorld(t, `
timeout.connect: 0
client pass { from: 0/0 to: 0/0 }
socks pass { from: 0/0 to: 0/0 session.max: 1 }
`, withNames(names{"many.test": {hole.IP, second.Addr(), refuses}}))
	c := w.client()
	c.connect(socks.Addr{Name: "many.test", Port: hole.Port}, socks.Succeeded)
	c.echoes("hello")
	if n := w.slots("s1", 1); n != 0 {
		t.Errorf("%d slots are free, want none", n)
	}
	c.Close()
	line := w.log.wait(t, 1)[0]
	if line["dialled"] != second.String() || line["failed_addresses"] != "::1 refused, 127.0.0.1 slower" {
		t.Errorf("log %v", line)
	}
}

// One address that does not answer leaves time for the next.
func TestFallbackFromSilentAddress(t *testing.T) {
	t.Parallel()
	hole, second := holeAndEcho(t)
	w := newWorld(t, "timeout.connect: 5\n"+anybody, withNames(names{"slow.test": {hole.IP, second.Addr()}}))
	w.client().connect(socks.Addr{Name: "slow.test", Port: hole.Port}, socks.Succeeded)
}

// holeAndEcho returns an address that does not answer, and one of an echo server
// with the same port.
func holeAndEcho(t *testing.T) (hole socks.Addr, answers netip.AddrPort) {
	t.Helper()
	eventually(t, func() string { // until the same port is free at another address
		hole = blackhole(t)
		ln, err := net.Listen("tcp", fmt.Sprintf("127.0.0.2:%d", hole.Port))
		if err != nil {
			return err.Error()
		}
		to := targetOn(t, ln, func(c *net.TCPConn) { _, _ = io.Copy(c, c) })
		answers = netip.AddrPortFrom(to.IP, to.Port)
		return ""
	})
	return hole, answers
}

func TestClientRuleBlocks(t *testing.T) {
	for _, text := range []string{
		"client block { from: 0/0 to: 0/0 }\nsocks pass { from: 0/0 to: 0/0 }\n",
		"client pass { from: 192.0.2.0/24 to: 0/0 }\nsocks pass { from: 0/0 to: 0/0 }\n",
	} {
		w := newWorld(t, text)
		c := w.client()
		c.closed()
		line := w.reason("blocked")
		if blocked := strings.HasPrefix(text, "client block"); blocked != (line["client_rule"] == "c1") {
			t.Errorf("log %v for %q", line, text)
		}
		eventually(t, func() string { // a session is logged before it leaves
			if w.server.Sessions() != 0 {
				return "a blocked client counts as a session"
			}
			return ""
		})
	}
}

// A refused client that has sent data early gets its reply and a clean end. If Usher
// left the data unread, the system would send a reset, which can overtake the reply.
func TestRefusalIsNoReset(t *testing.T) {
	w := newWorld(t, "client pass { from: 0/0 to: 0/0 }\nsocks block { from: 0/0 to: 0/0 }\n")
	var text bytes.Buffer
	client := w.client()
	client.must(socks.WriteGreeting(&text, socks.NoAuth))
	client.must(socks.WriteRequest(&text, socks.Request{Version: socks.V5, Command: socks.Connect, Addr: socks.Addr{IP: netip.IPv6Loopback(), Port: 80}}))
	text.WriteString("early")
	client.send(text.Bytes())
	client.expect([]byte{5, 0, 5, byte(socks.NotAllowed), 0, 1, 0, 0, 0, 0, 0, 0})
	if b, err := io.ReadAll(client); len(b) > 0 || err != nil {
		t.Errorf("%q, %v; want a clean end", b, err)
	}
}

// exhausted is a listener without descriptors for a while.
type exhausted struct {
	net.Listener
	failures int
}

func (l *exhausted) Accept() (net.Conn, error) {
	if l.failures > 0 {
		l.failures--
		return nil, &net.OpError{Op: "accept", Err: os.NewSyscallError("accept4", syscall.EMFILE)}
	}
	return l.Listener.Accept()
}

func TestAcceptGoesOnAfterExhaustion(t *testing.T) {
	w := newWorld(t, anybody)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- w.server.Serve(&exhausted{ln, 4}) }()
	w.addr = ln.Addr().String()
	w.client().connect(refused(t), socks.ConnectionRefused)
	if line := w.log.wait(t, 2)[0]; line["msg"] != "cannot accept clients, retrying" || line["level"] != "WARN" {
		t.Errorf("log %v, want one line for the pause", line)
	}
	if err := ln.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-served; err != nil {
		t.Errorf("Serve: %v", err)
	}
}

// If a listener fails for good, Serve ends with an error that names it.
func TestServeReportsABrokenListener(t *testing.T) {
	w := newWorld(t, anybody)
	err := w.server.Serve(broken{})
	if !errors.Is(err, errBroken) || !strings.Contains(err.Error(), "192.0.2.1:1080") {
		t.Errorf("%v, want one that names the listener", err)
	}
}

var errBroken = errors.New("broken")

type broken struct{}

func (broken) Accept() (net.Conn, error) { return nil, errBroken }
func (broken) Close() error              { return nil }
func (broken) Addr() net.Addr            { return &net.TCPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 1080} }
