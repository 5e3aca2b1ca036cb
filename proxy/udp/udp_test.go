package udp

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"runtime"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"usher/proxy/decide"
	"usher/proxy/idle"
	"usher/proxy/resolve"
	"usher/proxy/rules"
	"usher/proxy/selfaddr"
	"usher/proxy/socks"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patient bounds every wait of these tests.
const patient = time.Minute

var loopback = netip.MustParseAddr("127.0.0.1")

// pair returns a socket of ours and one that it can send to.
func pair(t *testing.T, valid func() bool) (*socket, *net.UDPConn, netip.AddrPort) {
	t.Helper()
	u, err := listen(netip.AddrPortFrom(loopback, 0), valid)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(u.close)
	far, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { far.Close() })
	if err := far.SetDeadline(time.Now().Add(patient)); err != nil {
		t.Fatal(err)
	}
	return u, far, far.LocalAddr().(*net.UDPAddr).AddrPort()
}

// Ports of a range that associations have are passed over without asking the
// system, however many they are; what others have, the system knows.
func TestPortsThatAreOursAreNotTried(t *testing.T) {
	ip := netip.MustParseAddr("127.0.44.4") // nobody else's
	others, err := listen(netip.AddrPortFrom(ip, 0), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer others.close()
	ports := rules.PortRange{Lo: others.local.Port() - 1, Hi: others.local.Port()}
	var ours selfaddr.Set
	mine := netip.AddrPortFrom(ip, ports.Lo) // for all that the system knows it is free
	ours.Add(mine)
	if u, err := listenIn(ip, ports, &ours, nil); !errors.Is(err, ErrPorts) {
		t.Fatalf("%v, %v, want %v", u, err, ErrPorts)
	}
	ours.Remove(mine)
	for range 20 { // some begin at the port of others
		u, err := listenIn(ip, ports, &ours, nil)
		if err != nil || u.local != mine {
			t.Fatalf("%v, want a socket at %v", err, mine)
		}
		u.close()
	}
}

// The socket is bound where what is sent to the advertised address arrives. A
// loopback address is the machine's own only for those who came over loopback:
// a container's is not that of its host, which forwards ports from there.
func TestFrontAddress(t *testing.T) {
	for _, c := range []struct{ advertised, from, local, bound, told string }{
		{"", "10.0.0.1", "10.0.0.9", "10.0.0.9", "10.0.0.9"},
		{"192.0.2.77", "10.0.0.1", "10.0.0.9", "0.0.0.0", "192.0.2.77"},
		{"2001:db8::1", "10.0.0.1", "10.0.0.9", "10.0.0.9", "10.0.0.9"},
		{"2001:db8::1", "fd00::1", "fd00::9", "::", "2001:db8::1"},
		{"127.0.0.5", "127.0.0.1", "127.0.0.1", "127.0.0.5", "127.0.0.5"},
		{"::1", "::1", "::1", "::1", "::1"},
		{"127.0.0.1", "172.17.0.1", "172.17.0.2", "0.0.0.0", "127.0.0.1"},
		{"::1", "fd00::1", "fd00::2", "::", "::1"},
	} {
		var advertised []netip.Addr
		if c.advertised != "" {
			advertised = append(advertised, netip.MustParseAddr(c.advertised))
		}
		bound, told := frontAddress(advertised, netip.MustParseAddr(c.from), netip.MustParseAddr(c.local))
		if bound.String() != c.bound || told.String() != c.told {
			t.Errorf("%+v: bound to %v, told %v", c, bound, told)
		}
	}
}

// The lease is asked before every datagram, and none is sent without it.
func TestDatagramsNeedTheLease(t *testing.T) {
	var asked, allowed atomic.Int64
	allowed.Store(2)
	u, far, to := pair(t, func() bool { return asked.Add(1) <= allowed.Load() })
	for i := range 4 {
		err := u.write([]byte{byte(i)}, to, netip.Addr{})
		if lost := errors.Is(err, ErrMayWrite); lost != (i >= 2) || err != nil && !lost {
			t.Errorf("datagram %d: %v", i, err)
		}
	}
	if n := asked.Load(); n != 4 {
		t.Errorf("asked %d times, want 4", n)
	}
	allowed.Store(99)
	if err := u.write([]byte("end"), to, netip.Addr{}); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 9)
	for _, want := range []string{"\x00", "\x01", "end"} {
		if n, err := far.Read(b); err != nil || string(b[:n]) != want {
			t.Fatalf("%q, %v; want %q", b[:n], err, want)
		}
	}
}

