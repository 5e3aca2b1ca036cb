package proxy_test

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"usher/proxy"
	"usher/proxy/socks"
)

func TestAssociation(t *testing.T) {
	w := newWorld(t, "client pass { from: 0/0 to: 0/0 }\nsocks pass { from: 0/0 to: 0/0\n session.max: 1 }\n",
		withNames(names{"four.test": {netip.MustParseAddr("127.0.0.3")}, "six.test": {netip.MustParseAddr("::1")}}))
	a := w.associate(nowhere)
	if a.relay.Addr() != netip.MustParseAddr("127.0.0.1") {
		t.Errorf("advertised %v, want the address to which the client connected", a.relay)
	}
	four, six, named := newPeer(t, "127.0.0.2"), newPeer(t, "::1"), newPeer(t, "127.0.0.3")
	a.exchange(four, "hello")
	a.exchange(six, "hello")
	a.exchange(four, "")                         // an empty payload is a datagram, too
	a.exchange(six, strings.Repeat("x", 60_000)) // and the longest pass
	a.say(four.addr, strings.Repeat("y", 65507-10))
	four.expect(strings.Repeat("y", 65507-10))
	a.udp.send(datagram(t, socks.Addr{Name: "four.test", Port: named.addr.Port()}, "by name"), a.relay)
	named.send([]byte("hi"), named.expect("by name"))
	a.hears(named.addr, "hi") // in whose answers its address stands
	a.udp.send(datagram(t, socks.Addr{Name: "127.0.0.3", Port: named.addr.Port()}, "by a number"), a.relay)
	named.expect("by a number")
	if n := w.slots("s1", 1); n != 0 {
		t.Error("an association holds no slot")
	}
	counts := w.server.Counts()
	if len(counts) != 1 || counts[0].Command != "udpassociate" || counts[0].Rule != "s1" {
		t.Errorf("counts %+v", counts)
	}
	const up, down = 5 + 5 + 60_000 + 65497 + 7 + 11, 9 + 9 + 4 + 60_004 + 2
	line := a.end(w, "done")
	for key, want := range map[string]any{"bytes_up": up, "bytes_down": down, "datagrams_up": 7, "datagrams_down": 5,
		"command": "udpassociate", "udp_client": a.udp.addr, "udp_relay": a.relay, "rule": "s1", "dropped": nil, "error": nil} {
		if fmt.Sprint(line[key]) != fmt.Sprint(want) {
			t.Errorf("%s is %v, want %v: %v", key, line[key], want, line)
		}
	}
	for _, m := range []struct {
		name   string
		labels []string
		want   float64
	}{
		{"usher_udp_datagrams_total", []string{"direction", "up"}, 7},
		{"usher_udp_datagrams_total", []string{"direction", "down"}, 5},
		{"usher_transferred_bytes_total", []string{"direction", "up", "protocol", "udp"}, up},
		{"usher_transferred_bytes_total", []string{"direction", "down", "protocol", "udp"}, down},
		{"usher_transferred_bytes_total", []string{"direction", "down", "protocol", "tcp"}, 0},
		{"usher_sessions_admitted_total", []string{"rule", "s1", "command", "udpassociate"}, 1},
	} {
		if got := w.metric(m.name, m.labels...); got != m.want {
			t.Errorf("%s%v is %v, want %v", m.name, m.labels, got, m.want)
		}
	}
	for _, p := range []*peer{a.udp, four, six, named} {
		p.Close()
	}
	w.left("s1", 1)
}

// A datagram from somebody else than the client is not relayed and ends nothing, before
// and after the client's port is known.
func TestForeignDatagrams(t *testing.T) {
	for _, c := range []struct {
		name     string
		announce func(port uint16) socks.Addr
		early    string // who may not speak first; "" if nobody is known by then
	}{
		{"nothing announced", func(uint16) socks.Addr { return nowhere }, "127.0.0.2"},
		{"port announced", func(port uint16) socks.Addr { return socks.Addr{IP: nowhere.IP, Port: port} }, "127.0.0.1"},
		{"all announced", func(port uint16) socks.Addr {
			return socks.Addr{IP: netip.MustParseAddr("127.0.0.1"), Port: port}
		}, "127.0.0.1"},
		// Of another address, as behind a translator, neither part is believed.
		{"other address", func(uint16) socks.Addr { return socks.Addr{IP: netip.MustParseAddr("127.0.0.2"), Port: 9} }, "127.0.0.2"},
		{"name", func(uint16) socks.Addr { return socks.Addr{Name: "me.test", Port: 9} }, "127.0.0.2"},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t, anybody)
			a := &associated{client: w.client(), udp: newPeer(t, "127.0.0.1")}
			a.ask(c.announce(a.udp.addr.Port()))
			target, stranger, neighbour := newPeer(t, "127.0.0.3"), newPeer(t, c.early), newPeer(t, "127.0.0.1")
			to := socks.AddrOf(target.addr)
			stranger.send(datagram(t, to, "I was first"), a.relay)
			w.dropped("foreign", 1)
			a.exchange(target, "hello")
			stranger.send(datagram(t, to, "me again"), a.relay)
			neighbour.send(datagram(t, to, "another port of the client's host"), a.relay)
			w.dropped("foreign", 3)
			a.exchange(target, "still here")
		})
	}
}

