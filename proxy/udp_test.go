package proxy_test

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	proxyproto "github.com/pires/go-proxyproto"

	"usher/limiter"
	"usher/proxy"
	"usher/proxy/rules"
	"usher/proxy/socks"
	"usher/store/memstore"
)

// peer is a UDP socket of a test.
type peer struct {
	t *testing.T
	*net.UDPConn
	addr netip.AddrPort
}

// newPeer opens a socket at an address without a port.
func newPeer(t *testing.T, at string) *peer {
	t.Helper()
	conn, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(netip.MustParseAddr(at), 0)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	return &peer{t, conn, conn.LocalAddr().(*net.UDPAddr).AddrPort()}
}

func (p *peer) send(b []byte, to netip.AddrPort) {
	p.t.Helper()
	if _, err := p.WriteToUDPAddrPort(b, to); err != nil {
		p.t.Fatal(err)
	}
}

// get reads one datagram.
func (p *peer) get() (b []byte, from netip.AddrPort) {
	p.t.Helper()
	b = make([]byte, 1<<16)
	n, from, err := p.ReadFromUDPAddrPort(b)
	if err != nil {
		p.t.Fatal(err)
	}
	return b[:n], from
}

// expect reads one datagram, which must be this one.
func (p *peer) expect(want string) (from netip.AddrPort) {
	p.t.Helper()
	b, from := p.get()
	if string(b) != want {
		p.t.Fatalf("got %.40q, %d bytes; want %.40q, %d bytes", b, len(b), want, len(want))
	}
	return from
}

// associated is a client with a UDP association.
type associated struct {
	*client
	udp   *peer
	relay netip.AddrPort // BND
}

// associate asks for an association, as a client at 127.0.0.1 that announces
// this address, and wants it granted.
func (w *world) associate(announced socks.Addr) *associated {
	w.t.Helper()
	a := &associated{client: w.client()}
	a.ask(announced)
	a.udp = newPeer(w.t, "127.0.0.1")
	return a
}

func (a *associated) ask(announced socks.Addr) {
	a.t.Helper()
	reply := a.request(socks.Request{Command: socks.UDPAssociate, Addr: announced})
	if reply.Code != socks.Succeeded {
		a.t.Fatalf("reply %d", reply.Code)
	}
	a.relay = netip.AddrPortFrom(reply.Addr.IP, reply.Addr.Port)
}

// datagram puts a header before data.
func datagram(t *testing.T, to socks.Addr, data string) []byte {
	t.Helper()
	b, err := socks.AppendUDPHeader(nil, to)
	if err != nil {
		t.Fatal(err)
	}
	return append(b, data...)
}

// say sends a datagram to a target.
func (a *associated) say(to netip.AddrPort, data string) {
	a.t.Helper()
	a.udp.send(datagram(a.t, socks.AddrOf(to), data), a.relay)
}

// hears reads a datagram of a peer.
func (a *associated) hears(from netip.AddrPort, want string) {
	a.t.Helper()
	b, relay := a.udp.get()
	d, err := socks.ParseDatagram(b)
	if err != nil || d.Addr != socks.AddrOf(from) || d.Frag != 0 || string(d.Data) != want {
		a.t.Fatalf("%+v, %v; want %.40q from %v", d, err, want, from)
	}
	if relay != a.relay {
		a.t.Errorf("from %v, want %v, where the client sends to", relay, a.relay)
	}
}

// exchange checks that a datagram goes to the peer, and its answer comes back.
// It returns where the peer got it from.
func (a *associated) exchange(p *peer, text string) (from netip.AddrPort) {
	a.t.Helper()
	a.say(p.addr, text)
	from = p.expect(text)
	p.send([]byte("re: "+text), from)
	a.hears(p.addr, "re: "+text)
	return from
}

// dropped waits until n datagrams were dropped for a reason.
func (w *world) dropped(reason string, n float64) {
	w.t.Helper()
	eventually(w.t, func() string {
		if got := w.metric("usher_udp_datagrams_dropped_total", "reason", reason); got != n {
			return fmt.Sprintf("%v datagrams dropped as %s, want %v", got, reason, n)
		}
		return ""
	})
}

// end closes the association and returns its log line.
func (a *associated) end(w *world, reason string) map[string]any {
	a.t.Helper()
	a.Close()
	return w.reason(reason)
}

var nowhere = socks.Addr{IP: netip.IPv4Unspecified()}

