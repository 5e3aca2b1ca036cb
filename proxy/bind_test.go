package proxy_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"usher/proxy"
	"usher/proxy/socks"
)

// Rules for BIND: the request and the data have a limit each.
const bindRules = `
client pass { from: 0/0 to: 0/0 }
socks pass { from: 0/0 to: 0/0
	command: bind
	session.max: 2
	log: connect }
socks pass { from: 127.0.0.1/32 to: 0/0
	command: bindreply }
socks pass { from: 127.0.0.2/32 to: 0/0
	command: bindreply
	session.max: 1 }
`

var loopback = netip.MustParseAddr("127.0.0.1")

// bind asks for BIND and returns the address at which the peer is awaited.
func (c *client) bind(v socks.Version, announced socks.Addr) netip.AddrPort {
	c.t.Helper()
	if v == socks.V5 {
		v = 0 // negotiate
	}
	reply := c.request(socks.Request{Version: v, Command: socks.Bind, Addr: announced})
	if reply.Code != socks.Succeeded {
		c.t.Fatalf("first reply %d", reply.Code)
	}
	return netip.AddrPortFrom(reply.Addr.IP, reply.Addr.Port)
}

// second reads the second reply.
func (c *client) second(v socks.Version, want socks.Code) socks.Reply {
	c.t.Helper()
	reply, err := socks.ReadReply(c, v)
	c.must(err)
	if reply.Code != want {
		c.t.Fatalf("second reply %d, want %d", reply.Code, want)
	}
	if want != socks.Succeeded {
		c.closed()
	}
	return reply
}

// dialFrom connects as the peer does.
func dialFrom(t *testing.T, source string, to netip.AddrPort) *client {
	t.Helper()
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(source)}}
	conn, err := d.Dial("tcp", to.String())
	if err != nil {
		t.Fatal(err)
	}
	c := &client{t, conn.(*net.TCPConn)}
	c.must(c.SetDeadline(time.Now().Add(patience)))
	t.Cleanup(c.Close)
	return c
}

// nobodyListens checks that nobody listens at a any more.
func nobodyListens(t *testing.T, a netip.AddrPort) {
	t.Helper()
	if conn, err := net.Dial("tcp", a.String()); err == nil {
		conn.Close()
		t.Errorf("%v still listens", a)
	}
}

// One peer connects, and the second reply names it. Bytes go both ways, including those
// that the client sent before there was a peer.
func TestBind(t *testing.T) {
	const logs = "\n\tlog: connect"
	loggedByReply := strings.Replace(strings.Replace(bindRules, logs, "", 1), "command: bindreply", "command: bindreply"+logs, 1)
	for v, text := range map[socks.Version]string{socks.V5: bindRules, socks.V4: loggedByReply} {
		w := newWorld(t, text)
		c := w.client()
		bound := c.bind(v, socks.Addr{IP: loopback})
		if bound.Addr() != loopback || bound.Port() == 0 {
			t.Fatalf("bound %v", bound)
		}
		if n := w.slots("s1", 2); n != 1 {
			t.Errorf("%d slots free while waiting, want 1", n)
		}
		c.send([]byte("early "))
		peer := dialFrom(t, "127.0.0.1", bound)
		reply := c.second(v, socks.Succeeded)
		if got := netip.AddrPortFrom(reply.Addr.IP, reply.Addr.Port).String(); got != peer.LocalAddr().String() {
			t.Errorf("BND %v, want the peer %v", got, peer.LocalAddr())
		}
		nobodyListens(t, bound)
		if n := w.slots("s1", 2); n != 1 {
			t.Errorf("%d slots free while relaying, want 1", n)
		}
		c.send([]byte("question"))
		c.must(c.CloseWrite())
		peer.expect([]byte("early question"))
		peer.send([]byte("answer"))
		peer.Close()
		c.expect([]byte("answer"))
		c.closed()
		w.left("s1", 2)
		lines := w.log.wait(t, 2)
		for i, message := range []string{"session connected", "session ended"} {
			if l := lines[i]; l["msg"] != message || l["command"] != "bind" || l["bound"] != bound.String() || l["peer"] != peer.LocalAddr().String() || l["rule"] != "s1" {
				t.Errorf("log %v, want %q", l, message)
			}
		}
	}
}

