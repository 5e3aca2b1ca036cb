package integration

import (
	"io"
	"net"
	"net/netip"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"usher/deploy/need"
)

// TestLinkLocalClient serves a client on the link, whose addresses mean nothing
// without an interface: SOCKS has no room for that, the system wants it.
func TestLinkLocalClient(t *testing.T) {
	l := newLaboratory(t)
	if out, err := exec.Command(need.Program(t, "busybox"), "ip", "address", "add", "fe80::1/64", "dev", "lo").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	config := filepath.Join(l.dir, "sockd.conf")
	writeFile(t, config, "client pass { from: fe80::/10 to: 0/0 }\nsocks pass { from: 0/0 to: 0/0 }\n")
	proxy := l.start("listening for SOCKS clients", 1, []string{
		"USHER_LISTEN=[::]:1080", "USHER_ADMIN_LISTEN=off", "USHER_LOG_FORMAT=json",
		"USHER_CONFIG=" + config,
	}, usher, "serve")
	defer proxy.stop(t)
	linkLocal := netip.MustParseAddr("fe80::1%lo")
	c := client{proxy: netip.AddrPortFrom(linkLocal, 1080).String()}
	ask := func(command byte, target string) (net.Conn, netip.AddrPort) {
		t.Helper()
		conn, err := c.dial()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		a := c.negotiate(conn, request(command, target))
		if a.reply != granted || a.bound.Addr() != linkLocal.WithZone("") {
			t.Fatalf("command %d: reply %d, bound to %v, %v\n%s", command, a.reply, a.bound, a.err, proxy.said.String())
		}
		return conn, netip.AddrPortFrom(linkLocal, a.bound.Port())
	}

	_, relay := ask(commands["associate"], "0.0.0.0:0")
	udp, err := net.DialUDP("udp6", &net.UDPAddr{IP: linkLocal.AsSlice(), Zone: "lo"}, net.UDPAddrFromAddrPort(relay))
	if err != nil {
		t.Fatal(err)
	}
	defer udp.Close()
	target := netip.MustParseAddrPort("127.0.1.1:7")
	within(udp).Write(append(header(target), "hello"...)) //nolint:errcheck // the answer tells
	answer := make([]byte, 100)
	if n, err := udp.Read(answer); err != nil || !strings.HasSuffix(string(answer[:n]), target.String()) {
		t.Errorf("datagram back: %q, %v\n%s", answer[:n], err, proxy.said.String())
	}

	for _, announced := range []string{"0.0.0.0:0", "[fe80::1]:0"} {
		waiting, place := ask(commands["bind"], announced)
		peer, err := net.DialTimeout("tcp", place.String(), patience)
		if err != nil {
			t.Fatal(err)
		}
		defer peer.Close()
		if a := readReply(waiting); a.reply != granted || a.bound.Addr() != linkLocal.WithZone("") {
			t.Errorf("%s: second reply %d about %v, %v\n%s", announced, a.reply, a.bound, a.err, proxy.said.String())
		}
		io.WriteString(peer, "hello\n") //nolint:errcheck // it would not arrive
		if said, err := readLine(waiting); said != "hello" {
			t.Errorf("%s: relayed %q, %v", announced, said, err)
		}
	}
}