func TestAssociation(t *testing.T) {
	w := newWorld(t, "client pass { from: 0/0 to: 0/0 }\nsocks pass { from: 0/0 to: 0/0\n session.max: 1 }\n",
		withNames(names{"four.test": {netip.MustParseAddr("127.0.0.3")}, "six.test": {netip.MustParseAddr("::1")}}))
	a := w.associate(nowhere)
	if a.relay.Addr() != netip.MustParseAddr("127.0.0.1") {
		t.Errorf("told %v, want the address that the client came to", a.relay)
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

// A datagram from anybody but the client is not relayed and ends nothing,
// before and after the client's port is known.
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

// What is no datagram for the relay is dropped, and the rest goes on.
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

// Who was not spoken to is not heard.
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

// With udp.connectdst: no, anybody whom the rules pass may answer.
func TestAnswersOfAnybody(t *testing.T) {
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

// Every datagram is judged, in both directions, and by the rules that were in
// force when the association began.
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

// Nobody reaches through an association what is Usher's own: its listeners,
// and the sockets of associations, where a datagram would come from a host that
// clients may be at.
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

// The association ends with the control connection, however that ends, and
// not by what is sent there.
func TestAssociationEndsWithItsConnection(t *testing.T) {
	for how, end := range map[string]func(*associated){
		"close":      func(a *associated) { a.Close() },
		"half-close": func(a *associated) { a.must(a.CloseWrite()); a.closed() },
		"reset":      func(a *associated) { a.must(a.SetLinger(0)); a.Close() },
	} {
		t.Run(how, func(t *testing.T) {
			w := newWorld(t, "client pass { from: 0/0 to: 0/0 }\nsocks pass { from: 0/0 to: 0/0\n session.max: 1 }\n")
			a := w.associate(nowhere)
			target := newPeer(t, "127.0.0.2")
			a.send(bytes.Repeat([]byte("ignored"), 30_000))
			a.exchange(target, "hello")
			end(a)
			a.udp.Close()
			target.Close()
			w.left("s1", 1)
			reason := "done"
			if how == "reset" {
				reason = "client_error"
			}
			w.reason(reason)
		})
	}
}

// An association that relays nothing ends after timeout.io.udp; datagrams that
// are dropped do not keep it alive.
func TestIdleAssociation(t *testing.T) {
	w := newWorld(t, "timeout.io.udp: 1\ntimeout.io.tcp: 0\n"+anybody)
	a := w.associate(nowhere)
	a.exchange(newPeer(t, "127.0.0.2"), "hello")
	stranger := newPeer(t, "127.0.0.2")
	over := make(chan struct{})
	done := make(chan struct{})
	go func() {
		defer close(done)
		for tick := time.NewTicker(50 * time.Millisecond); ; {
			select {
			case <-tick.C:
				_, _ = stranger.WriteToUDPAddrPort([]byte("noise"), a.relay) // refused once it is closed
			case <-over:
				tick.Stop()
				return
			}
		}
	}()
	a.closed()
	close(over)
	<-done
	w.reason("idle")
}

// A name that takes its time does not hold up the other datagrams, only so
// many wait for names at a time, and what waited goes out.
func TestSlowNames(t *testing.T) {
	release := make(chan struct{})
	w := newWorld(t, anybody, func(o *proxy.Options, _ *proxy.Policy) {
		o.Resolver = &slowNames{release, netip.MustParseAddr("127.0.0.3")}
	})
	a := w.associate(nowhere)
	target, named := newPeer(t, "127.0.0.2"), newPeer(t, "127.0.0.3")
	const waiting = 16
	for range waiting + 2 {
		a.udp.send(datagram(t, socks.Addr{Name: "slow.test", Port: named.addr.Port()}, "slow"), a.relay)
	}
	w.dropped("waiting", 2)
	a.exchange(target, "quick")
	close(release)
	for range waiting {
		named.expect("slow")
	}
	a.udp.send(datagram(t, socks.Addr{Name: "slow.test", Port: named.addr.Port()}, "known"), a.relay)
	named.expect("known")
	a.udp.send(datagram(t, socks.Addr{Name: "missing.test", Port: 53}, "lost"), a.relay)
	w.dropped("unresolved", 1)
}

// slowNames answers when it is released; "missing.test" it does not know.
type slowNames struct {
	release chan struct{}
	addr    netip.Addr
}

func (s *slowNames) LookupNetIP(ctx context.Context, _, host string) ([]netip.Addr, error) {
	select {
	case <-s.release:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if host == "missing.test" {
		return nil, &net.DNSError{Err: "no such host", Name: host, IsNotFound: true}
	}
	return []netip.Addr{s.addr}, nil
}

// An association that ends does not wait for names.
func TestAssociationEndsWhileNamesAreAway(t *testing.T) {
	w := newWorld(t, anybody, func(o *proxy.Options, _ *proxy.Policy) { o.Resolver = stuck{make(chan struct{}, 1)} })
	a := w.associate(nowhere)
	a.udp.send(datagram(t, socks.Addr{Name: "slow.test", Port: 53}, "slow"), a.relay)
	a.exchange(newPeer(t, "127.0.0.2"), "quick")
	a.Close()
	a.udp.Close()
	eventually(t, func() string {
		if n := w.server.Sessions(); n != 0 {
			return "the association is still there"
		}
		return ""
	})
	w.reason("done")
}

// A port that nobody listens at, and answers ICMP, ends nothing.
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

// external: is where datagrams come from; a family that has no external
// address is not reached.
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

// Draining cuts associations when its time is over.
func TestDrainCutsAssociations(t *testing.T) {
	w := newWorld(t, "client pass { from: 0/0 to: 0/0 }\nsocks pass { from: 0/0 to: 0/0\n session.max: 1 }\n")
	a := w.associate(nowhere)
	target := newPeer(t, "127.0.0.2")
	a.exchange(target, "hello")
	if err := w.server.CloseListeners(); err != nil {
		t.Fatal(err)
	}
	over, cancel := context.WithCancel(t.Context())
	drained := make(chan int)
	go func() { drained <- w.server.Drain(over) }()
	a.exchange(target, "still served")
	cancel()
	if cut := <-drained; cut != 1 {
		t.Errorf("%d cut, want 1", cut)
	}
	a.closed()
	w.reason("drain")
	if n := w.slots("s1", 1); n != 1 {
		t.Error("the slot is not given back")
	}
}

// In strict mode an association ends when its lease is lost.
func TestLostLeaseEndsAssociations(t *testing.T) {
	st := &leased{Store: memstore.New()}
	strict := limiter.New(limiter.Options{Store: st, TTL: time.Second, StoreWait: patience, Strict: true})
	t.Cleanup(func() {
		over, cancel := context.WithCancel(context.Background())
		cancel()
		_ = strict.Close(over) // it cannot: the store is cut off
	})
	w := newWorld(t, "client pass { from: 0/0 to: 0/0 }\nsocks pass { from: 0/0 to: 0/0\n session.max: 1 }\n",
		func(o *proxy.Options, _ *proxy.Policy) { o.Limiter, o.StrictLease = strict, true })
	a := w.associate(nowhere)
	a.exchange(newPeer(t, "127.0.0.2"), "hello")
	st.cut.Store(true)
	a.closed()
	w.reason("lease_lost")
}

// Clients are told the advertised address of their family, and the socket is
// bound where what is sent there arrives.
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

// Ports come from the range alone; when all are taken the answer is 1.
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

// Idle associations hold two descriptors and two goroutines.
func TestIdleAssociationIsSmall(t *testing.T) {
	w := newWorld(t, anybody)
	const n = 10
	running := goroutines()
	for range n {
		c := &associated{client: w.client()}
		c.ask(nowhere)
	}
	eventually(t, func() string {
		if got := len(goroutines().since(running)); got != 2*n {
			return fmt.Sprintf("%d goroutines for %d associations", got, n)
		}
		return ""
	})
	if got := len(descriptors(t).since(w.fds)); got != 3*n { // the client's end is here, too
		t.Errorf("%d descriptors for %d associations with their clients' ends", got, n)
	}
}

// behindRelay lets clients associate from behind a balancer, and one of them
// send datagrams.
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

// Of a client whom a balancer hides, what it announced is believed, and if
// that is nothing, the first datagram that the rules pass says who it is.
func TestClientsHiddenByABalancer(t *testing.T) {
	for _, c := range []struct {
		name     string
		announce func(a netip.AddrPort) socks.Addr
		reason   string // why the datagram of somebody else is dropped
	}{
		{"nothing announced", func(netip.AddrPort) socks.Addr { return nowhere }, "blocked"},
		{"all announced", socks.AddrOf, "foreign"},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t, behindRelay, relayed)
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

// Nobody else may claim to be somebody else: without UDPRelayFrom, and from
// any other address, the connection's address is the client's.
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

// The PROXY header says who the client is, and so from where it may send, even
// if its balancer is one of those that hide clients otherwise.
func TestAssociationBehindProxyProtocol(t *testing.T) {
	for _, s := range []setup{trusting, func(o *proxy.Options, p *proxy.Policy) { trusting(o, p); relayed(o, p) }} {
		w := newWorld(t, anybody, s)
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

// lateNames answers no name before it is too late.
type lateNames struct{}

func (lateNames) LookupNetIP(ctx context.Context, _, _ string) ([]netip.Addr, error) {
	<-ctx.Done()
	return nil, ctx.Err()
}

// A rule that blocks a name is not passed over because the name is slow.
func TestSlowNamesOfRulesBlock(t *testing.T) {
	t.Parallel() // it waits for five seconds
	w := newWorld(t, `
client pass { from: 0/0 to: 0/0 }
socks block { from: 0/0 to: blocked.test }
socks pass { from: 0/0 to: 0/0 }
`, func(o *proxy.Options, _ *proxy.Policy) { o.Resolver = lateNames{} })
	target := newPeer(t, "127.0.0.3")
	a := w.associate(socks.Addr{IP: netip.IPv4Unspecified()})
	a.say(target.addr, "through")
	eventually(t, func() string {
		if n := w.metric("usher_udp_datagrams_dropped_total", "reason", "unresolved"); n != 1 {
			return fmt.Sprintf("%v datagrams dropped", n)
		}
		return ""
	})
	if n := w.metric("usher_udp_datagrams_total", "direction", "up"); n != 0 {
		t.Errorf("%v datagrams relayed, want none", n)
	}
}
