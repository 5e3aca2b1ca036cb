package proxy_test

import (
	"context"
	"net/netip"
	"sync/atomic"
	"testing"

	"usher/proxy"
	"usher/proxy/socks"
)

// tally is a resolver that counts queries.
type tally struct {
	asked *atomic.Int64
	addr  netip.Addr
}

func (r tally) LookupNetIP(context.Context, string, string) ([]netip.Addr, error) {
	r.asked.Add(1)
	return []netip.Addr{r.addr}, nil
}

// Sessions and rules share the cache of names, until a reload.
func TestNamesUntilAReload(t *testing.T) {
	to := echo(t)
	const text = `
client pass { from: 0/0 to: 0/0 }
socks block { from: 0/0 to: other.test }
socks pass { from: 0/0 to: 0/0 }
`
	r := tally{new(atomic.Int64), to.IP}
	w := newWorld(t, text, func(o *proxy.Options, _ *proxy.Policy) { o.Resolver = r })
	ask := func(name string, reply socks.Code, want int64) {
		t.Helper()
		w.client().connect(socks.Addr{Name: name, Port: to.Port}, reply)
		if n := r.asked.Load(); n != want {
			t.Errorf("%s: %d lookups, want %d", name, n, want)
		}
	}
	ask("a.test", socks.HostUnreachable, 2) // its own and the rule's, which share an address
	ask("a.test", socks.HostUnreachable, 2)
	ask("other.test", socks.NotAllowed, 2)
	w.server.SetPolicy(policy(t, text))
	ask("a.test", socks.HostUnreachable, 4)
}

// A final dot of a name makes no difference, in requests and in rules.
func TestFinalDot(t *testing.T) {
	to := echo(t)
	peer := newPeer(t, to.IP.String())
	w := newWorld(t, `
client pass { from: 0/0 to: 0/0 }
socks pass { from: 0/0 to: localhost
	command: connect }
socks pass { from: 0/0 to: 127.0.0.1/32
	protocol: udp }
socks pass { from: 0/0 to: 0/0
	command: bind bindreply }
`)
	localhost := socks.Addr{Name: "localhost.", Port: to.Port}
	w.client().connect(localhost, socks.Succeeded)
	w.client().bind(socks.V5, localhost)
	a := w.associate(nowhere)
	localhost.Port = peer.addr.Port()
	a.udp.send(datagram(t, localhost, "hello"), a.relay)
	peer.expect("hello")
	w.client().connect(socks.Addr{Name: ".", Port: to.Port}, socks.HostUnreachable)
}
