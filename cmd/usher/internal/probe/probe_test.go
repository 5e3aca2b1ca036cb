package probe

import (
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"usher/deploy/need"
	"usher/proxy/socks"
)

func TestMain(m *testing.M) {
	code := need.Summary(m).Run()
	if err := goleak.Find(); err != nil && code == 0 {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

// server serves every connection with handle until the test ends. It returns its address.
func server(t *testing.T, handle func(net.Conn)) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var running sync.WaitGroup
	running.Go(func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			running.Go(func() {
				defer conn.Close()
				handle(conn)
			})
		}
	})
	t.Cleanup(func() {
		ln.Close()
		running.Wait()
	})
	return ln.Addr().String()
}

// dead returns an address at which nobody listens.
func dead(t *testing.T) string {
	t.Helper()
	return fmt.Sprintf("127.0.0.1:%d", need.Port(t))
}

// says returns a server that reads n bytes and sends an answer, for each pair, and
// then waits for the client to close.
func says(t *testing.T, dialogue ...any) string {
	return server(t, func(c net.Conn) {
		for i := 0; i < len(dialogue); i += 2 {
			if _, err := io.CopyN(io.Discard, c, int64(dialogue[i].(int))); err != nil {
				return
			}
			if _, err := io.WriteString(c, dialogue[i+1].(string)); err != nil {
				return
			}
		}
		io.Copy(io.Discard, c) //nolint:errcheck // it waits for the end
	})
}

const (
	greetingLength = 3
	requestLength  = 10
	noAuth         = "\x05\x00"
	granted        = "\x05\x00\x00\x01\x7f\x00\x00\x01\x00\x01"
)

// options are those of a probe that is expected to succeed.
func options(server string) Options {
	return Options{Server: server, Version: socks.V5, Command: socks.Connect, Count: 1, Timeout: time.Minute}
}

