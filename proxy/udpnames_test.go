package proxy_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"usher/deploy/need"
	"usher/proxy"
	"usher/proxy/socks"
)

// A slow name does not delay other datagrams. The number of datagrams that wait for
// names is bounded, and they are sent when the name is known.
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

// The first port that the rules pass is the client's, even if an earlier datagram from
// another port waits for a name.
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

// slowNames answers when it is released. It does not know "missing.test".
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

// lateNames answers each name too late.
type lateNames struct{}

func (lateNames) LookupNetIP(ctx context.Context, _, _ string) ([]netip.Addr, error) {
	<-ctx.Done()
	return nil, ctx.Err()
}

// A rule that blocks a name is not skipped because the name is slow.
func TestSlowNamesOfRulesBlock(t *testing.T) {
	need.Seconds(t)
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

// newPeers opens sockets at several addresses with one port.
func newPeers(t *testing.T, at ...string) []*peer {
	t.Helper()
	for range 100 { // others may have the port at one of them
		list := []*peer{newPeer(t, at[0])}
		for _, ip := range at[1:] {
			addr := netip.AddrPortFrom(netip.MustParseAddr(ip), list[0].addr.Port())
			conn, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(addr))
			if err != nil {
				break
			}
			t.Cleanup(func() { conn.Close() })
			if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
				t.Fatal(err)
			}
			list = append(list, &peer{t, conn, addr})
		}
		if len(list) == len(at) {
			return list
		}
	}
	t.Fatalf("no port is free at %v", at)
	return nil
}

// within returns where the next datagram came from, or the zero AddrPort if none comes
// within a short time.
func (p *peer) within(short time.Duration) netip.AddrPort {
	p.t.Helper()
	if err := p.SetReadDeadline(time.Now().Add(short)); err != nil {
		p.t.Fatal(err)
	}
	_, from, err := p.ReadFromUDPAddrPort(make([]byte, 99))
	if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
		p.t.Fatal(err)
	}
	if err := p.SetReadDeadline(time.Now().Add(patience)); err != nil {
		p.t.Fatal(err)
	}
	return from
}

// skipTo reads datagrams until it gets this one.
func (p *peer) skipTo(want string) {
	p.t.Helper()
	for {
		if b, _ := p.get(); string(b) == want {
			return
		}
	}
}

// drain reads all datagrams that have arrived, and returns how many there were.
func (p *peer) drain() (n int) {
	for p.within(20 * time.Millisecond).IsValid() {
		n++
	}
	return n
}

// If an address of a name does not answer, the next datagrams go to another one
// that the rules pass. The one that answers stays in use.
func TestSilentAddressOfAName(t *testing.T) {
	t.Parallel() // it waits for a second
	some := []netip.Addr{netip.MustParseAddr("127.0.0.4"), netip.IPv6Loopback(), netip.MustParseAddr("127.0.0.2"), netip.MustParseAddr("127.0.0.3")}
	w := newWorld(t, `
client pass { from: 0/0 to: 0/0 }
socks pass { from: 0/0 to: 127.0.0.2/31 }
socks pass { from: 0/0 to: 0/0
	command: udpreply }
`, withNames(names{"some.test": some}))
	a := w.associate(nowhere)
	list := newPeers(t, "127.0.0.2", "127.0.0.3", "127.0.0.4", "::1")
	silent, good, unmatched := list[0], list[1], list[2:]
	say := func(text string) {
		a.udp.send(datagram(t, socks.Addr{Name: "some.test", Port: good.addr.Port()}, text), a.relay)
	}
	say("first")
	silent.expect("first")
	var from netip.AddrPort
	eventually(t, func() string {
		say("again")
		if from = good.within(50 * time.Millisecond); !from.IsValid() {
			return "the second address gets nothing"
		}
		return ""
	})
	good.send([]byte("here"), from)
	a.hears(good.addr, "here")
	for i := range 3 {
		more := fmt.Sprintf("more %d", i)
		say(more)
		good.skipTo(more)
		if i == 0 {
			silent.drain()
		}
	}
	for _, p := range append(unmatched, silent) {
		if n := p.drain(); n > 0 {
			t.Errorf("%v got %d datagrams", p.addr, n)
		}
	}
}

// If the system cannot send to an address of a name, the same datagram goes to
// another one.
func TestUnreachableAddressOfAName(t *testing.T) {
	w := newWorld(t, anybody, withNames(names{"some.test": {netip.IPv6Loopback(), netip.MustParseAddr("127.0.0.3")}}),
		func(_ *proxy.Options, p *proxy.Policy) { p.External = []netip.Addr{netip.MustParseAddr("127.0.0.7")} }) // no way from there to IPv6
	a := w.associate(nowhere)
	target := newPeer(t, "127.0.0.3")
	for range 3 {
		a.udp.send(datagram(t, socks.Addr{Name: "some.test", Port: target.addr.Port()}, "hello"), a.relay)
		target.send([]byte("hi"), target.expect("hello"))
		a.hears(target.addr, "hi")
	}
	a.Close()
	if line := w.reason("done"); line["dropped"] != nil {
		t.Errorf("log %v, want nothing dropped", line)
	}
}
