package proxy_test

import (
	"fmt"
	"net"
	"net/netip"
	"testing"
	"time"

	"usher/proxy/socks"
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

// expect reads one datagram and requires that it is this one.
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

// associate asks for an association, as a client at 127.0.0.1 that announces this
// address. It must be granted.
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

// hears reads a datagram from a peer.
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

// exchange checks that a datagram reaches the peer, and that its answer comes back. It
// returns the address from which the peer got it.
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
