package integration

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"net/netip"
	"path/filepath"
	"testing"
	"time"

	"usher/deploy/need"
)

// TestUDPBesideTheBalancer is the layout of Dante's page about redundancy: TCP passes a
// balancer, here HAProxy in TCP mode, and UDP goes directly to the node that got the
// connection. The balancer either names the client, or hides it as relayd does.
func TestUDPBesideTheBalancer(t *testing.T) {
	for _, c := range []struct {
		name   string
		server string // options of HAProxy's servers
		env    string // names the balancer's address to Usher
		reason string // why datagrams of somebody else are dropped
	}{
		{"PROXY protocol", "send-proxy-v2", "USHER_PROXY_PROTOCOL_FROM", "foreign"},
		{"hidden client", "", "USHER_UDP_RELAY_FROM", "blocked"},
	} {
		t.Run(c.name, func(t *testing.T) {
			nodes, servers := startNodes(t, c.env, c.server)
			balancer := startPlainBalancer(t, servers)
			e := startUDPEcho(t, "127.0.4.1")
			times := map[netip.Addr]float64{}
			for tries := 0; len(times) < len(nodes) && tries < 20; tries++ { // HAProxy's threads take turns apart
				a := associate(t, balancer, "127.0.3.1")
				n, ok := nodes[a.relay.Addr()]
				if !ok || a.relay.Port() < 21000 || a.relay.Port() > 21999 {
					t.Fatalf("told %v, want the address of a node, and a port of USHER_UDP_PORTS", a.relay)
				}
				times[a.relay.Addr()]++
				sendUDP(t, newUDP(t, "127.0.5.1"), a.relay, header(e), "I was first")
				eventually(t, patience, func() string {
					got := n.metrics(t).sum("usher_udp_datagrams_dropped_total", fmt.Sprintf("reason=%q", c.reason))
					if got != times[a.relay.Addr()] {
						return "the stranger's datagram is not dropped as " + c.reason
					}
					return ""
				})
				sendUDP(t, a.udp, a.relay, header(e), "hello")
				back, from := getUDP(t, a.udp)
				if want := append(header(e), "hello from "+n.external...); from != a.relay || !bytes.Equal(back, want) {
					t.Errorf("%q from %v, want %q from %v", back, from, want, a.relay)
				}
				a.control.Close()
				eventually(t, patience, func() string {
					if n.status(t).Sessions != 0 {
						return "the association outlives its connection"
					}
					return ""
				})
			}
			if len(times) != len(nodes) {
				t.Errorf("associations at %v, want one at each node", times)
			}
		})
	}
}

// node is a replica in this layout.
type node struct {
	*replica
	external string
}

// startNodes starts two nodes, and returns them by their internal addresses, and as
// HAProxy's servers with these options. env names the balancer to them. Their rules
// admit the balancer's connections, and datagrams from the clients' network.
func startNodes(t *testing.T, env, option string) (nodes map[netip.Addr]node, servers string) {
	t.Helper()
	nodes = map[netip.Addr]node{}
	socksPort, adminPort := need.Port(t), need.Port(t)
	for i := range 2 {
		internal, external := fmt.Sprintf("127.0.2.%d", i+1), fmt.Sprintf("127.0.2.%d", i+11)
		file := filepath.Join(t.TempDir(), "sockd.conf")
		writeFile(t, file, fmt.Sprintf(`internal: %s port = %d
external: %s
client pass { from: 0/0 to: 0/0 }
socks pass { from: 127.0.3.0/24 to: 0/0
	command: udpassociate }
socks pass { from: %s/32 to: 255.255.255.255/32
	command: udpassociate }
socks pass { from: 0/0 to: 127.0.3.0/24
	command: udpreply }
`, internal, socksPort, external, balancerSource))
		r := startReplica(t, fmt.Sprintf("node %d", i+1), internal, socksPort, adminPort, map[string]string{
			"USHER_LISTEN": "", "USHER_CONFIG": file, env: balancerSource, "USHER_UDP_RELAY_CLIENTS": "127.0.0.0/8", "USHER_UDP_PORTS": "21000-21999",
		})
		nodes[netip.MustParseAddr(internal)] = node{r, external}
		servers += fmt.Sprintf("    server node%d %s:%d source %s %s\n", i+1, internal, socksPort, balancerSource, option)
	}
	return nodes, servers
}

