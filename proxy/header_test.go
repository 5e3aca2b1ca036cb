package proxy_test

import (
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	proxyproto "github.com/pires/go-proxyproto"

	"usher/deploy/need"
	"usher/proxy"
	"usher/proxy/socks"
)

// trusting makes the loopback network a trusted balancer.
func trusting(o *proxy.Options, _ *proxy.Policy) {
	o.TrustedProxies = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}
}

// header returns a PROXY header about a client at 192.0.2.7.
func header(t *testing.T, version byte, command proxyproto.ProtocolVersionAndCommand) []byte {
	t.Helper()
	h := proxyproto.Header{Version: version, Command: command, TransportProtocol: proxyproto.TCPv4,
		SourceAddr:      &net.TCPAddr{IP: net.IPv4(192, 0, 2, 7), Port: 4711},
		DestinationAddr: &net.TCPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 1080}}
	if command.IsLocal() {
		h.TransportProtocol = proxyproto.UNSPEC
	}
	b, err := h.Format()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// behindBalancer admits one client only, at the address and port of the header.
const behindBalancer = `
client pass { from: 192.0.2.7/32 port = 4711 to: 192.0.2.1/32 port = 1080
	session.max: 1 }
socks pass { from: 192.0.2.7/32 to: 0/0 }
`

func TestHeaderSaysWhoTheClientIs(t *testing.T) {
	to := echo(t)
	w := newWorld(t, behindBalancer, trusting)
	n := 0
	for _, version := range []byte{1, 2} {
		head := header(t, version, proxyproto.PROXY)
		for _, step := range []int{1000, 1} { // with the greeting in the same segment, and byte by byte
			c := w.client()
			text := append(head[:len(head):len(head)], 5, 1, 0)
			for i := 0; i < len(text); i += step {
				c.send(text[i:min(i+step, len(text))])
			}
			c.expect([]byte{5, 0})
			c.must(socks.WriteRequest(c, socks.Request{Version: socks.V5, Command: socks.Connect, Addr: to}))
			if r, err := socks.ReadReply(c, socks.V5); err != nil || r.Code != socks.Succeeded {
				t.Fatalf("version %d: %+v, %v", version, r, err)
			}
			c.echoes("hello")
			c.must(c.CloseWrite())
			c.closed()
			if line := w.log.wait(t, n+1)[n]; line["client"] != "192.0.2.7:4711" {
				t.Errorf("log %v, want the client of the header", line)
			}
			n++
		}
	}
	w.left("c1", 1)
}

// UNKNOWN is no health check but a client that the balancer cannot describe. Rules and
// limits see it at the balancer's address.
func TestUnknownIsAClient(t *testing.T) {
	to := echo(t)
	w := newWorld(t, `
client pass { from: 127.0.0.1/32 to: 127.0.0.1/32
	session.max: 1 }
socks pass { from: 127.0.0.1/32 to: 0/0 }
`, trusting)
	for i, head := range []string{"PROXY UNKNOWN\r\n", "PROXY UNKNOWN 192.0.2.7 192.0.2.1 4711 1080\r\n"} {
		first, second := w.client(), w.client()
		first.send([]byte(head))
		first.connect(to, socks.Succeeded)
		second.send([]byte(head + "\x05")) // a client from its first byte on
		second.closed()
		if line := w.log.wait(t, 2*i+1)[2*i]; line["reason"] != "limit" || line["client"] != second.LocalAddr().String() {
			t.Errorf("%q: log %v, want the limit and the balancer's address", head, line)
		}
		first.Close()
		w.left("c1", 1)
	}
}

func TestUnknownIsBlocked(t *testing.T) {
	w := newWorld(t, "client block { from: 0/0 to: 0/0 }\nsocks pass { from: 0/0 to: 0/0 }\n", trusting)
	c := w.client()
	c.send([]byte("PROXY UNKNOWN\r\n"))
	c.closed()
	w.reason("blocked")
}

// A trusted balancer must send a header.
func TestTrustedWithoutHeader(t *testing.T) {
	unix := proxyproto.Header{Version: 2, Command: proxyproto.PROXY, TransportProtocol: proxyproto.UnixStream,
		SourceAddr: &net.UnixAddr{Net: "unix", Name: "a"}, DestinationAddr: &net.UnixAddr{Net: "unix", Name: "b"}}
	local, err := unix.Format()
	if err != nil {
		t.Fatal(err)
	}
	v2 := header(t, 2, proxyproto.PROXY)
	tooLong := append(v2[:14:14], 0xff, 0xff)
	w := newWorld(t, anybody, trusting)
	for i, b := range [][]byte{
		{5, 1, 0},
		{4, 1, 0, 80, 127, 0, 0, 1, 0},
		[]byte("PROXY TCP4 192.0.2.7 192.0.2.1 4711\r\n"),
		[]byte("PROXY TCP4 " + string(make([]byte, 200))),
		[]byte("PROXY UNKNOWNED"),
		tooLong,
		local,
		append([]byte("\r\n\r\n\x00\r\nWRONG"), v2[12:]...),
	} {
		c := w.client()
		c.send(b)
		if i == 4 {
			c.must(c.CloseWrite()) // it looks like the beginning of something
		}
		c.closed()
		if line := w.log.wait(t, i+1)[i]; line["reason"] != "proxy_header" {
			t.Errorf("%q: log %v", b, line)
		}
	}
	if n := w.metric("usher_sessions_rejected_total", "rule", "", "reason", "proxy_header"); n != 8 {
		t.Errorf("%v counted, want 8", n)
	}
	w.left("", 0)
}