// Malformed datagrams are dropped, and the association continues.
func TestMalformedDatagrams(t *testing.T) {
	w := newWorld(t, anybody)
	a := w.associate(nowhere)
	target := newPeer(t, "127.0.0.2")
	good := datagram(t, socks.AddrOf(target.addr), "fragment")
	for i, b := range [][]byte{{}, {0, 0, 0}, good[:9], {0, 0, 0, 9, 1, 2, 3, 4, 5, 6, 7, 8}} {
		a.udp.send(b, a.relay)
		w.dropped("malformed", float64(i+1))
	}
	for i, frag := range []byte{1, 0x82} {
		b := slices.Clone(good)
		b[2] = frag
		a.udp.send(b, a.relay)
		w.dropped("fragment", float64(i+1))
	}
	for i, to := range []string{"0.0.0.0:53", "127.0.0.2:0", "[::]:53", "224.0.0.1:53", "[ff02::1]:53"} {
		a.say(netip.MustParseAddrPort(to), "nobody")
		w.dropped("target", float64(i+1))
	}
	a.say(netip.MustParseAddrPort("255.255.255.255:53"), "everybody") // the system refuses it
	w.dropped("system", 1)
	a.exchange(target, "hello")
	if line := a.end(w, "done"); fmt.Sprint(line["dropped"]) != "map[fragment:2 malformed:4 system:1 target:5]" {
		t.Errorf("log %v", line)
	}
}

// Datagrams from peers that the client has not contacted are dropped.
func TestUnsolicitedReplies(t *testing.T) {
	w := newWorld(t, anybody)
	a := w.associate(nowhere)
	target, stranger, neighbour := newPeer(t, "127.0.0.2"), newPeer(t, "127.0.0.3"), newPeer(t, "127.0.0.2")
	back := a.exchange(target, "hello")
	back = netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), back.Port())
	stranger.send([]byte("hi"), back)
	neighbour.send([]byte("the same host, another port"), back)
	w.dropped("unsolicited", 2)
	a.exchange(target, "only you")
	a.exchange(stranger, "now you")
}

// With udp.connectdst: no, every peer that the rules pass may answer.
func TestRepliesFromAnyPeer(t *testing.T) {
	w := newWorld(t, `
udp.connectdst: no
client pass { from: 0/0 to: 0/0 }
socks block { from: 127.0.0.4/32 to: 0/0
	command: udpreply }
socks pass { from: 0/0 to: 0/0 }
`)
	a := w.associate(nowhere)
	back := a.exchange(newPeer(t, "127.0.0.2"), "hello")
	back = netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), back.Port())
	stranger, blocked := newPeer(t, "127.0.0.3"), newPeer(t, "127.0.0.4")
	blocked.send([]byte("no"), back)
	w.dropped("reply_blocked", 1)
	stranger.send([]byte("hi"), back)
	a.hears(stranger.addr, "hi")
}

// Every datagram is judged, in both directions, by the rules that were in force when
// the association began.
func TestRulesForDatagrams(t *testing.T) {
	w := newWorld(t, `
client pass { from: 0/0 to: 0/0 }
socks block { from: 0/0 to: 127.0.0.2/32
	command: udpassociate }
socks block { from: 127.0.0.3/32 to: 127.0.0.1/32
	command: udpreply }
socks block { from: 0/0 to: blocked.test
	command: udpassociate }
socks pass { from: 127.0.0.1/32 to: 0/0
	session.max: 1
	command: udpassociate }
socks pass { from: 0/0 to: 127.0.0.1/32
	command: udpreply }
`, withNames(names{"blocked.test": {netip.MustParseAddr("127.0.0.5")}}))
	a := w.associate(nowhere)
	blocked, mute, named, free := newPeer(t, "127.0.0.2"), newPeer(t, "127.0.0.3"), newPeer(t, "127.0.0.5"), newPeer(t, "127.0.0.4")
	a.say(blocked.addr, "no")
	w.dropped("blocked", 1)
	a.say(mute.addr, "yes")
	mute.send([]byte("no"), mute.expect("yes"))
	w.dropped("reply_blocked", 1)
	a.say(named.addr, "the address of the rule's name")
	w.dropped("blocked", 2)
	a.udp.send(datagram(t, socks.Addr{Name: "blocked.test", Port: named.addr.Port()}, "its name"), a.relay)
	w.dropped("blocked", 3)
	a.exchange(free, "hello")
	w.server.SetPolicy(policy(t, "client pass { from: 0/0 to: 0/0 }\nsocks block { from: 0/0 to: 0/0 }\n"))
	a.exchange(free, "by the old rules")
	a.say(blocked.addr, "no")
	w.dropped("blocked", 4)
	refused := w.client()
	if r := refused.request(socks.Request{Command: socks.UDPAssociate, Addr: nowhere}); r.Code != socks.NotAllowed {
		t.Errorf("reply %d by the new rules", r.Code)
	}
}

