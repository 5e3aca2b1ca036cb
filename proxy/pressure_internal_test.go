package proxy

import (
	"io"
	"net"
	"net/netip"
	"runtime"
	"slices"
	"testing"
)

// Of the source that takes most, the session that takes most is ended first.
func TestHeaviest(t *testing.T) {
	a, b, none := netip.MustParsePrefix("192.0.2.1/32"), netip.MustParsePrefix("2001:db8::/64"), netip.Prefix{}
	list := []buffered{{nil, a, 10}, {nil, b, 50}, {nil, a, 30}, {nil, none, 5}, {nil, a, 25}, {nil, b, 1}}
	for _, c := range []struct {
		excess int64
		want   []int64
	}{{-1, nil}, {0, nil}, {1, []int64{30}}, {31, []int64{30, 50}}, {81, []int64{30, 50, 25}}, {1000, []int64{30, 50, 25, 10, 5, 1}}} {
		var got []int64
		for _, v := range heaviest(slices.Clone(list), c.excess) {
			got = append(got, v.bytes)
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("for %d: %v, want %v", c.excess, got, c.want)
		}
	}
}

// GuardMemory may inspect a session while deliver runs. deliver waits for that, and
// still sees the data that is to be sent.
func TestDeliverBesideGuardMemory(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	peer, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer peer.Close()
	conn, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	s := sockets{open: []io.Closer{conn}}
	defer s.close()
	delivered := make(chan struct{})
	s.eachTCP(func(*net.TCPConn) {
		go func() { defer close(delivered); s.deliver() }()
		for range 100_000 {
			select {
			case <-delivered:
				t.Error("it ends without a look")
				return
			default:
				runtime.Gosched()
			}
		}
	})
	<-delivered
}