// If somebody else than the announced peer connects, the session ends with the second
// reply.
func TestBindForeignPeer(t *testing.T) {
	w := newWorld(t, bindRules, withNames(names{"ftp.test": {netip.MustParseAddr("127.0.0.9"), loopback}}))
	c := w.client()
	foreign := dialFrom(t, "127.0.0.1", c.bind(socks.V5, socks.Addr{IP: netip.MustParseAddr("127.0.0.9")}))
	c.second(socks.V5, socks.NotAllowed)
	foreign.closed()
	w.reason("peer")
	w.left("s1", 2)
	// A name stands for all its addresses.
	c = w.client()
	dialFrom(t, "127.0.0.1", c.bind(socks.V5, socks.Addr{Name: "ftp.test"}))
	c.second(socks.V5, socks.Succeeded)
	c = w.client()
	if reply := c.request(socks.Request{Command: socks.Bind, Addr: socks.Addr{Name: "unknown.test"}}); reply.Code != socks.HostUnreachable {
		t.Errorf("reply %d", reply.Code)
	}
}

// Only the first connection is accepted.
func TestBindTakesOnePeer(t *testing.T) {
	w := newWorld(t, bindRules)
	c := w.client()
	bound := c.bind(socks.V5, socks.Addr{IP: netip.IPv4Unspecified()})
	first := dialFrom(t, "127.0.0.1", bound)
	c.second(socks.V5, socks.Succeeded)
	nobodyListens(t, bound)
	first.send([]byte("hello"))
	c.expect([]byte("hello"))
}

// The client gets the port that it asks for if a rule names it, any peer may come, the
// port is not privileged, and it is free.
func TestBindRequestedPort(t *testing.T) {
	ports := strings.Replace(bindRules, "to: 0/0", "to: 0/0 port 1024-65535", 2) // in c1, s1
	ports = strings.Replace(ports, "to: 0/0 port 1024-65535", "to: 0/0", 1)
	for text, named := range map[string]bool{
		bindRules: false,
		ports:     true,
		strings.Replace(ports, "1024-65535", "!= 25", 1): false,
		// the rule that passes the port decides, not a later one
		strings.Replace(bindRules, "socks pass", "socks pass { from: 0/0 to: 0/0\ncommand: bind\nsession.max: 2 }\nsocks pass { from: 0/0 to: 0/0 port 1024-65535\ncommand: bind }\nsocks pass", 1): false,
	} {
		bindRequestedPorts(t, text, named)
	}
}

func bindRequestedPorts(t *testing.T, text string, named bool) {
	t.Helper()
	w := newWorld(t, text)
	free := refused(t).Port
	ours, err := strconv.ParseUint(w.addr[len("127.0.0.1:"):], 10, 16)
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		announced netip.Addr
		port      uint16
		honoured  bool
	}{
		{netip.IPv4Unspecified(), free, named},
		{loopback, free, false},
		{netip.IPv4Unspecified(), 1023, false},
		{netip.IPv4Unspecified(), uint16(ours), false}, // our own listener's
	} {
		c := w.client()
		bound := c.bind(socks.V5, socks.Addr{IP: test.announced, Port: test.port})
		if (bound.Port() == test.port) != test.honoured {
			t.Errorf("%v:%d: bound %v, by\n%s", test.announced, test.port, bound, text)
		}
		c.Close()
		w.left("s1", 2)
	}
}

