package proxy

import (
	"net"
	"net/netip"
	"testing"
)

// A listener at an unspecified address is reached by every address of the
// machine, in every spelling.
func TestOwnAddresses(t *testing.T) {
	own := []string{"127.0.0.1", "127.9.9.9", "::1", "0.0.0.0", "::", "::ffff:127.0.0.1"}
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range addrs {
		addr := a.(*net.IPNet).IP.String()
		own = append(own, addr)
		if ip := netip.MustParseAddr(addr); ip.Is4() {
			own = append(own, "::ffff:"+addr)
		} else if ip.IsLinkLocalUnicast() {
			own = append(own, addr+"%eth0")
		}
	}
	for _, everywhere := range []netip.Addr{netip.IPv4Unspecified(), netip.IPv6Unspecified()} {
		s := &Server{opts: Options{Own: []netip.AddrPort{netip.AddrPortFrom(everywhere, 9090)}}}
		s.listening.own = []netip.AddrPort{netip.AddrPortFrom(everywhere, 1080), netip.MustParseAddrPort("192.0.2.1:1081")}
		for _, a := range own {
			for _, port := range []uint16{1080, 9090} {
				if to := netip.AddrPortFrom(netip.MustParseAddr(a), port); !s.ownAddress(to) {
					t.Errorf("%v is not our own, with a listener at %v", to, everywhere)
				}
			}
			if to := netip.AddrPortFrom(netip.MustParseAddr(a), 1081); s.ownAddress(to) {
				t.Errorf("%v is our own", to)
			}
		}
		for _, a := range []string{"192.0.2.1:1081", "[::ffff:192.0.2.1]:1081"} {
			if !s.ownAddress(netip.MustParseAddrPort(a)) {
				t.Errorf("%v is not our own", a)
			}
		}
		for _, a := range []string{"192.0.2.1:1080", "[2001:db8::1]:1080", "127.0.0.1:80"} {
			if s.ownAddress(netip.MustParseAddrPort(a)) {
				t.Errorf("%v is our own", a)
			}
		}
	}
}
