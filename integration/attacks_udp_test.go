package integration

import (
	"bytes"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"

	"usher/deploy/need"
)

// drops waits until so many datagrams are counted as dropped for each reason.
func (a *attack) drops(want map[string]float64) {
	a.t.Helper()
	eventually(a.t, patience, func() string {
		m := a.r.metrics(a.t)
		for reason, n := range want {
			if got := m.sum("usher_udp_datagrams_dropped_total", fmt.Sprintf("reason=%q", reason)); got != n {
				return fmt.Sprintf("%v datagrams are dropped as %s, want %v", got, reason, n)
			}
		}
		return ""
	})
}

// echoes expects a datagram of the association's client to come back.
func (u association) echoes(t *testing.T, target netip.AddrPort, text string) {
	t.Helper()
	sendUDP(t, u.udp, u.relay, header(target), text)
	back, from := getUDP(t, u.udp)
	if want := append(header(target), text+" from "...); from != u.relay || !bytes.HasPrefix(back, want) {
		t.Errorf("%q from %v, want %q from %v", back, from, want, u.relay)
	}
}

// TestAttackRelayedDatagrams sends datagrams to another client's association, before
// and after the client's first one, from another address and from other ports of the
// client's address. None is relayed, and the client keeps its association.
func TestAttackRelayedDatagrams(t *testing.T) {
	a := newAttack(t, options{rules: udpRules})
	target := startUDPEcho(t, "127.0.4.1")
	stranger := newUDP(t, attackerSource)
	victim := associate(t, a.r.socks, honestSource)
	const spray = 200
	for range spray {
		sendUDP(t, stranger, victim.relay, header(target), "mine now")
	}
	a.drops(map[string]float64{"foreign": spray})
	victim.echoes(t, target, "first of the client")
	neighbour := newUDP(t, honestSource) // another program of the same machine
	sendUDP(t, neighbour, victim.relay, header(target), "mine now")
	sendUDP(t, stranger, victim.relay, header(target), "mine now")
	a.drops(map[string]float64{"foreign": spray + 2})
	victim.echoes(t, target, "second of the client")
	a.honest()
	victim.control.Close()
	a.over()
	if n := a.r.metrics(t).sum("usher_udp_datagrams_total"); n != 4 {
		t.Errorf("%v datagrams are relayed, want 4: two each way", n)
	}
}

// TestAttackForgedAnswers sends datagrams to the socket towards targets, from
// addresses that the client has not contacted.
func TestAttackForgedAnswers(t *testing.T) {
	a := newAttack(t, options{rules: udpRules})
	// The target tells its peer's address, to which strangers then send.
	target := newUDP(t, "127.0.4.1")
	at := target.LocalAddr().(*net.UDPAddr).AddrPort()
	client := associate(t, a.r.socks, honestSource)
	sendUDP(t, client.udp, client.relay, header(at), "question")
	_, upstream := getUDP(t, target)
	const forged = 50
	for range forged {
		sendUDP(t, newUDP(t, "127.0.4.2"), upstream, nil, "forged: another address")
		sendUDP(t, newUDP(t, "127.0.4.1"), upstream, nil, "forged: another port")
	}
	a.drops(map[string]float64{"unsolicited": 2 * forged})
	sendUDP(t, target, upstream, nil, "answer")
	if got, _ := getUDP(t, client.udp); string(got) != string(header(at))+"answer" {
		t.Errorf("the client got %q, want the answer alone", got)
	}
	client.control.Close()
}

// TestAttackDatagrams sends datagrams that no relay may pass on: fragments, malformed
// headers, targets without address or port, multicast, broadcast, and Usher's own
// sockets.
func TestAttackDatagrams(t *testing.T) {
	a := newAttack(t, options{rules: udpRules})
	target := startUDPEcho(t, "127.0.4.1")
	other := associate(t, a.r.socks, attackerSource)
	u := associate(t, a.r.socks, honestSource)
	own := netip.MustParseAddrPort(a.r.socks)
	fragment := func(n byte) []byte {
		h := header(target)
		h[2] = n
		return h
	}
	zero := netip.AddrPortFrom(target.Addr(), 0)
	for reason, all := range map[string][][]byte{
		"fragment":  {fragment(1), fragment(127), fragment(128), fragment(255)},
		"malformed": {nil, {0}, {0, 0, 0}, {0, 0, 0, 1, 127, 0}, {0, 0, 0, 9, 1, 2, 3, 4, 0, 7}, []byte("\x00\x00\x00\x03\xffshort"), []byte("\x00\x00\x00\x03\x00\x00\x07"), []byte("\x00\x00\x00\x03\x09one\x00.test\x00\x07")},
		"target":    {header(zero), header(netip.MustParseAddrPort("0.0.0.0:7")), header(netip.MustParseAddrPort("224.0.0.1:7"))},
		"system":    {header(netip.MustParseAddrPort("255.255.255.255:7")), header(netip.MustParseAddrPort("127.255.255.255:7"))}, // broadcast
		"self":      {header(u.relay), header(other.relay), header(own)},
		"blocked":   {header(netip.MustParseAddrPort("127.0.6.1:7")), []byte("\x00\x00\x00\x04" + strings.Repeat("\x00", 10) + "\xff\xff\x7f\x00\x06\x01\x00\x07")},
	} {
		for _, head := range all {
			if _, err := u.udp.WriteToUDPAddrPort(head, u.relay); err != nil {
				t.Fatal(err)
			}
		}
		a.drops(map[string]float64{reason: float64(len(all))})
	}
	u.echoes(t, target, "still here")
	u.control.Close()
	other.control.Close()
}

