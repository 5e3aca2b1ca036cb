package proxy_test

import (
	"fmt"
	"net"
	"net/netip"
	"testing"

	proxyproto "github.com/pires/go-proxyproto"

	"usher/proxy"
	"usher/proxy/rules"
	"usher/proxy/socks"
)

// Datagrams come from the external: address of their family. A family without one is
// not reached.
func TestExternalAddressOverUDP(t *testing.T) {
	w := newWorld(t, anybody, func(_ *proxy.Options, p *proxy.Policy) { p.External = []netip.Addr{netip.MustParseAddr("127.0.0.7")} })
	a := w.associate(nowhere)
	four, six := newPeer(t, "127.0.0.2"), newPeer(t, "::1")
	if from := a.exchange(four, "hello"); from.Addr() != netip.MustParseAddr("127.0.0.7") {
		t.Errorf("from %v, want the external address", from)
	}
	a.say(six.addr, "hello")
	w.dropped("no_external", 1)
}

// external.rotation: route asks for the route to the first target. The source address
// of this route must be an external: address.
func TestRouteOverUDP(t *testing.T) {
	external := func(addr string) setup {
		return func(_ *proxy.Options, p *proxy.Policy) { p.External = []netip.Addr{netip.MustParseAddr(addr)} }
	}
	peer := newPeer(t, "127.0.0.2") // reached from 127.0.0.1
	w := newWorld(t, "external: 127.0.0.7\nexternal.rotation: route\n"+anybody, external("127.0.0.7"))
	w.associate(nowhere).say(peer.addr, "hello")
	w.dropped("no_external", 1)
	w = newWorld(t, "external: 127.0.0.1\nexternal.rotation: route\n"+anybody, external("127.0.0.1"))
	if from := w.associate(nowhere).exchange(peer, "hello"); from.Addr() != netip.MustParseAddr("127.0.0.1") {
		t.Errorf("from %v, want the external address", from)
	}
}

// Clients are told the advertised address of their family. The socket is bound where
// datagrams to that address arrive.
func TestAdvertisedAddress(t *testing.T) {
	elsewhere := netip.MustParseAddr("192.0.2.1") // translated on its way: any address of ours will do
	for _, c := range []struct {
		advertise []string
		want      string
	}{
		{[]string{"127.0.0.9"}, "127.0.0.9"},
		{[]string{"::1", "127.0.0.9"}, "127.0.0.9"},
		{[]string{"::1"}, "127.0.0.1"},
		{[]string{elsewhere.String()}, elsewhere.String()},
	} {
		w := newWorld(t, anybody, func(o *proxy.Options, _ *proxy.Policy) {
			for _, s := range c.advertise {
				o.UDPAdvertise = append(o.UDPAdvertise, netip.MustParseAddr(s))
			}
		})
		a := w.associate(nowhere)
		if a.relay.Addr() != netip.MustParseAddr(c.want) {
			t.Errorf("told %v, want %s", a.relay, c.want)
		}
		if a.relay.Addr() == elsewhere {
			told := a.relay
			a.relay = netip.AddrPortFrom(netip.MustParseAddr("127.0.0.5"), told.Port()) // answers come from there, too
			a.say(told, "what the translator would bring back to us")
			w.dropped("self", 1)
		}
		a.exchange(newPeer(t, "127.0.0.2"), "hello")
	}
}

// Ports come only from the range. When all are taken, the reply is 1.
func TestPortRange(t *testing.T) {
	free := newPeer(t, "127.0.0.1")
	port := free.addr.Port()
	free.Close()
	w := newWorld(t, anybody, func(o *proxy.Options, _ *proxy.Policy) { o.UDPPorts = rules.PortRange{Lo: port, Hi: port} })
	a := w.associate(nowhere)
	if a.relay.Port() != port {
		t.Errorf("told %v, want port %d", a.relay, port)
	}
	refused := w.client()
	if r := refused.request(socks.Request{Command: socks.UDPAssociate, Addr: nowhere}); r.Code != socks.GeneralFailure {
		t.Errorf("reply %d, want %d", r.Code, socks.GeneralFailure)
	}
	refused.closed()
	w.reason("udp_ports")
	a.exchange(newPeer(t, "127.0.0.2"), "hello")
	a.Close()
	eventually(t, func() string {
		if w.server.Sessions() != 0 {
			return "the association is still there"
		}
		return ""
	})
	w.associate(nowhere)
}