// A datagram that has waited for room in the socket asks for the lease again:
// every attempt does, and net calls attempt when there is room.
func TestEveryAttemptAsksForTheLease(t *testing.T) {
	valid := true
	u, _, to := pair(t, func() bool { return valid })
	if err := u.write([]byte("x"), to, netip.Addr{}); err != nil {
		t.Fatal(err)
	}
	valid = false
	if err := u.raw.Control(func(fd uintptr) {
		if !u.attempt(fd) || !errors.Is(u.err, ErrMayWrite) {
			t.Errorf("%v, want %v", u.err, ErrMayWrite)
		}
	}); err != nil {
		t.Fatal(err)
	}
}

// A socket hands over each datagram that has come, after the headroom, until it is
// closed.
func TestUDPSocketReads(t *testing.T) {
	u, far, _ := pair(t, nil)
	came, ended := make(chan string), make(chan error)
	go func() {
		ended <- u.each(7, func(b []byte, o origin) {
			if o.from != far.LocalAddr().(*net.UDPAddr).AddrPort() || o.at.IsValid() {
				t.Errorf("from %+v", o)
			}
			came <- string(b[7:])
		})
	}()
	for round := range 3 { // the first one waits for its reader, and more come than are taken at once
		for i := range 20 {
			if _, err := far.WriteToUDPAddrPort(fmt.Appendf(nil, "%d %d", round, i), u.local); err != nil {
				t.Fatal(err)
			}
		}
		for i := range 20 {
			if got, want := <-came, fmt.Sprintf("%d %d", round, i); got != want {
				t.Fatalf("%q, want %q", got, want)
			}
		}
	}
	u.close()
	if err := <-ended; !errors.Is(err, net.ErrClosed) {
		t.Errorf("%v, want %v", err, net.ErrClosed)
	}
}

// A socket that is bound to all addresses says at which one a datagram arrived,
// and sends from there.
func TestArrival(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("this system does not tell")
	}
	for _, c := range []struct{ any, client, at string }{
		{"0.0.0.0", "127.0.0.1", "127.0.0.5"}, // of which routing would choose the first
		{"::", "::1", "::1"},
	} {
		u, err := listen(netip.AddrPortFrom(netip.MustParseAddr(c.any), 0), nil)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(u.close)
		if err := u.noteArrival(); err != nil {
			t.Fatal(err)
		}
		client, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.ParseIP(c.client)})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { client.Close() })
		if err := client.SetDeadline(time.Now().Add(patient)); err != nil {
			t.Fatal(err)
		}
		at := netip.AddrPortFrom(netip.MustParseAddr(c.at), u.local.Port())
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			_ = u.each(0, func(b []byte, o origin) {
				if o.at != at.Addr() {
					t.Errorf("at %v, want %v", o.at, at)
				}
				if err := u.write(b, o.from, o.at); err != nil {
					t.Error(err)
				}
			})
		}()
		b := make([]byte, 9)
		exchange := func() {
			if _, err := client.WriteToUDPAddrPort([]byte("hello"), at); err != nil {
				t.Fatal(err)
			}
			if n, from, err := client.ReadFromUDPAddrPort(b); err != nil || string(b[:n]) != "hello" || from != at {
				t.Fatalf("%q from %v, %v; want it from %v", b[:n], from, err, at)
			}
		}
		if n := testing.AllocsPerRun(20, exchange); n > 0 {
			t.Errorf("%s: %v allocations", c.any, n)
		}
		u.close()
		<-ended
	}
}

// The peers contacted last are known, those contacted before too many others
// are forgotten, and memory is bounded.
func TestPeersAreBounded(t *testing.T) {
	var p peers
	at := func(i int) netip.AddrPort { return netip.AddrPortFrom(loopback, uint16(i)) }
	for i := 1; i <= 10*maxPeers; i++ {
		p.add(at(i))
		p.add(at(1)) // who is contacted all the time
	}
	for i := 10*maxPeers - maxPeers + 2; i <= 10*maxPeers; i++ {
		if !p.has(at(i)) {
			t.Fatalf("peer %d of %d is forgotten", i, 10*maxPeers)
		}
	}
	if !p.has(at(1)) || p.has(at(2)) || p.has(at(8*maxPeers)) {
		t.Error("the wrong ones are forgotten")
	}
	if n := len(p.recent) + len(p.older); n > 2*maxPeers {
		t.Errorf("%d peers, want at most %d", n, 2*maxPeers)
	}
}

// slowResolver is a resolver that answers after a while, unless it is cancelled.
type slowResolver time.Duration

func (r slowResolver) LookupNetIP(ctx context.Context, _, _ string) ([]netip.Addr, error) {
	select {
	case <-time.After(time.Duration(r)):
		return []netip.Addr{netip.MustParseAddr("192.0.2.1")}, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// A datagram does not wait for ever for a resolver that does not answer.
func TestDatagramsWaitForNamesInVain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cache := resolve.NewCache(slowResolver(time.Hour), 0, nil)
		names, forget := blocking(t.Context(), cache, netip.Addr{})
		defer forget()
		began := time.Now()
		if addrs, _ := names.Addrs("slow.test"); len(addrs) != 0 || !names.unknown {
			t.Errorf("addresses %v", addrs)
		}
		if waited := time.Since(began); waited != nameWait {
			t.Errorf("waited %v, want %v", waited, nameWait)
		}
		cache.Wait()
	})
}

