package integration

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"sync"
	"testing"
	"time"
)

// startMirror starts a target that sends every datagram back.
func startMirror(t testing.TB) netip.AddrPort {
	t.Helper()
	conn, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.MustParseAddrPort("127.0.0.1:0")))
	if err != nil {
		t.Fatal(err)
	}
	var echoing sync.WaitGroup
	echoing.Go(func() {
		b := make([]byte, 1<<16)
		for {
			n, from, err := conn.ReadFromUDPAddrPort(b)
			if errors.Is(err, net.ErrClosed) {
				return
			}
			conn.WriteToUDPAddrPort(b[:n], from) //nolint:errcheck // who does not get it asks again
		}
	})
	t.Cleanup(func() { conn.Close(); echoing.Wait() })
	return conn.LocalAddr().(*net.UDPAddr).AddrPort()
}

// udp sends datagrams through an association, some of which are dropped, and receives
// them. Then it ends in one of three ways.
func (s *soak) udp(random *rand.Rand) error {
	control, err := s.proxy.dial()
	if err != nil {
		return err
	}
	defer control.Close()
	reply := s.proxy.negotiate(control, request(3, "0.0.0.0:0"))
	s.udps.count(reply)
	if err := reply.wantOneOf(granted, notAllowed); err != nil || reply.reply != granted {
		return err
	}
	s.udps.add(1)
	conn, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(reply.bound))
	for err == nil {
		if err = s.datagram(conn, random); random.IntN(6) == 0 {
			break
		}
	}
	s.udps.add(-1)
	if conn != nil {
		conn.Close()
	}
	switch random.IntN(3) {
	case 0:
		return errors.Join(err, control.(*net.TCPConn).SetLinger(0))
	case 1:
		return errors.Join(err, halfClose(control.(*net.TCPConn)))
	}
	return err
}

// datagram sends one datagram to the mirror until it comes back.
func (s *soak) datagram(conn *net.UDPConn, random *rand.Rand) error {
	header := header(s.mirror)
	sent := header
	for range random.IntN(8 << 10) {
		sent = append(sent, byte(random.Uint32()))
	}
	fragment := bytes.Clone(sent)
	fragment[2] = 1
	got := make([]byte, 1<<16)
	for range 50 {
		for _, d := range [][]byte{fragment, header[:random.IntN(len(header))], sent} {
			if _, err := conn.Write(d); err != nil {
				return err
			}
		}
		if err := conn.SetReadDeadline(time.Now().Add(patience / 50)); err != nil {
			return err
		}
		for {
			n, err := conn.Read(got)
			if errors.Is(err, os.ErrDeadlineExceeded) {
				break // lost, as datagrams may be
			}
			if err != nil {
				return err
			}
			if bytes.Equal(got[:n], sent) { // else it is an earlier one that was late
				s.bytes.Add(int64(n))
				return nil
			}
		}
	}
	return errors.New("no datagram comes back")
}