// udp.portrange of the rule wins over the server's range.
func TestPortRangeOfARule(t *testing.T) {
	free := newPeer(t, "127.0.0.1")
	port := free.addr.Port()
	free.Close()
	w := newWorld(t, fmt.Sprintf("client pass { from: 0/0 to: 0/0 }\nsocks pass { from: 0/0 to: 0/0\n udp.portrange: %d-%d }\n", port, port),
		func(o *proxy.Options, _ *proxy.Policy) { o.UDPPorts = rules.PortRange{Lo: 1, Hi: 1} })
	if a := w.associate(nowhere); a.relay.Port() != port {
		t.Errorf("told %v, want port %d", a.relay, port)
	}
}

// behindRelay lets clients associate from behind a balancer, and lets one of them send
// datagrams.
const behindRelay = `
client pass { from: 127.0.0.1/32 to: 0/0 }
socks pass { from: 127.0.0.8/32 to: 0/0
	command: udpassociate }
socks pass { from: 127.0.0.1/32 to: 127.0.0.99/32
	command: udpassociate }
socks pass { from: 0/0 to: 0/0
	command: udpreply }
`

// relayed says that 127.0.0.1 is a balancer that hides its clients.
func relayed(o *proxy.Options, _ *proxy.Policy) {
	o.UDPRelayFrom = []netip.Prefix{netip.MustParsePrefix("127.0.0.1/32")}
}

// relayedFrom also names the networks of these clients.
func relayedFrom(networks ...string) setup {
	return func(o *proxy.Options, p *proxy.Policy) {
		relayed(o, p)
		for _, n := range networks {
			o.UDPRelayClients = append(o.UDPRelayClients, netip.MustParsePrefix(n))
		}
	}
}

// A stranger that sends to every port does not get the association of a client that a
// balancer hides: the client must announce its address, or its network must be known.
func TestStrangersOfHiddenClients(t *testing.T) {
	const open = "client pass { from: 0/0 to: 0/0 }\nsocks pass { from: 0/0 to: 0/0 }\n"
	for _, announced := range []socks.Addr{nowhere, {IP: netip.MustParseAddr("127.0.0.8")}, {IP: nowhere.IP, Port: 4711}, {Name: "client.test", Port: 4711}} {
		w := newWorld(t, open, relayed)
		c := w.client()
		if r := c.request(socks.Request{Command: socks.UDPAssociate, Addr: announced}); r.Code != socks.NotAllowed {
			t.Errorf("%v: reply %d, want %d", announced, r.Code, socks.NotAllowed)
		}
		c.closed()
		w.reason("udp_announcement")

		w = newWorld(t, open, relayedFrom("127.0.0.8/32", "::1/128"))
		a := &associated{client: w.client(), udp: newPeer(t, "127.0.0.8")}
		a.ask(announced)
		target, stranger := newPeer(t, "127.0.0.3"), newPeer(t, "127.0.0.4")
		stranger.send(datagram(t, socks.AddrOf(target.addr), "I was first"), a.relay)
		w.dropped("foreign", 1)
		a.exchange(target, "hello")
	}
}

// If a balancer hides a client, Usher uses the announced address. If that is
// incomplete, the first datagram that the rules pass fixes the address.
func TestClientsHiddenByABalancer(t *testing.T) {
	for _, c := range []struct {
		name     string
		announce func(a netip.AddrPort) socks.Addr
		reason   string // why the datagram of somebody else is dropped
	}{
		{"nothing announced", func(netip.AddrPort) socks.Addr { return nowhere }, "blocked"},
		{"an address before translation, no port", func(netip.AddrPort) socks.Addr { return socks.Addr{IP: netip.MustParseAddr("127.0.0.9")} }, "blocked"},
		{"a port before translation, no address", func(a netip.AddrPort) socks.Addr { return socks.Addr{IP: nowhere.IP, Port: a.Port() ^ 1} }, "blocked"},
		{"all announced", socks.AddrOf, "foreign"},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t, behindRelay, relayedFrom("127.0.0.0/8"))
			a := &associated{client: w.client(), udp: newPeer(t, "127.0.0.8")}
			a.ask(c.announce(a.udp.addr))
			target, stranger, neighbour := newPeer(t, "127.0.0.3"), newPeer(t, "127.0.0.4"), newPeer(t, "127.0.0.8")
			stranger.send(datagram(t, socks.AddrOf(target.addr), "I was first"), a.relay)
			w.dropped(c.reason, 1)
			a.exchange(target, "hello")
			neighbour.send(datagram(t, socks.AddrOf(target.addr), "me too"), a.relay)
			w.dropped("foreign", map[string]float64{"blocked": 1, "foreign": 2}[c.reason])
			a.exchange(target, "still here")
		})
	}
}