// An association holds one slot, whatever it relays.
func TestAssociationsAreLimited(t *testing.T) {
	w := newWorld(t, "client pass { from: 0/0 to: 0/0 }\nsocks pass { from: 0/0 to: 0/0\n session.max: 1 }\n")
	a := w.associate(nowhere)
	refused := w.client()
	if r := refused.request(socks.Request{Command: socks.UDPAssociate, Addr: nowhere}); r.Code != socks.NotAllowed {
		t.Errorf("reply %d, want %d", r.Code, socks.NotAllowed)
	}
	refused.closed()
	for _, ip := range []string{"127.0.0.2", "127.0.0.3", "127.0.0.4"} {
		a.exchange(newPeer(t, ip), "hello")
	}
	if n := w.metric("usher_sessions_admitted_total", "rule", "s1", "command", "udpassociate"); n != 1 {
		t.Errorf("%v admissions, want 1", n)
	}
	a.Close()
	eventually(t, func() string {
		if w.slots("s1", 1) != 1 {
			return "the slot is not given back"
		}
		return ""
	})
}

// Nobody reaches Usher's own sockets through an association: its listeners, and the
// sockets of associations, where a datagram would seem to come from a host at which
// clients may be.
func TestOwnAddressesOverUDP(t *testing.T) {
	admin := netip.MustParseAddrPort("127.0.0.1:9")
	w := newWorld(t, anybody, func(o *proxy.Options, _ *proxy.Policy) { o.Own = []netip.AddrPort{admin} })
	a, other := w.associate(nowhere), w.associate(nowhere)
	for i, to := range []netip.AddrPort{netip.MustParseAddrPort(w.addr), admin, other.relay, a.relay} {
		a.say(to, string(datagram(t, socks.AddrOf(admin), "inside")))
		w.dropped("self", float64(i+1))
	}
	other.Close()
	w.reason("done")
	p, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(other.relay))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
	a.exchange(&peer{t, p, other.relay}, "now it is somebody else's")
}

// This holds at every address of the machine, if clients know the socket by an address
// that is translated on its way.
func TestOwnAddressesBehindATranslator(t *testing.T) {
	w := newWorld(t, anybody, func(o *proxy.Options, _ *proxy.Policy) {
		o.UDPAdvertise = []netip.Addr{netip.MustParseAddr("192.0.2.1")}
	})
	a, other := w.associate(nowhere), w.associate(nowhere)
	port := other.relay.Port()
	a.relay = netip.AddrPortFrom(loopback, a.relay.Port()) // as the translator does
	for i, to := range []string{"127.0.0.1", "127.0.0.5", "192.0.2.1"} {
		a.say(netip.AddrPortFrom(netip.MustParseAddr(to), port), "inside")
		w.dropped("self", float64(i+1))
	}
}

// A target port where nobody listens, and that answers with ICMP, ends nothing.
func TestRefusedDatagrams(t *testing.T) {
	w := newWorld(t, anybody)
	a := w.associate(nowhere)
	target, gone := newPeer(t, "127.0.0.2"), newPeer(t, "127.0.0.3")
	gone.Close()
	for range 3 {
		a.say(gone.addr, "anybody there?")
	}
	a.exchange(target, "hello")
	client := a.udp // who does not listen any more when the answer comes
	a.say(target.addr, "bye")
	back := target.expect("bye")
	client.Close()
	for range 3 {
		target.send([]byte("late"), back)
	}
	eventually(t, func() string {
		if n := w.metric("usher_udp_datagrams_total", "direction", "down"); n != 4 {
			return fmt.Sprintf("%v datagrams down, want 4", n)
		}
		return ""
	})
	if n := w.server.Sessions(); n != 1 {
		t.Errorf("%d sessions, want 1", n)
	}
}

// The request itself is judged, by the announced address if it is complete
// and the client's.
func TestRulesForTheRequest(t *testing.T) {
	w := newWorld(t, `
client pass { from: 0/0 to: 0/0 }
socks block { from: 127.0.0.1/32 port = 9 to: 0/0
	command: udpassociate }
socks pass { from: 127.0.0.1/32 to: 127.0.0.2/32
	command: udpassociate }
`)
	for _, c := range []struct {
		announced socks.Addr
		want      socks.Code
	}{
		{nowhere, socks.Succeeded},
		{socks.Addr{IP: netip.MustParseAddr("127.0.0.1"), Port: 9}, socks.NotAllowed},
	} {
		if r := w.client().request(socks.Request{Command: socks.UDPAssociate, Addr: c.announced}); r.Code != c.want {
			t.Errorf("%v: reply %d, want %d", c.announced, r.Code, c.want)
		}
	}
}
