package proxy_test

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"testing"

	"usher/proxy"
	"usher/proxy/socks"
)

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

// The first port that the rules pass is the client's, be it that a datagram of
// another one came before and waits for a name.
func TestSlowNamesComeTooLate(t *testing.T) {
	release := make(chan struct{})
	w := newWorld(t, anybody, func(o *proxy.Options, _ *proxy.Policy) {
		o.Resolver = &slowNames{release, netip.MustParseAddr("127.0.0.3")}
	})
	a := w.associate(nowhere)
	neighbour, target, named := newPeer(t, "127.0.0.1"), newPeer(t, "127.0.0.2"), newPeer(t, "127.0.0.3")
	to := socks.Addr{Name: "slow.test", Port: named.addr.Port()}
	neighbour.send(datagram(t, to, "I was first"), a.relay)
	a.exchange(target, "hello")
	close(release)
	w.dropped("foreign", 1)
	a.udp.send(datagram(t, to, "by name"), a.relay)
	named.expect("by name")
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
