package proxy

import (
	"bytes"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"usher/proxy/socks"
)

var loopback = netip.MustParseAddr("127.0.0.1")

// udpAt returns a UDP socket on loopback, and its address.
func udpAt(t *testing.T) (*net.UDPConn, netip.AddrPort) {
	t.Helper()
	conn, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(patient)); err != nil {
		t.Fatal(err)
	}
	return conn, conn.LocalAddr().(*net.UDPAddr).AddrPort()
}

// An association that has lost its lease sends nothing more in either direction, and
// ends.
func TestAssociationsNeedTheLease(t *testing.T) {
	for name, up := range map[string]bool{"to the target": true, "to the client": false} {
		t.Run(name, func(t *testing.T) {
			s, control, ctx := newSession(t, "client pass { from: 0/0 to: 0/0 }\nsocks pass { from: 0/0 to: 0/0 }\n", 0)
			var lines bytes.Buffer
			s.server.opts.Logger = slog.New(slog.NewTextHandler(&lines, nil))
			var lost atomic.Bool
			s.valid = func() bool { return !lost.Load() }
			go live(ctx, s)
			relay := associate(t, control)
			client, _ := udpAt(t)
			target, to := udpAt(t)
			b, err := socks.AppendUDPHeader(nil, socks.AddrOf(to))
			if err != nil {
				t.Fatal(err)
			}
			say := func() {
				if _, err := client.WriteToUDPAddrPort(b, relay); err != nil {
					t.Fatal(err)
				}
			}
			say()
			_, back, err := target.ReadFromUDPAddrPort(make([]byte, 9))
			if err != nil {
				t.Fatal(err)
			}
			lost.Store(true)
			if up {
				say()
			} else if _, err := target.WriteToUDPAddrPort([]byte("answer"), back); err != nil {
				t.Fatal(err)
			}
			if n, err := control.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
				t.Errorf("%d, %v; want the end", n, err)
				s.sockets.cut(errDrain)
			}
			s.server.table.running.Wait()
			if log := lines.String(); !strings.Contains(log, "reason=lease_lost") || !strings.Contains(log, "dropped.lease_lost=1") {
				t.Errorf("log %q, want lease_lost", log)
			}
		})
	}
}

// associate asks for an association, and returns the address for its datagrams.
func associate(t *testing.T, control *net.TCPConn) netip.AddrPort {
	t.Helper()
	err := errors.Join(socks.WriteGreeting(control, socks.NoAuth),
		socks.WriteRequest(control, socks.Request{Version: socks.V5, Command: socks.UDPAssociate, Addr: unspecified}))
	_, read := io.ReadFull(control, make([]byte, 2))
	reply, refused := socks.ReadReply(control, socks.V5)
	if err := errors.Join(err, read, refused); err != nil || reply.Code != socks.Succeeded {
		t.Fatalf("reply %d, %v", reply.Code, err)
	}
	return netip.AddrPortFrom(reply.Addr.IP, reply.Addr.Port)
}