// What a datagram waits for is bounded over all names that are asked for it:
// its target's and those of rules.
func TestDatagramsWaitForAllNames(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cache := resolve.NewCache(slowResolver(nameWait*2/3), 0, nil)
		names, forget := blocking(t.Context(), cache, netip.Addr{})
		defer forget()
		began := time.Now()
		for i, want := range []int{1, 0, 0} { // found in time, cut off, not begun
			if addrs, _ := names.Addrs(fmt.Sprintf("slow%d.test", i)); len(addrs) != want {
				t.Errorf("name %d: addresses %v, want %d", i, addrs, want)
			}
		}
		if waited := time.Since(began); waited != nameWait {
			t.Errorf("waited %v, want %v", waited, nameWait)
		}
		cache.Wait()
	})
}

// between returns an association between two sockets, whose client is at an address.
func between(t *testing.T, front, upstream *socket, client netip.Addr, moved *idle.Stamp) *Association {
	t.Helper()
	set, found := rules.Parse("sockd.conf", []byte("client pass { from: 0/0 to: 0/0 }\nsocks block { from: 0/0 to: 10.0.0.0/8 }\nsocks pass { from: 0/0 to: 0/0 }\n"), rules.Env{})
	if set == nil {
		t.Fatalf("rules: %v", found)
	}
	o := Options{
		Judge: decide.Session{
			Policy:  &decide.Policy{Rules: set},
			Machine: decide.Machine{Own: func(netip.AddrPort) bool { return false }},
			From:    netip.MustParseAddrPort("127.0.0.1:4711"), Version: rules.Version(socks.V5),
		},
		Client: Client{Addr: client},
		Names:  resolve.NewCache(slowResolver(time.Hour), 0, nil), Metrics: NewMetrics(nil),
		Heard: new(selfaddr.Set), Up: new(atomic.Int64), Down: new(atomic.Int64),
	}
	a := newAssociation(o, front, front.local)
	a.upstream[true] = upstream
	a.idle.Start(time.Hour, moved, func() { t.Error("idle for an hour") })
	t.Cleanup(a.idle.Stop)
	a.running.Go(func() { _ = a.readClient(t.Context()) })
	a.running.Go(func() { _ = a.readTargets(t.Context(), upstream) })
	return a
}

// An association can be closed while a datagram waits for room in a socket.
func TestCloseWhileADatagramWaits(t *testing.T) {
	front, client, clientAddr := pair(t, nil)
	upstream, _, targetAddr := pair(t, nil)
	waits := make(chan struct{}, 9)
	upstream.try = func(uintptr) bool { waits <- struct{}{}; return false }
	a := between(t, front, upstream, clientAddr.Addr(), new(idle.Stamp))
	request, err := socks.AppendUDPHeader(nil, socks.AddrOf(targetAddr))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := client.WriteToUDPAddrPort(request, front.local); err != nil {
		t.Fatal(err)
	}
	<-waits
	if err := a.Close(); err != nil {
		t.Error(err)
	}
	a.running.Wait()
}

// A datagram to an address and its answer take no memory.
func TestDatagramsTakeNoMemory(t *testing.T) {
	front, client, clientAddr := pair(t, nil)
	upstream, target, targetAddr := pair(t, nil)
	moved := new(idle.Stamp)
	a := between(t, front, upstream, clientAddr.Addr(), moved)
	began := time.Now()
	request, err := socks.AppendUDPHeader(nil, socks.AddrOf(targetAddr))
	if err != nil {
		t.Fatal(err)
	}
	request = append(request, "hello"...)
	t.Cleanup(func() { _ = a.Close(); a.running.Wait() })
	b := make([]byte, 99)
	if n := testing.AllocsPerRun(100, func() {
		if _, err := client.WriteToUDPAddrPort(request, front.local); err != nil {
			t.Fatal(err)
		}
		_, from, err := target.ReadFromUDPAddrPort(b)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := target.WriteToUDPAddrPort([]byte("hi"), from); err != nil {
			t.Fatal(err)
		}
		if _, _, err = client.ReadFromUDPAddrPort(b); err != nil {
			t.Fatal(err)
		}
	}); n > 0 {
		t.Errorf("%v allocations", n)
	}
	if moved.Idle() >= time.Since(began) {
		t.Error("a relayed datagram does not restart the idle timeout of the association")
	}
	if c := a.client.known.Load(); c == nil || c.from != clientAddr {
		t.Errorf("client %v, want %v", c, clientAddr)
	}
}