// startPlainBalancer starts HAProxy in TCP mode before these servers, each in
// turn, and returns its address.
func startPlainBalancer(t *testing.T, servers string) string {
	t.Helper()
	addr := fmt.Sprintf("127.0.0.1:%d", need.Port(t))
	file := filepath.Join(t.TempDir(), "haproxy.cfg")
	writeFile(t, file, fmt.Sprintf(`defaults
    mode tcp
    timeout connect 2s
    timeout client 25h
    timeout server 25h
listen socks
    bind %s
    balance roundrobin
%s`, addr, servers))
	start(t, "haproxy", nil, need.Program(t, "haproxy"), "-db", "-f", file)
	eventually(t, patience, func() string {
		conn, err := net.Dial("tcp", addr)
		if err != nil {
			return err.Error()
		}
		conn.Close()
		return ""
	})
	return addr
}

// association is a granted UDP association.
type association struct {
	control net.Conn
	udp     *net.UDPConn
	relay   netip.AddrPort // BND of the reply
}

// associate asks for a UDP association, announcing nothing.
func associate(t *testing.T, proxy, from string) association {
	t.Helper()
	conn, err := client{proxy: proxy, from: netip.MustParseAddr(from)}.dial()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	if _, err := conn.Write([]byte{5, 1, 0, 5, 3, 0, 1, 0, 0, 0, 0, 0, 0}); err != nil {
		t.Fatal(err)
	}
	var reply [2 + 10]byte // method, and a reply with an IPv4 address
	if _, err := io.ReadFull(conn, reply[:]); err != nil || !bytes.Equal(reply[:6], []byte{5, 0, 5, granted, 0, 1}) {
		t.Fatalf("% x, %v", reply, err)
	}
	relay := netip.AddrPortFrom(netip.AddrFrom4([4]byte(reply[6:])), uint16(reply[10])<<8|uint16(reply[11]))
	return association{control: conn, udp: newUDP(t, from), relay: relay}
}

// newUDP opens a UDP socket at an address.
func newUDP(t *testing.T, at string) *net.UDPConn {
	t.Helper()
	conn, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.ParseIP(at)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(4 * patience)); err != nil {
		t.Fatal(err)
	}
	return conn
}

func sendUDP(t *testing.T, from *net.UDPConn, to netip.AddrPort, header []byte, text string) {
	t.Helper()
	if _, err := from.WriteToUDPAddrPort(append(header, text...), to); err != nil {
		t.Fatal(err)
	}
}

func getUDP(t *testing.T, at *net.UDPConn) (b []byte, from netip.AddrPort) {
	t.Helper()
	b = make([]byte, 1<<16)
	n, from, err := at.ReadFromUDPAddrPort(b)
	if err != nil {
		t.Fatal(err)
	}
	return b[:n], netip.AddrPortFrom(from.Addr().Unmap(), from.Port())
}

// header is that of a datagram to or from an IPv4 address (RFC 1928 section 7).
func header(a netip.AddrPort) []byte {
	ip := a.Addr().As4()
	return append(append([]byte{0, 0, 0, 1}, ip[:]...), byte(a.Port()>>8), byte(a.Port()))
}

// startUDPEcho starts a target that sends back what it gets, and says who it
// got it from.
func startUDPEcho(t *testing.T, at string) netip.AddrPort {
	t.Helper()
	conn := newUDP(t, at)
	done := make(chan struct{})
	go func() {
		defer close(done)
		b := make([]byte, 1<<16)
		for {
			n, from, err := conn.ReadFromUDPAddrPort(b)
			if err != nil {
				return
			}
			if _, err := conn.WriteToUDPAddrPort(fmt.Appendf(nil, "%s from %v", b[:n], from.Addr().Unmap()), from); err != nil {
				t.Error(err)
			}
		}
	}()
	t.Cleanup(func() { conn.Close(); <-done })
	return conn.LocalAddr().(*net.UDPAddr).AddrPort()
}
