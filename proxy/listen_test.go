package proxy

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"strconv"
	"syscall"
	"testing"
	"time"
)

// 0.0.0.0 and :: are each of their own family, so both can have the same port;
// no host is both.
func TestListenByFamily(t *testing.T) {
	v4, v6 := listenEverywhere(t)
	for host, ln := range map[string]net.Listener{"127.0.0.1": v4, "::1": v6} {
		arrivesAt(t, ln, host)
	}
	both := listen(t, ":0")
	for _, host := range []string{"127.0.0.1", "::1"} {
		arrivesAt(t, both, host)
	}
}

// listenEverywhere listens at 0.0.0.0 and at :: of one port, which somebody may
// have in one of the two.
func listenEverywhere(t *testing.T) (v4, v6 net.Listener) {
	t.Helper()
	for range 20 {
		v4 = listen(t, "0.0.0.0:0")
		port := strconv.Itoa(v4.Addr().(*net.TCPAddr).Port)
		v6, err := Listen(context.Background(), "[::]:"+port)
		if err == nil {
			t.Cleanup(func() { v6.Close() })
			return v4, v6
		}
		if !errors.Is(err, syscall.EADDRINUSE) {
			t.Fatal(err)
		}
	}
	t.Fatal("0.0.0.0 and :: never had the same port")
	return nil, nil
}

func listen(t *testing.T, address string) net.Listener {
	t.Helper()
	ln, err := Listen(context.Background(), address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	return ln
}

// arrivesAt checks that who connects to a host, at the port of ln, comes to ln.
func arrivesAt(t *testing.T, ln net.Listener, host string) {
	t.Helper()
	ln.(*net.TCPListener).SetDeadline(time.Now().Add(10 * time.Second)) //nolint:errcheck // it is open
	client, err := net.Dial("tcp", net.JoinHostPort(host, strconv.Itoa(ln.Addr().(*net.TCPAddr).Port)))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	conn, err := ln.Accept()
	if err != nil {
		t.Fatalf("%s: %v", host, err)
	}
	defer conn.Close()
	if conn.RemoteAddr().String() != client.LocalAddr().String() {
		t.Errorf("%v came, want %v", conn.RemoteAddr(), client.LocalAddr())
	}
}

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