// Usher binds the address of external: in the announced peer's family.
func TestBindExternal(t *testing.T) {
	w := newWorld(t, bindRules, func(_ *proxy.Options, p *proxy.Policy) { p.External = []netip.Addr{netip.MustParseAddr("127.0.0.5")} })
	bound := w.client().bind(socks.V5, socks.Addr{IP: netip.IPv4Unspecified()})
	if bound.Addr() != netip.MustParseAddr("127.0.0.5") {
		t.Errorf("bound %v", bound)
	}
	if reply := w.client().request(socks.Request{Command: socks.Bind, Addr: socks.Addr{IP: netip.IPv6Loopback()}}); reply.Code != socks.AddressNotSupported {
		t.Errorf("IPv6: reply %d", reply.Code)
	}
	// Without external: it is ours towards the announced peer.
	w = newWorld(t, bindRules)
	if bound := w.client().bind(socks.V5, socks.Addr{IP: netip.IPv6Loopback()}); bound.Addr() != netip.IPv6Loopback() {
		t.Errorf("bound %v", bound)
	}
}

func TestBindTimeout(t *testing.T) {
	w := newWorld(t, bindRules, func(o *proxy.Options, _ *proxy.Policy) { o.BindTimeout = 50 * time.Millisecond })
	c := w.client()
	bound := c.bind(socks.V5, socks.Addr{IP: loopback})
	c.second(socks.V5, socks.TTLExpired)
	nobodyListens(t, bound)
	w.reason("bind_timeout")
	w.left("s1", 2)
}

// If a client leaves while it waits for its peer, the session ends at once, even with
// unread bytes that the client sent too early.
func TestHangUpWhileBinding(t *testing.T) {
	for _, early := range []string{"", "too early"} {
		w := newWorld(t, bindRules)
		c := w.client()
		bound := c.bind(socks.V5, socks.Addr{IP: loopback})
		c.send([]byte(early))
		c.Close()
		w.left("s1", 2)
		nobodyListens(t, bound)
		w.reason("client_gone")
	}
}

func TestDrainCutsBinding(t *testing.T) {
	w := newWorld(t, bindRules)
	c := w.client()
	c.bind(socks.V5, socks.Addr{IP: loopback})
	over, cancel := context.WithCancel(t.Context())
	cancel()
	if cut := w.server.Drain(over); cut.Sessions != 1 {
		t.Errorf("%d sessions cut, want 1", cut.Sessions)
	}
	c.closed()
	w.reason("drain")
}

// The rules judge the bound address. If they refuse, Usher never listens.
func TestBindRules(t *testing.T) {
	w := newWorld(t, `
client pass { from: 0/0 to: 0/0 }
socks block { from: 0/0 to: 127.0.0.5/32
	command: bind }
socks pass { from: 0/0 to: 0/0
	command: bind
	session.max: 1 }
`, func(_ *proxy.Options, p *proxy.Policy) {
		p.External = []netip.Addr{loopback, netip.MustParseAddr("::1")}
	})
	refuse := func(w *world, a netip.Addr, want socks.Code, reason string) {
		t.Helper()
		c := w.client()
		if reply := c.request(socks.Request{Command: socks.Bind, Addr: socks.Addr{IP: a}}); reply.Code != want {
			t.Errorf("%v: reply %d, want %d", a, reply.Code, want)
		}
		c.closed()
		eventually(t, func() string {
			counted := 0.0
			for _, rule := range []string{"", "c1", "s1", "s2"} {
				counted += w.metric("usher_sessions_rejected_total", "rule", rule, "reason", reason)
			}
			if counted == 0 {
				return "no " + reason + " counted"
			}
			return ""
		})
	}
	waiting := w.client()
	waiting.bind(socks.V5, socks.Addr{IP: loopback})
	refuse(w, loopback, socks.NotAllowed, "limit")
	refuse(w, netip.MustParseAddr("255.255.255.255"), socks.AddressNotSupported, "target")
	blocked := newWorld(t, `
client pass { from: 0/0 to: 0/0 }
socks block { from: 0/0 to: 127.0.0.5/32
	command: bind }
socks pass { from: 0/0 to: 0/0 }
`, func(_ *proxy.Options, p *proxy.Policy) { p.External = []netip.Addr{netip.MustParseAddr("127.0.0.5")} })
	refuse(blocked, loopback, socks.NotAllowed, "blocked")
}

