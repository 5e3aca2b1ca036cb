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

// 0.0.0.0 and :: cover one family each, so both can have the same port. An empty host
// covers both families.
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

// listenEverywhere listens at 0.0.0.0 and at :: with the same port. It tries again if a
// port is taken in one family.
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

// arrivesAt checks that a connection to a host, at the port of ln, arrives at ln.
func arrivesAt(t *testing.T, ln net.Listener, host string) {
	t.Helper()
	ln.(*net.TCPListener).SetDeadline(time.Now().Add(patient)) //nolint:errcheck // it is open
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

// A listener at an unspecified address is reached at every address of the machine in
// its family, however the address is written, and at none of the other family, where
// somebody else may listen.
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
	v4, v6 := listenEverywhere(t)
	for _, c := range []struct {
		ln        net.Listener
		four, six bool
	}{{v4, true, false}, {v6, false, true}, {listen(t, ":0"), true, true}} {
		port := addrPort(c.ln.Addr()).Port()
		admin := netip.AddrPortFrom(netip.IPv4Unspecified(), 9)
		s := &Server{opts: Options{Own: []netip.AddrPort{admin, netip.MustParseAddrPort("192.0.2.1:8")}}}
		s.listening.listeners = make(map[net.Listener]struct{})
		s.addListener(c.ln)
		for _, a := range own {
			ip := netip.MustParseAddr(a)
			is4 := ip.Unmap().Is4()
			for to, want := range map[netip.AddrPort]bool{
				netip.AddrPortFrom(ip, port): is4 && c.four || !is4 && c.six,
				netip.AddrPortFrom(ip, 9):    is4,
				netip.AddrPortFrom(ip, 8):    false,
			} {
				if s.ownAddress(to) != want {
					t.Errorf("with a listener at %v, %v is our own: %v, want %v", c.ln.Addr(), to, !want, want)
				}
			}
		}
		for a, want := range map[string]bool{"192.0.2.1:8": true, "[::ffff:192.0.2.1]:8": true, "192.0.2.1:9": false, "[2001:db8::1]:9": false} {
			if s.ownAddress(netip.MustParseAddrPort(a)) != want {
				t.Errorf("%v is our own: %v, want %v", a, !want, want)
			}
		}
	}
}