// udpRules let clients relay to all networks but one, and answers come from one.
func udpRules(_, free endpoint) string {
	return fmt.Sprintf(`
client pass { from: 0/0 to: 0/0 }
socks pass { from: %s/32 to: %s command: connect }
socks block { from: 127.0.0.0/8 to: 127.0.6.0/24 command: udpassociate }
socks pass { from: 127.0.0.0/16 to: 0/0 command: udpassociate }
socks pass { from: 127.0.4.0/24 to: 127.0.0.0/16 command: udpreply }
`, honestSource, free.to())
}

// TestAttackBind connects to a waiting BIND as the wrong peer, twice, and through Usher
// itself. It asks for the port of a local service, and waits more often than the limit
// allows.
func TestAttackBind(t *testing.T) {
	a := newAttack(t, options{rules: func(_, free endpoint) string {
		return fmt.Sprintf(`
client pass { from: 0/0 to: 0/0 }
socks pass { from: %s/32 to: 0/0 command: bind maxsessions: 2 }
socks pass { from: 127.0.4.0/24 to: 0/0 command: bindreply }
socks pass { from: 0/0 to: 0/0 command: connect }
`, honestSource)
	}})
	victim := client{proxy: a.r.socks, from: netip.MustParseAddr(honestSource)}
	wait := func(announced string) (net.Conn, answer) {
		t.Helper()
		conn, err := victim.dial()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		return conn, victim.negotiate(conn, request(2, announced))
	}
	peer := func(from, to string) {
		t.Helper()
		conn, err := client{proxy: to, from: netip.MustParseAddr(from)}.dial()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
	}

	// Only the announced peer may connect, and only once.
	conn, first := wait("127.0.4.1:0")
	if first.reply != granted {
		t.Fatalf("BIND: reply %d, %v", first.reply, first.err)
	}
	peer("127.0.4.2", first.bound.String())
	if second := readReply(conn); second.reply != notAllowed {
		t.Errorf("a foreign peer: second reply %d, want %d", second.reply, notAllowed)
	}
	a.wantRefused("peer", 1, honestSource)
	if late, err := net.Dial("tcp", first.bound.String()); err == nil {
		late.Close()
		t.Error("the port is open after its peer has come")
	}
	// A peer that no bindreply rule passes.
	conn, first = wait("0.0.0.0:0")
	peer(attackerSource, first.bound.String())
	if second := readReply(conn); second.reply != notAllowed {
		t.Errorf("a blocked peer: second reply %d, want %d", second.reply, notAllowed)
	}

	// Nobody can connect through Usher to a port on which Usher waits.
	held, first := wait("0.0.0.0:0")
	attacker := client{proxy: a.r.socks, from: netip.MustParseAddr(attackerSource)}
	if got := attacker.connect(first.bound.String()); got.reply != notAllowed {
		t.Errorf("CONNECT to a waiting BIND: reply %d, want %d", got.reply, notAllowed)
	}
	a.wantRefused("self", 1, attackerSource)
	// The client cannot choose a port unless a rule names it.
	wished := need.Port(t)
	second, got := wait(fmt.Sprintf("0.0.0.0:%d", wished))
	if got.reply != granted || int(got.bound.Port()) == wished {
		t.Errorf("BIND to port %d: reply %d, port %d", wished, got.reply, got.bound.Port())
	}
	if _, got := wait("0.0.0.0:0"); got.reply != notAllowed {
		t.Errorf("the third BIND: reply %d, want %d", got.reply, notAllowed)
	}
	a.wantRefused("limit", 1, honestSource)
	a.honest()
	held.Close()
	second.Close()
}