// The rules for bindreply judge a peer. If its rule has its own limit, the session
// moves to this limit.
func TestBindReplyRules(t *testing.T) {
	w := newWorld(t, bindRules)
	anyPeer := socks.Addr{IP: netip.IPv4Unspecified()}
	c := w.client()
	stranger := dialFrom(t, "127.0.0.3", c.bind(socks.V5, anyPeer))
	c.second(socks.V5, socks.NotAllowed)
	stranger.closed()
	w.reason("blocked")
	w.left("s1", 2)

	moved := w.client()
	peer := dialFrom(t, "127.0.0.2", moved.bind(socks.V5, anyPeer))
	moved.second(socks.V5, socks.Succeeded)
	if a, b := w.slots("s1", 2), w.slots("s3", 1); a != 2 || b != 0 {
		t.Errorf("%d slots of s1 and %d of s3 free, want 2 and 0", a, b)
	}
	full := w.client()
	refused := dialFrom(t, "127.0.0.2", full.bind(socks.V5, anyPeer))
	full.second(socks.V5, socks.NotAllowed)
	refused.closed()
	if line := w.log.wait(t, 2)[1]; line["reason"] != "limit" || line["rule"] != "s3" {
		t.Errorf("log %v", line)
	}
	peer.send([]byte("still here"))
	moved.expect([]byte("still here"))
	moved.Close()
	if _, err := io.ReadAll(peer); err != nil {
		t.Errorf("%v; want the end", err)
	}
	peer.Close()
	w.left("s3", 1)
	w.left("s1", 2)
}

// timeout.io is that of the rule that passed the peer.
func TestBindIdle(t *testing.T) {
	t.Parallel()
	w := newWorld(t, `
client pass { from: 0/0 to: 0/0 }
socks pass { from: 0/0 to: 0/0
	command: bind }
socks pass { from: 0/0 to: 0/0
	command: bindreply
	timeout.io: 1 }
`)
	c := w.client()
	peer := dialFrom(t, "127.0.0.1", c.bind(socks.V5, socks.Addr{IP: loopback}))
	c.second(socks.V5, socks.Succeeded)
	peer.closed()
	c.closed()
	w.reason("idle")
}

// external.rotation: same-same connects from, and awaits peers at, the address that the
// client connected to. external: must list it. route uses the address at which the
// route begins. There is no route to an unknown peer.
func TestExternalRotation(t *testing.T) {
	seen := make(chan string, 1)
	to := target(t, "tcp4", func(c *net.TCPConn) { seen <- c.RemoteAddr().(*net.TCPAddr).IP.String() })
	for _, test := range []struct{ settings, external, want, wantForAnybody string }{
		{"", "127.0.0.1", "127.0.0.5", "127.0.0.5"},
		{"external.rotation: same-same", "127.0.0.1", "127.0.0.1", "127.0.0.1"},
		{"external.rotation: route", "127.0.0.1", "127.0.0.1", "127.0.0.5"},
	} {
		w := newWorld(t, "external: 127.0.0.5\nexternal: "+test.external+"\n"+test.settings+anybody, func(_ *proxy.Options, p *proxy.Policy) {
			p.External = []netip.Addr{netip.MustParseAddr("127.0.0.5"), netip.MustParseAddr(test.external)}
		})
		w.client().connect(to, socks.Succeeded)
		if got := <-seen; got != test.want {
			t.Errorf("%v: connected from %v", test, got)
		}
		if bound := w.client().bind(socks.V5, socks.Addr{IP: loopback}); bound.Addr().String() != test.want {
			t.Errorf("%v: bound %v", test, bound)
		}
		if bound := w.client().bind(socks.V5, socks.Addr{IP: netip.IPv4Unspecified()}); bound.Addr().String() != test.wantForAnybody {
			t.Errorf("%v: bound %v for anybody", test, bound)
		}
	}
}