// The request of such a client is judged by the announced address. The rules need not
// pass the balancer's address.
func TestRulesForClientsHiddenByABalancer(t *testing.T) {
	w := newWorld(t, `
client pass { from: 127.0.0.1/32 to: 0/0 }
socks pass { from: 127.0.0.8/32 to: 0/0 }
`, relayed)
	a := w.associate(socks.Addr{IP: netip.MustParseAddr("127.0.0.8"), Port: 9})
	if line := a.end(w, "done"); line["rule"] != "s1" {
		t.Errorf("log %v, want the rule for the client", line)
	}
	r := w.client().request(socks.Request{Command: socks.UDPAssociate, Addr: socks.Addr{IP: netip.MustParseAddr("127.0.0.7"), Port: 9}})
	if r.Code != socks.NotAllowed {
		t.Errorf("reply %d, want %d", r.Code, socks.NotAllowed)
	}
}

// If another client announces a port, the rules must pass both this port and that of
// the connection. The rule of the connection counts the session.
func TestRulesForAnnouncedPorts(t *testing.T) {
	for _, c := range []struct {
		connection   string // what becomes of it
		port         uint16
		reason, rule string
	}{
		{"pass", 9, "done", "s3"},
		{"pass", 7, "blocked", "s2"},
		{"block", 9, "blocked", "s3"},
	} {
		w := newWorld(t, fmt.Sprintf(`
client pass { from: 0/0 to: 0/0 }
socks pass { from: 0/0 port = 9 to: 0/0 }
socks block { from: 0/0 port = 7 to: 0/0 }
socks %s { from: 0/0 to: 0/0 }
`, c.connection))
		client := w.client()
		client.request(socks.Request{Command: socks.UDPAssociate, Addr: socks.Addr{IP: netip.MustParseAddr("127.0.0.1"), Port: c.port}})
		client.Close()
		if line := w.reason(c.reason); line["rule"] != c.rule {
			t.Errorf("%+v: log %v", c, line)
		}
	}
}

// Nobody else may announce another address: without UDPRelayFrom, and for connections
// from other addresses, the client's address is that of the connection.
func TestAnnouncementsOfOthers(t *testing.T) {
	elsewhere := func(o *proxy.Options, _ *proxy.Policy) {
		o.UDPRelayFrom = []netip.Prefix{netip.MustParsePrefix("127.0.0.2/32")}
	}
	for _, s := range []setup{elsewhere, func(*proxy.Options, *proxy.Policy) {}} {
		w := newWorld(t, anybody, s)
		liar := &associated{client: w.client(), udp: newPeer(t, "127.0.0.8")}
		liar.ask(socks.AddrOf(liar.udp.addr))
		target := newPeer(t, "127.0.0.3")
		liar.say(target.addr, "hello")
		w.dropped("foreign", 1)
	}
}

// The PROXY header names the client, which may send from this address, even if the
// balancer or the client's own address is in UDPRelayFrom.
func TestAssociationBehindProxyProtocol(t *testing.T) {
	hiding := func(o *proxy.Options, _ *proxy.Policy) {
		o.UDPRelayFrom = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}
	}
	for _, setups := range [][]setup{{trusting}, {trusting, hiding}} {
		w := newWorld(t, anybody, setups...)
		a := &associated{client: w.client(), udp: newPeer(t, "127.0.0.8")}
		h := proxyproto.Header{Version: 2, Command: proxyproto.PROXY, TransportProtocol: proxyproto.TCPv4,
			SourceAddr:      &net.TCPAddr{IP: net.IPv4(127, 0, 0, 8), Port: 4711},
			DestinationAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 1080}}
		b, err := h.Format()
		if err != nil {
			t.Fatal(err)
		}
		a.client.send(b)
		a.ask(nowhere)
		target, balancer := newPeer(t, "127.0.0.3"), newPeer(t, "127.0.0.1")
		balancer.send(datagram(t, socks.AddrOf(target.addr), "hello"), a.relay)
		w.dropped("foreign", 1)
		a.exchange(target, "hello")
	}
}
