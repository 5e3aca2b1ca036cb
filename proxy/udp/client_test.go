package udp

import (
	"net/netip"
	"testing"
	"testing/synctest"
	"time"
)

// A client has another port once the old one has been silent for long enough, and
// a datagram that the rules pass has come from the new one.
func TestClientMoves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		at := func(port uint16) netip.AddrPort { return netip.AddrPortFrom(loopback, port) }
		s := sender{expected: Client{Addr: loopback}, follow: 10 * time.Second}
		want := func(port uint16, may bool) {
			t.Helper()
			if got := s.mayBe(at(port)); got != may {
				t.Errorf("may be at port %d: %v, want %v", port, got, may)
			}
		}
		if !s.settle(origin{from: at(1)}) {
			t.Fatal("the first datagram does not fix the address of the client")
		}
		time.Sleep(9 * time.Second)
		want(2, false)
		want(1, true) // it is heard
		time.Sleep(9 * time.Second)
		want(2, false)
		time.Sleep(time.Second)
		want(2, true)
		want(1, true) // the rules have passed nothing of port 2: it is heard again
		if s.settle(origin{from: at(2)}) {
			t.Error("the client's port has changed although the old port was not silent")
		}
		time.Sleep(10 * time.Second)
		if s.mayBe(netip.AddrPortFrom(loopback.Next(), 2)) {
			t.Error("the client may have another address")
		}
		if !s.settle(origin{from: at(2)}) || s.known.Load().from != at(2) || s.moves.Load() != 1 {
			t.Errorf("the client is at %v after %d moves", s.known.Load().from, s.moves.Load())
		}
		want(1, false)
		want(3, false)
		want(2, true)
	})
}

// Other clients keep their port, however long it is silent.
func TestClientsThatStay(t *testing.T) {
	for name, s := range map[string]*sender{
		"the server follows nobody":  {expected: Client{Addr: loopback}},
		"it announced its port":      {expected: Client{Addr: loopback, Port: 1}, follow: 1},
		"a balancer hides it":        {expected: Client{Within: []netip.Prefix{netip.PrefixFrom(loopback, 8)}}, follow: 1},
		"and it announced all of it": {expected: Client{Addr: loopback, Port: 1}, follow: 1},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s.settle(origin{from: netip.AddrPortFrom(loopback, 1)})
				time.Sleep(24 * time.Hour)
				moved := origin{from: netip.AddrPortFrom(loopback, 2)}
				if s.mayBe(moved.from) || s.settle(moved) || s.moves.Load() != 0 {
					t.Error("the client has moved")
				}
			})
		})
	}
}