// Nobody else may send one, whatever it says.
func TestHeaderFromAnybodyElse(t *testing.T) {
	for _, c := range []struct {
		setups []setup
		remedy string
	}{{[]setup{far}, "add it to USHER_PROXY_PROTOCOL_FROM"}, {nil, "set USHER_PROXY_PROTOCOL_FROM to its address"}} {
		for _, version := range []byte{1, 2} {
			w := newWorld(t, anybody, c.setups...)
			client := w.client()
			client.send(append(header(t, version, proxyproto.PROXY), 5, 1, 0))
			client.closed()
			if line := w.reason("proxy_header"); !strings.Contains(fmt.Sprint(line["error"]), c.remedy) {
				t.Errorf("log %v, want %q", line, c.remedy)
			}
		}
	}
}

// Log lines name the protocols that come to a SOCKS port by mistake.
func TestOtherProtocols(t *testing.T) {
	for sent, want := range map[string]string{
		"GET / HTTP/1.1\r\nHost: x\r\n\r\n":            "an HTTP request",
		"CONNECT x:443 HTTP/1.1\r\n\r\n":               "an HTTP request",
		"PUT / HTTP/1.1\r\n\r\n":                       "an HTTP request",
		"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n":             "an HTTP request",
		"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03": "a TLS hello",
	} {
		w := newWorld(t, anybody)
		c := w.client()
		c.send([]byte(sent))
		c.closed()
		if line := w.reason("protocol"); !strings.HasSuffix(fmt.Sprint(line["error"]), want) {
			t.Errorf("%q: log %v, want %q", sent, line, want)
		}
	}
}

// A SOCKS 4 client with a user id that is too long gets a reply.
func TestSocks4UserIDTooLong(t *testing.T) {
	w := newWorld(t, anybody)
	c := w.client()
	c.send([]byte("\x04\x01\x00\x50\xc0\x00\x02\x07" + strings.Repeat("n", 256) + "\x00"))
	c.expect([]byte{0, 91, 0, 0, 0, 0, 0, 0})
	c.closed()
	w.reason("protocol")
}

// If two balancers in a row both send a header, there is no other address to trust.
func TestSecondHeader(t *testing.T) {
	for _, version := range []byte{1, 2} {
		w := newWorld(t, anybody, trusting)
		client := w.client()
		client.send(header(t, 2, proxyproto.PROXY))
		client.send(append(header(t, version, proxyproto.PROXY), 5, 1, 0))
		client.closed()
		line := w.log.wait(t, 1)[0]
		if said := fmt.Sprint(line["error"]); line["reason"] != "proxy_header" || !strings.HasPrefix(said, "a second PROXY header") {
			t.Errorf("version %d: log %v", version, line)
		}
	}
}

// Not everything that begins like a header is one.
func TestNoSecondHeader(t *testing.T) {
	t.Parallel()
	for _, sent := range []string{"P", "POST / HTTP/1.1\r\n\r\n", "PROXYING / HTTP/1.1\r\n\r\n", "\r", "\r\n\r\n", "\r\n\r\n\x00\r\nWRONG SIGNATURE"} {
		w := newWorld(t, anybody, trusting)
		client := w.client()
		client.send(header(t, 2, proxyproto.PROXY))
		client.send([]byte(sent))
		client.closed()
		w.reason("protocol")
	}
}

func TestHeaderHasADeadline(t *testing.T) {
	need.Seconds(t)
	w := newWorld(t, anybody, trusting)
	began := time.Now()
	silent, half, slow := w.client(), w.client(), w.client()
	half.send(header(t, 2, proxyproto.PROXY)[:20])
	stop := slow.trickle([]byte("PROXY TCP4 "), '1') // a long header
	for _, c := range []*client{silent, half, slow} {
		c.closed()
	}
	stop()
	if took := time.Since(began); took < 3*time.Second {
		t.Errorf("ended after %v, before the 3s", took)
	}
	w.left("", 0)
}