// same-same never uses another address: neither if external: lacks the address that the
// client connected to, nor for the other family.
func TestExternalRotationWithoutTheAddress(t *testing.T) {
	for _, external := range []string{"127.0.0.5", "::1"} {
		w := newWorld(t, "external: "+external+"\nexternal.rotation: same-same"+anybody, func(_ *proxy.Options, p *proxy.Policy) {
			p.External = []netip.Addr{netip.MustParseAddr(external)}
		})
		to := netip.AddrPortFrom(netip.MustParseAddr(external), 9)
		w.client().connect(socks.AddrOf(to), socks.NetworkUnreachable)
		w.reason("no_external")
		if r := w.client().request(socks.Request{Command: socks.Bind, Addr: socks.AddrOf(to)}); r.Code != socks.NetworkUnreachable {
			t.Errorf("external: %s: BIND is answered %d, want %d", external, r.Code, socks.NetworkUnreachable)
		}
		w.associate(nowhere).say(to, "hello")
		w.dropped("no_external", 1)
	}
}

// No client can be the peer of another client through this server, because the rules
// would see the server's address. When the session is over, the port is like any other.
func TestPeersComeFromOutside(t *testing.T) {
	w := newWorld(t, anybody)
	c := w.client()
	bound := c.bind(socks.V5, socks.Addr{IP: netip.IPv4Unspecified()})
	w.client().connect(socks.AddrOf(bound), socks.NotAllowed)
	w.reason("self")
	peer := dialFrom(t, "127.0.0.1", bound)
	c.second(socks.V5, socks.Succeeded)
	w.client().connect(socks.AddrOf(bound), socks.NotAllowed) // though it listens no more
	peer.Close()
	c.closed()
	w.left("", 0)
	other := targetAt(t, bound.String(), echoing)
	w.client().connect(other, socks.Succeeded)
}

// The same holds for a client that began to connect before BIND had the port.
func TestPeersThatBeganToConnectBefore(t *testing.T) {
	t.Parallel()
	for range 8 {
		if peerThatBeganBefore(t) {
			return
		}
	}
	t.Fatal("the server always tried to connect before the listener was open")
}

// peerThatBeganBefore returns false if the machine was too busy for BIND to listen
// before the system tried again to connect, a second after the first attempt.
func peerThatBeganBefore(t *testing.T) (inTime bool) {
	t.Helper()
	hole, free := closingHole(t)
	w := newWorld(t, strings.Replace(anybody, "socks pass {", "socks pass { from: 0/0 to: 0/0 port 1024-65535\ncommand: bind }\nsocks pass {", 1))
	early := w.client()
	early.must(socks.WriteGreeting(early, socks.NoAuth))
	early.expect([]byte{5, 0})
	early.must(socks.WriteRequest(early, socks.Request{Version: socks.V5, Command: socks.Connect, Addr: hole}))
	eventually(t, func() string {
		// Not /proc/net, which is that of the main thread: a test may have put it
		// into a network of its own.
		table, err := os.ReadFile("/proc/thread-self/net/tcp")
		if err != nil || !strings.Contains(string(table), fmt.Sprintf(":%04X 02 ", hole.Port)) { // SYN_SENT
			return fmt.Sprintf("the server does not connect, %v", err)
		}
		return ""
	})
	free()
	c := w.client()
	if bound := c.bind(socks.V5, socks.Addr{IP: netip.IPv4Unspecified(), Port: hole.Port}); bound.Port() != hole.Port {
		t.Fatalf("bound %v, want port %d", bound, hole.Port)
	}
	reply, err := socks.ReadReply(early, socks.V5)
	if err != nil || reply.Code != socks.NotAllowed && reply.Code != socks.ConnectionRefused {
		t.Errorf("reply %d, %v; want %d", reply.Code, err, socks.NotAllowed)
	}
	early.closed()
	if reply.Code == socks.ConnectionRefused {
		return false
	}
	c.second(socks.V5, socks.Succeeded)
	c.closed()
	return true
}
