package udp

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"
)

// addresses returns those of a text.
func addresses(text string) (list []netip.Addr) {
	for _, s := range strings.Fields(text) {
		list = append(list, netip.MustParseAddr(s))
	}
	return list
}

// A datagram to a name goes to one address for a second, then to another one, the
// families in turn. Each further attempt at an address lasts twice as long.
func TestAddressesTakeTurns(t *testing.T) {
	const port = 53
	var p peers
	addrs := addresses("2001:db8::1 2001:db8::2 192.0.2.1")
	now := time.Duration(0)
	next := func() netip.Addr {
		a := p.inOrder(addrs, port, now)[0]
		p.add(netip.AddrPortFrom(a, port))
		p.tried(netip.AddrPortFrom(a, port), now)
		return a
	}
	for _, seconds := range []int{1, 2, 4, 8, 16, 32, 64, 64, 64} {
		for _, want := range addresses("2001:db8::1 192.0.2.1 2001:db8::2") {
			for range 4 {
				if got := next(); got != want {
					t.Fatalf("after %v: %v, want %v", now, got, want)
				}
				now += time.Duration(seconds) * (time.Second / 4)
			}
		}
	}
}

// The address that answered first is used from then on, as long as the name has
// it, whatever answers later. The others are next if the system cannot send there.
func TestAddressThatAnsweredStays(t *testing.T) {
	const port = 53
	var p peers
	addrs := addresses("192.0.2.1 192.0.2.2 192.0.2.3")
	for i, a := range addrs {
		p.add(netip.AddrPortFrom(a, port))
		p.tried(netip.AddrPortFrom(a, port), time.Duration(i)*time.Second)
	}
	p.heard(netip.AddrPortFrom(addrs[1], port))
	p.heard(netip.AddrPortFrom(addrs[0], port))
	p.heard(netip.MustParseAddrPort("192.0.2.4:53")) // a stranger
	for _, c := range []struct{ have, want string }{
		{"192.0.2.1 192.0.2.2 192.0.2.3", "192.0.2.2 192.0.2.1 192.0.2.3"},
		{"192.0.2.4 192.0.2.1", "192.0.2.1 192.0.2.4"},
		{"192.0.2.4 192.0.2.3", "192.0.2.4 192.0.2.3"}, // not tried, and tried in vain
		{"192.0.2.3", "192.0.2.3"},
		{"", ""},
	} {
		if got := p.inOrder(addresses(c.have), port, time.Hour); !slices.Equal(got, addresses(c.want)) {
			t.Errorf("%s: %v, want %s", c.have, got, c.want)
		}
	}
	if got := p.inOrder(addrs, port+1, time.Hour); !slices.Equal(got, addrs) { // another service of the name
		t.Errorf("at another port: %v, want %v", got, addrs)
	}
}