func probed(t *testing.T, o Options) Result {
	t.Helper()
	r, err := Run(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// isUp checks that a server forwards.
func isUp(t *testing.T, what string, o Options) {
	t.Helper()
	if r := probed(t, o); !r.Up || r.Reason != "" || len(r.Sessions) != o.Count {
		t.Errorf("%s: up %v, %q, %d sessions", what, r.Up, r.Reason, len(r.Sessions))
	}
}

// isDown checks that a server is down for a reason.
func isDown(t *testing.T, what string, o Options, kind Kind, reason string) {
	t.Helper()
	saysDown(t, what, probed(t, o), kind, reason)
}

func saysDown(t *testing.T, what string, r Result, kind Kind, reason string) {
	t.Helper()
	if r.Up || r.Failed != kind || !strings.HasPrefix(r.Reason, string(kind)+": ") || !strings.Contains(r.Reason, reason) {
		t.Errorf("%s: up %v, failed at %q: %q; want %q with %q", what, r.Up, r.Failed, r.Reason, kind, reason)
	}
	last := r.Sessions[0][len(r.Sessions[0])-1]
	if last.Error == "" || strings.Contains(r.Reason, "\n") {
		t.Errorf("%s: last step %+v, reason %q", what, last, r.Reason)
	}
}

// short is the time for servers that never answer. A busy machine gets more, because it
// may need all of that for the steps before.
const short = 100 * time.Millisecond

func TestWhyItIsDown(t *testing.T) {
	refuse := says(t, greetingLength, noAuth, requestLength, "\x05\x02\x00\x01\x00\x00\x00\x00\x00\x00")
	greets := says(t, greetingLength, noAuth)
	grants := says(t, greetingLength, noAuth, requestLength, granted)
	login := func(o *Options) { o.User, o.Password = "monica", "secret" }
	version4 := func(o *Options) { o.Version = socks.V4 }
	for _, c := range []struct {
		name, server string
		change       func(*Options)
		kind         Kind
		reason       string
	}{
		{"dead", dead(t), nil, Unreachable, "connection refused"},
		{"silent", says(t), nil, Timeout, "no answer to the greeting within 100ms"},
		{"SOCKS 4, silent", says(t), version4, Timeout, "no reply to the request within 100ms"},
		{"web server", says(t, 1, "HTTP/1.1 400 Bad Request\r\n\r\n"), nil, Greeting, "begins with 0x48, which is not SOCKS"},
		{"closes at once", server(t, func(c net.Conn) { io.CopyN(io.Discard, c, greetingLength) }), nil, Greeting, "closed the connection"}, //nolint:errcheck // as is
		{"wants a password", says(t, greetingLength, "\x05\xff"), nil, Method, "without a password"},
		{"has no passwords", says(t, greetingLength, "\x05\xff"), login, Method, "does not accept user name"},
		{"chooses what was not offered", says(t, greetingLength, "\x05\x01"), nil, Method, "method 1"},
		{"rejects the password", says(t, greetingLength, "\x05\x02", 15, "\x01\x01"), login, Password, `rejected the password of "monica"`},
		{"silent after the password", says(t, greetingLength, "\x05\x02", 15, ""), login, Timeout, "no answer to the password"},
		{"refuses", refuse, nil, Refused, "reply 2, not allowed by the rules"},
		{"refuses SOCKS 4", says(t, 9, "\x00\x5b\x00\x00\x00\x00\x00\x00"), version4, Refused, "rejected the request"},
		{"unknown reply", says(t, greetingLength, noAuth, requestLength, "\x05\x63"+granted[2:]), nil, Refused, "reply 99"},
		{"greets only", greets, nil, Timeout, "no reply to the request"},
		{"closes at the limit", server(t, func(c net.Conn) {
			io.CopyN(io.Discard, c, greetingLength) //nolint:errcheck // the client would tell
			io.WriteString(c, noAuth)               //nolint:errcheck // the client would tell
			io.CopyN(io.Discard, c, requestLength)  //nolint:errcheck // the client would tell
		}), nil, Refused, "closed the connection without a reply"},
		{"grants and forwards nothing", grants, nil, Nothing, "nothing arrived at 127.0.0.1:"},
		{"grants and echoes", says(t, greetingLength, noAuth, requestLength, granted, 16, "0123456789abcdef"), nil, Nothing, "not those that were sent"},
		{"grants UDP without a relay", grants, func(o *Options) { o.Command = socks.UDPAssociate }, Nothing, "UDP address 127.0.0.1:1"},
		{"grants BIND without a listener", grants, func(o *Options) { o.Command = socks.Bind }, Nothing, "peer of the BIND request cannot connect"},
		{"target says nothing", grants, func(o *Options) {
			o.Target, o.Expect = &socks.Addr{IP: netip.MustParseAddr("127.0.0.1"), Port: 25}, "220"
		}, Nothing, `did not send "220" within 100ms`},
		{"target says something else", says(t, greetingLength, noAuth, requestLength, granted+"hello"), func(o *Options) {
			o.Target, o.Expect = &socks.Addr{IP: netip.MustParseAddr("127.0.0.1"), Port: 25}, "220"
		}, Nothing, `did not send "220"`},
	} {
		o := options(c.server)
		if c.kind == Timeout || c.kind == Nothing {
			o.Timeout = short
		}
		if c.change != nil {
			c.change(&o)
		}
		r := probed(t, o)
		for o.Timeout < time.Minute && r.Failed == Timeout && !strings.Contains(r.Reason, c.reason) {
			o.Timeout *= 2
			c.reason = strings.ReplaceAll(c.reason, (o.Timeout / 2).String(), o.Timeout.String())
			r = probed(t, o)
		}
		saysDown(t, c.name, r, c.kind, c.reason)
	}
}

// A stranger that finds the listener of a probe gets nothing, and disturbs nobody.
func TestStrangers(t *testing.T) {
	stranger := make(chan string, 1)
	relay := server(t, func(c net.Conn) {
		to := negotiated(c)
		other, err := net.Dial("tcp", to)
		if err != nil {
			return
		}
		defer other.Close()
		io.WriteString(other, "GET / HTTP/1.1\r\n\r\n") //nolint:errcheck // read tells
		got, err := io.ReadAll(other)
		stranger <- fmt.Sprintf("%q %v", got, err)
		splice(c, to)
	})
	isUp(t, "with a stranger", options(relay))
	if got := <-stranger; !strings.HasPrefix(got, `"" `) {
		t.Errorf("a stranger got %s", got)
	}
}

// negotiated grants a request and returns its address.
func negotiated(c net.Conn) string {
	if _, err := socks.ReadOpening(c); err != nil {
		return ""
	}
	socks.WriteMethod(c, socks.NoAuth) //nolint:errcheck // the client would tell
	q, err := socks.ReadRequest(c)
	if err != nil {
		return ""
	}
	socks.WriteReply(c, socks.Reply{Version: socks.V5}) //nolint:errcheck // the client would tell
	return q.Addr.String()
}

func splice(c net.Conn, to string) {
	up, err := net.Dial("tcp", to)
	if err != nil {
		return
	}
	defer up.Close()
	var copying sync.WaitGroup
	copying.Go(func() { io.Copy(c, up); c.Close() }) //nolint:errcheck // it ends with either side
	io.Copy(up, c)                                   //nolint:errcheck // it ends with either side
	up.Close()
	copying.Wait()
}

// Sessions of one probe are open at the same time: a server with room for two
// fails a probe with three, and none with two.
func TestCount(t *testing.T) {
	slots := make(chan struct{}, 2)
	limited := server(t, func(c net.Conn) {
		select {
		case slots <- struct{}{}:
			splice(c, negotiated(c))
			<-slots
		default:
		}
	})
	free := func() {
		for range cap(slots) {
			slots <- struct{}{}
		}
		for range cap(slots) {
			<-slots
		}
	}
	two, three := options(limited), options(limited)
	two.Count, three.Count = 2, 3
	isUp(t, "two", two)
	free()
	if r := probed(t, three); r.Up || !strings.HasSuffix(r.Reason, "(1 of 3 sessions failed)") || len(r.Sessions) != 3 {
		t.Error(r)
	}
}

// If the probe itself cannot work, this is an error, and not the server's fault.
func TestOwnFault(t *testing.T) {
	o := options(says(t))
	o.Bind = netip.MustParseAddr("192.0.2.1")
	if _, err := Run(t.Context(), o); err == nil || !strings.Contains(err.Error(), "--bind") {
		t.Error(err)
	}
	o.Version, o.Bind = socks.V4, netip.IPv6Loopback()
	if _, err := Run(t.Context(), o); err == nil || !strings.Contains(err.Error(), "IPv4 addresses only") {
		t.Error(err)
	}
}

func TestTarget(t *testing.T) {
	banner := server(t, func(c net.Conn) {
		io.WriteString(c, "220 mail.test ready\r\n") //nolint:errcheck // the client would tell
		io.Copy(io.Discard, c)                       //nolint:errcheck // it waits for the end
	})
	o := options(server(t, func(c net.Conn) { splice(c, negotiated(c)) }))
	at := netip.MustParseAddrPort(banner)
	target := socks.AddrOf(at)
	o.Target = &target
	isUp(t, "connected", o)
	o.Expect = "220 mail"
	isUp(t, "with text", o)
	o.Target = &socks.Addr{Name: "localhost", Port: at.Port()}
	isUp(t, "by name", o)
}

// A probe leaves no descriptor behind, whatever the server does. TestMain looks for
// goroutines.
func TestNothingIsLeft(t *testing.T) {
	open := func() int {
		names, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Skip("no /proc here: ", err)
		}
		return len(names)
	}
	// Its own connections are to a server in another process, whose descriptors do not count.
	address := dead(t)
	host, port, _ := net.SplitHostPort(address)
	started(t, address, "microsocks", "-i", host, "-p", port)
	o := options(address)
	o.Count = 10
	isUp(t, "before", o) // opens what the runtime keeps
	before := open()
	for range 3 {
		isUp(t, "connect", o)
		for _, command := range []socks.Command{socks.Bind, socks.UDPAssociate} {
			refused := o
			refused.Command = command
			isDown(t, "refused", refused, Refused, "reply 7")
		}
		unreachable := o
		unreachable.Server = dead(t)
		isDown(t, "dead", unreachable, Unreachable, "refused")
	}
	if after := open(); after != before {
		t.Errorf("%d descriptors before, %d after", before, after)
	}
}
