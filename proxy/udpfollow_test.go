package proxy_test

import (
	"net/netip"
	"strconv"
	"testing"
	"time"

	"usher/proxy"
	"usher/proxy/socks"
)

// following lets clients change their port after this much silence.
func following(silence time.Duration) setup {
	return func(o *proxy.Options, _ *proxy.Policy) { o.UDPFollow = silence }
}

// A NAT may give a client another port. The association follows, and answers go
// there.
func TestClientWithANewPort(t *testing.T) {
	w := newWorld(t, anybody, following(1))                                       // any silence is enough
	a := w.associate(socks.Addr{IP: netip.MustParseAddr("192.168.0.7"), Port: 7}) // as it is behind the NAT
	target := newPeer(t, "127.0.0.2")
	a.exchange(target, "hello")
	stranger := newPeer(t, "127.0.0.3")
	stranger.send(datagram(t, socks.AddrOf(target.addr), "another address"), a.relay)
	w.dropped("foreign", 1)
	a.udp = newPeer(t, "127.0.0.1")
	back := a.exchange(target, "from another port")
	target.send([]byte("late"), back)
	a.hears(target.addr, "late")
	a.Close()
	line := w.reason("done")
	if line["udp_client"] != a.udp.addr.String() || line["udp_client_moves"] != 1.0 {
		t.Errorf("log %v, want the new port and one move", line)
	}
}

// The rules must pass a datagram from the new port first.
func TestRulesForANewPort(t *testing.T) {
	first, second := newPeer(t, "127.0.0.1"), newPeer(t, "127.0.0.1")
	w := newWorld(t, "client pass { from: 0/0 to: 0/0 }\nsocks block { from: 0/0 port = "+strconv.Itoa(int(second.addr.Port()))+" to: 0/0 }\nsocks pass { from: 0/0 to: 0/0 }\n", following(1))
	a := &associated{client: w.client(), udp: first}
	a.ask(nowhere)
	target := newPeer(t, "127.0.0.2")
	back := a.exchange(target, "hello")
	second.send(datagram(t, socks.AddrOf(target.addr), "from a port that no rule passes"), a.relay)
	w.dropped("blocked", 1)
	target.send([]byte("still there"), back)
	a.hears(target.addr, "still there")
}

// Somebody who shares the address of a client does not get its association: while the
// client's port sends, if the client announced its port, and if a balancer hides it.
func TestNeighboursOfClients(t *testing.T) {
	for name, c := range map[string]struct {
		setups    []setup
		announced func(*peer) socks.Addr
		at        string
	}{
		"its port is not silent": {[]setup{following(time.Hour)}, func(*peer) socks.Addr { return nowhere }, "127.0.0.1"},
		"announced": {[]setup{following(1)}, func(p *peer) socks.Addr {
			return socks.Addr{IP: nowhere.IP, Port: p.addr.Port()}
		}, "127.0.0.1"},
		"hidden":               {[]setup{following(1), relayedFrom("127.0.0.8/32")}, func(*peer) socks.Addr { return nowhere }, "127.0.0.8"},
		"hidden and announced": {[]setup{following(1), relayed}, func(p *peer) socks.Addr { return socks.AddrOf(p.addr) }, "127.0.0.8"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, anybody, c.setups...)
			a := &associated{client: w.client(), udp: newPeer(t, c.at)}
			a.ask(c.announced(a.udp))
			target, neighbour := newPeer(t, "127.0.0.2"), newPeer(t, c.at)
			a.exchange(target, "hello")
			neighbour.send(datagram(t, socks.AddrOf(target.addr), "mine"), a.relay)
			w.dropped("foreign", 1)
			a.exchange(target, "still here")
		})
	}
}
