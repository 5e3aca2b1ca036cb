package proxy

import (
	"context"
	"net"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"usher/proxy/selfaddr"
	"usher/proxy/socks"
)

// intOf reads an option of a socket.
func intOf(t *testing.T, c *net.TCPConn, level, name int) (value int) {
	t.Helper()
	raw, err := c.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var failed error
	if err := raw.Control(func(fd uintptr) { value, failed = unix.GetsockoptInt(int(fd), level, name) }); err != nil || failed != nil {
		t.Fatal(err, failed)
	}
	return value
}

// Accepted connections inherit keep-alive from the listener.
func TestListenKeepsAlive(t *testing.T) {
	ln, err := Listen(t.Context(), "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	wantDefaultKept(t, ln)
}

// So do those of a listener that another process opened, and its urgent data stay in
// the stream.
func TestAdoptKeepsAlive(t *testing.T) {
	var plain net.ListenConfig
	plain.SetMultipathTCP(false)
	foreign, err := plain.Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer foreign.Close()
	file, err := foreign.(*net.TCPListener).File()
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	ln, err := Adopt(file)
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	conn := wantDefaultKept(t, ln)
	if intOf(t, conn, unix.SOL_SOCKET, unix.SO_OOBINLINE) != 1 {
		t.Error("urgent data leave the stream")
	}
	if got, want := selfaddr.OfListener(ln), selfaddr.OfListener(foreign); !slices.Equal(got, want) {
		t.Errorf("bound to %v, want %v", got, want)
	}
}

func TestAdoptTakesTCPOnly(t *testing.T) {
	unix, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close()
	file, err := unix.(*net.UnixListener).File()
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if ln, err := Adopt(file); err == nil || ln != nil || !strings.Contains(err.Error(), "not a TCP socket") {
		t.Error(ln, err)
	}
}

// wantDefaultKept connects to ln and checks the keep-alive of what it accepts.
func wantDefaultKept(t *testing.T, ln net.Listener) *net.TCPConn {
	t.Helper()
	far, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer far.Close()
	conn, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	wantKept(t, "accepted", conn.(*net.TCPConn), 1, 60, 15, 4)
	return conn.(*net.TCPConn)
}

// wantKept checks the keep-alive of a connection, in seconds and probes.
func wantKept(t *testing.T, which string, c *net.TCPConn, on, idle, interval, count int) {
	t.Helper()
	for _, o := range []struct{ level, name, value int }{
		{unix.SOL_SOCKET, unix.SO_KEEPALIVE, on}, {unix.IPPROTO_TCP, unix.TCP_KEEPIDLE, idle},
		{unix.IPPROTO_TCP, unix.TCP_KEEPINTVL, interval}, {unix.IPPROTO_TCP, unix.TCP_KEEPCNT, count},
	} {
		if o.name != unix.SO_KEEPALIVE && on == 0 {
			continue
		}
		if got := intOf(t, c, o.level, o.name); got != o.value {
			t.Errorf("%s: option %d of level %d is %d, want %d", which, o.name, o.level, got, o.value)
		}
	}
}

// Keep-alive follows the rules that let the session in: towards the client the
// socks-rule's in what that says, and the client-rule's in the rest; towards the
// target the socks-rule's. Targets get theirs at once, because it is due soon: see
// sockopt.Young.
func TestKeepAliveByRule(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	s, _, ctx := newSession(t, `
internal.tcp.tcp_keepintvl: 7
client pass { from: 0/0 to: 0/0
  internal.tcp.tcp_keepidle: 31 }
socks pass { from: 0/0 to: 0/0 port = 1
  external.socket.so_keepalive: 0 }
socks pass { from: 0/0 to: 0/0
  internal.tcp.tcp_keepcnt: 2
  external.tcp.tcp_keepidle: 4 }
socks pass { from: 0/0 to: 0/0 port = 2
  internal.tcp.tcp_keepidle: 60
  external.tcp.tcp_keepidle: 3
  external.tcp.tcp_keepcnt: 6 }
`, 0)
	t.Cleanup(func() { s.finish(nil) })
	s.from, s.to = addrPort(s.client.RemoteAddr()), addrPort(s.client.LocalAddr())
	s.request.Version, s.request.Command = socks.V5, socks.Connect
	if err := enter(ctx, s); err != nil {
		t.Fatal(err)
	}
	wantKept(t, "client, by its client-rule", s.client, 1, 31, 7, 4)
	for _, c := range []struct {
		rule                      int
		client, target            string
		on, idle, interval, count int // of the target
		clientIdle, clientCount   int
	}{
		{0, "client, by a socks-rule that says nothing", "target that is not watched", 0, 0, 0, 0, 31, 4},
		{2, "client, by a socks-rule that says what the server does", "target", 1, 3, 15, 6, 60, 4},
		{1, "client, by its socks-rule and its client-rule", "target", 1, 4, 15, 4, 31, 2},
	} {
		s.keepClientAlive(s.clientRule.KeepAlives.Internal) // each is a session of its own
		s.socksRule = s.gen.policy.Rules.Socks[c.rule]
		if err := s.admitRequest(ctx); err != nil {
			t.Fatal(err)
		}
		d := s.decision()
		target, err := s.dial(ctx, &d, []netip.Addr{addrPort(ln.Addr()).Addr()}, addrPort(ln.Addr()).Port())
		if err != nil {
			t.Fatal(err)
		}
		s.sockets.closeOnEnd(target)
		wantKept(t, c.client, s.client, 1, c.clientIdle, 7, c.clientCount)
		wantKept(t, c.target, target, c.on, c.idle, c.interval, c.count)
	}
}

// enter lets a client in as its client-rule says.
func enter(ctx context.Context, s *session) error {
	if err := s.judgeClient(ctx); err != nil {
		return err
	}
	return s.letIn(ctx)
}

// With BIND, it is the rule for its peer that says how the peer is watched, and
// in what it says of that, the client.
func TestKeepAliveByReplyRule(t *testing.T) {
	s, client, ctx := newSession(t, `
client pass { from: 0/0 to: 0/0
  internal.tcp.tcp_keepcnt: 3 }
socks pass { from: 0/0 to: 0/0
  command: bind
  internal.tcp.tcp_keepintvl: 8
  external.tcp.tcp_keepidle: 600 }
socks pass { from: 0/0 to: 0/0
  command: bindreply
  internal.tcp.tcp_keepidle: 31
  external.socket.so_keepalive: 0 }
`, 0)
	t.Cleanup(func() { s.finish(nil) })
	s.from, s.to = addrPort(s.client.RemoteAddr()), addrPort(s.client.LocalAddr())
	s.request = socks.Request{Version: socks.V5, Command: socks.Bind, Addr: unspecified}
	if err := enter(ctx, s); err != nil {
		t.Fatal(err)
	}
	far := make(chan net.Conn, 1)
	go func() {
		defer close(far)
		reply, err := socks.ReadReply(client, socks.V5)
		if err != nil {
			t.Error(err)
			return
		}
		conn, err := net.Dial("tcp", netip.AddrPortFrom(reply.Addr.IP, reply.Addr.Port).String())
		if err != nil {
			t.Error(err)
			return
		}
		far <- conn
	}()
	peer, err := s.acceptPeer(ctx)
	if conn := <-far; conn != nil {
		defer conn.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	wantKept(t, "peer", peer, 0, 0, 0, 0)
	wantKept(t, "client", s.client, 1, 31, 8, 3)
}

// A connection from an external: address takes no port before it must: the
// system shares ports among targets then.
func TestDialTakesNoPortEarly(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	s, _, ctx := newSession(t, "client pass { from: 0/0 to: 0/0 }\nsocks pass { from: 0/0 to: 0/0 }\n", 0)
	t.Cleanup(func() { s.finish(nil) })
	s.socksRule = s.gen.policy.Rules.Socks[0]
	external := netip.MustParseAddr("127.0.0.7")
	s.gen.decide.External = []netip.Addr{external}
	d := s.decision()
	target, err := s.dial(ctx, &d, []netip.Addr{addrPort(ln.Addr()).Addr()}, addrPort(ln.Addr()).Port())
	if err != nil {
		t.Fatal(err)
	}
	s.sockets.closeOnEnd(target)
	if got := addrPort(target.LocalAddr()).Addr(); got != external {
		t.Errorf("connected from %v, want %v", got, external)
	}
	if intOf(t, target, unix.IPPROTO_IP, unix.IP_BIND_ADDRESS_NO_PORT) != 1 {
		t.Error("the port was chosen before the target was known")
	}
}
