package integration

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"usher/deploy/need"
)

// zone is the name server of an attacker. Its answers may change with each query. It
// may also give none.
type zone struct {
	mu      sync.Mutex
	names   map[string]func(query int) []string
	queries map[string]int // by name, for IPv4 addresses
}

// startZone starts a name server on port 53 of 127.0.0.1.
func startZone(t testing.TB, names map[string]func(query int) []string) *zone {
	t.Helper()
	z := &zone{names: names, queries: map[string]int{}}
	conn, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 53})
	if err != nil {
		t.Fatal(err)
	}
	var serving sync.WaitGroup
	t.Cleanup(func() { conn.Close(); serving.Wait() })
	serving.Go(func() {
		query := make([]byte, 1500)
		for {
			n, from, err := conn.ReadFromUDPAddrPort(query)
			if err != nil {
				return
			}
			if answer := z.answer(query[:n]); answer != nil {
				conn.WriteToUDPAddrPort(answer, from) //nolint:errcheck // as with any datagram
			}
		}
	})
	return z
}

// asked returns how often a name was asked for.
func (z *zone) asked(name string) int {
	z.mu.Lock()
	defer z.mu.Unlock()
	return z.queries[name]
}

// answer returns the answer to a query (RFC 1035 section 4), or nil for none.
func (z *zone) answer(query []byte) []byte {
	const head, typeA, typeAAAA = 12, 1, 28
	var labels []string
	at := head
	for at < len(query) && query[at] != 0 {
		end := at + 1 + int(query[at])
		if end >= len(query) {
			return nil
		}
		labels = append(labels, string(query[at+1:end]))
		at = end
	}
	if at+5 > len(query) {
		return nil
	}
	name, kind, question := strings.Join(labels, "."), binary.BigEndian.Uint16(query[at+1:]), query[head:at+5]
	z.mu.Lock()
	defer z.mu.Unlock()
	if kind == typeA {
		z.queries[name]++
	}
	addresses, known := z.names[name]
	if known && addresses == nil {
		return nil
	}
	var records []byte
	count := 0
	if known {
		for _, text := range addresses(max(z.queries[name], 1)) {
			a := netip.MustParseAddr(text)
			if a.Is4() != (kind == typeA) || !a.Is4() && kind != typeAAAA {
				continue
			}
			count++
			records = append(records, 0xc0, head) // the name of the question
			records = binary.BigEndian.AppendUint16(records, kind)
			records = append(records, 0, 1, 0, 0, 0, 0, 0, byte(a.BitLen()/8))
			records = append(records, a.AsSlice()...)
		}
	}
	flags := uint16(0x8580) // an answer with authority
	if !known {
		flags |= 3 // no such name
	}
	answer := append([]byte{}, query[:2]...)
	for _, n := range []uint16{flags, 1, uint16(count), 0, 0} {
		answer = binary.BigEndian.AppendUint16(answer, n)
	}
	return append(append(answer, question...), records...)
}

// cage is a laboratory with a public network. The attacker serves its names.
type cage struct {
	*laboratory
	proxy  *contender
	config string
	client client // may connect
}

// Addresses of the cage: of a public server, of a black hole, and of the machine.
const publicAddr, holeAddr, machineAddr = "11.0.0.1", "11.0.0.2", "11.0.0.9"

// newCage starts a proxy with rules for one client, 127.0.7.1. descriptors is how many
// it may open; 0: as many as the test.
func newCage(t *testing.T, rules string, descriptors int) *cage {
	t.Helper()
	c := &cage{laboratory: newLaboratory(t)}
	for _, addr := range []string{publicAddr, holeAddr, machineAddr} {
		if out, err := exec.Command(need.Program(t, "busybox"), "ip", "address", "add", addr+"/32", "dev", "lo").CombinedOutput(); err != nil {
			t.Fatalf("ip address add %s: %v: %s", addr, err, out)
		}
	}
	c.startTarget(netip.AddrPortFrom(netip.MustParseAddr(publicAddr), 80))
	writeFile(t, filepath.Join(c.etc, "nsswitch.conf"), "hosts: files dns\n")
	writeFile(t, filepath.Join(c.etc, "resolv.conf"), "nameserver 127.0.0.1\noptions timeout:5 attempts:1\n")
	c.config = filepath.Join(c.dir, "sockd.conf")
	writeFile(t, c.config, rules)
	program, args := usher, []string{"serve"}
	if descriptors > 0 {
		program, args = "/bin/sh", []string{"-c", fmt.Sprintf(`ulimit -n %d && exec "$0" serve`, descriptors), usher}
	}
	c.proxy = c.start("listening for SOCKS clients", 1, []string{
		"USHER_LISTEN=:1080", "USHER_ADMIN_LISTEN=:9090", "USHER_LOG_FORMAT=json", "USHER_CONFIG=" + c.config,
		"GORACE=halt_on_error=1 exitcode=66",
	}, program, args...)
	t.Cleanup(func() {
		c.proxy.stop(t)
		if t.Failed() {
			t.Log(c.proxy.said.String())
		}
	})
	c.client = client{proxy: "127.0.0.1:1080", from: netip.MustParseAddr(honestSource)}
	return c
}

// reload makes the proxy forget the names that it has looked up.
func (c *cage) reload() {
	c.t.Helper()
	before := strings.Count(c.proxy.said.String(), `"msg":"reloaded"`)
	if err := c.proxy.cmd.Process.Signal(syscall.SIGHUP); err != nil {
		c.t.Fatal(err)
	}
	eventually(c.t, patience, func() string {
		if strings.Count(c.proxy.said.String(), `"msg":"reloaded"`) == before {
			return "not reloaded"
		}
		return ""
	})
}

// descriptors returns how many descriptors the proxy has open.
func (c *cage) descriptors() int {
	c.t.Helper()
	all, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", c.proxy.cmd.Process.Pid))
	if err != nil {
		c.t.Fatal(err)
	}
	return len(all)
}

// wantBanner expects a connection to the public server, and closes it.
func (c *cage) wantBanner(target string) {
	c.t.Helper()
	got := c.client.connect(target)
	if got.Conn == nil {
		c.t.Errorf("%s: reply %d, %v", target, got.reply, got.err)
		return
	}
	defer got.Close()
	if line, err := readLine(within(got)); !strings.HasPrefix(line, publicAddr+":80 ") {
		c.t.Errorf("%s leads to %q, %v, want %s", target, line, err, publicAddr)
	}
}

// wantReply expects a refusal and, if reason is not empty, a log line that gives it.
func (c *cage) wantReply(target string, reply int, reason string) {
	c.t.Helper()
	before := len(refusedIn(c.t, c.proxy.said.String(), reason))
	got := c.client.connect(target)
	if got.Conn != nil {
		got.Close()
	}
	if got.reply != reply {
		c.t.Errorf("%s: reply %d, %v, want %d", target, got.reply, got.err, reply)
	}
	eventually(c.t, patience, func() string {
		if len(refusedIn(c.t, c.proxy.said.String(), reason)) == before {
			return target + " is not logged as " + reason
		}
		return ""
	})
}

const cageRules = `socksmethod: none
timeout.connect: 5
client pass { from: 0/0 to: 0/0 }
socks block { from: 0/0 to: @special command: connect udpassociate }
socks pass { from: 127.0.7.0/24 to: 0/0 command: connect }
`

// TestAttackNames asks for names whose addresses the attacker chooses: private ones in
// every form, Usher's own, and addresses that change between two queries.
func TestAttackNames(t *testing.T) {
	always := func(addresses ...string) func(int) []string { return func(int) []string { return addresses } }
	names := map[string]func(int) []string{
		"public.evil.test": always(publicAddr),
		"own.evil.test":    always(machineAddr),
		"any.evil.test":    always("0.0.0.0", "::"), // the system would take these for itself
		"flips.evil.test":  func(query int) []string { return []string{publicAddr, "127.0.1.1"}[(query-1)%2 : (query-1)%2+1] },
	}
	private := map[string][]string{
		"loopback": {"127.0.1.1"}, "private": {"10.1.2.3"}, "metadata": {"169.254.169.254"},
		"six": {"::1"}, "mapped": {"::ffff:127.0.1.1"}, "unique": {"fd00::1"}, "nat64": {"64:ff9b::7f00:101"}, "six-to-four": {"2002:7f00:101::1"},
		"public-and-private": {publicAddr, "127.0.1.1"}, "private-and-public": {"127.0.1.1", publicAddr}, "both-families": {publicAddr, "::1"},
	}
	for name, addresses := range private {
		names[name+".evil.test"] = always(addresses...)
	}
	c := newCage(t, cageRules, 0)
	z := startZone(t, names)
	c.wantBanner("public.evil.test:80")
	before := c.descriptors()
	for name := range private {
		c.wantReply(name+".evil.test:80", 4, "blocked")
	}
	c.wantReply("no-such.evil.test:80", 4, "unresolved") // the client cannot tell it from those
	c.wantReply("any.evil.test:80", 4, "unresolved")
	for _, port := range []string{"1080", "9090"} {
		c.wantReply("own.evil.test:"+port, notAllowed, "self")
		c.wantReply(machineAddr+":"+port, notAllowed, "self")
		c.wantReply("localhost:"+port, 4, "blocked")
	}
	for range 3 {
		c.wantBanner("flips.evil.test:80")
		c.wantBanner("flips.evil.test:80") // by the addresses that were judged
		c.reload()
		c.wantReply("flips.evil.test:80", 4, "blocked")
		c.reload()
	}
	if n := z.asked("flips.evil.test"); n != 6 {
		t.Errorf("a name is looked up %d times, want 6: once after each reload", n)
	}
	eventually(t, patience, func() string {
		if n := c.descriptors(); n > before {
			return fmt.Sprintf("%d descriptors, %d before", n, before)
		}
		return ""
	})
}

// TestAttackLookups asks for names as a client that no rule passes. Usher sends nothing
// to the name server, and the answer says nothing about the name.
func TestAttackLookups(t *testing.T) {
	c := newCage(t, cageRules, 0)
	z := startZone(t, map[string]func(int) []string{
		"secret.evil.test": func(int) []string { return []string{publicAddr} },
	})
	c.wantBanner("secret.evil.test:80")
	c.reload()
	c.client.from = netip.MustParseAddr(attackerSource)
	for _, name := range []string{"secret.evil.test", "no-such.evil.test", "data.to.tell.evil.test"} {
		c.wantReply(name+":80", notAllowed, "blocked")
	}
	if n := z.asked("secret.evil.test"); n != 1 {
		t.Errorf("a name is looked up for a client that no rule passes: %d queries, want 1", n)
	}
	for _, name := range []string{"no-such.evil.test", "data.to.tell.evil.test"} {
		if n := z.asked(name); n != 0 {
			t.Errorf("%s is looked up for a client that no rule passes", name)
		}
	}
}

// TestAttackBlackHoles connects to an address that does not answer, and asks for names
// that no server answers. The limit holds, others are served, and each attempt ends
// without help.
func TestAttackBlackHoles(t *testing.T) {
	const attempts, limit = 20, 5
	c := newCage(t, cageRules[:strings.LastIndex(cageRules, "socks pass")]+fmt.Sprintf(`
socks pass { from: 127.0.8.0/24 to: 0/0 command: connect maxsessions: %d }
socks pass { from: 127.0.7.0/24 to: 0/0 command: connect }
`, limit), 0)
	startZone(t, map[string]func(int) []string{
		"public.evil.test": func(int) []string { return []string{publicAddr} },
		"silent.evil.test": nil,
	})
	openHole(t)
	c.wantBanner("public.evil.test:80")
	before := c.descriptors()
	attacker := client{proxy: c.client.proxy, from: netip.MustParseAddr(attackerSource)}
	for target, want := range map[string]int{holeAddr + ":81": 6, "silent.evil.test:80": 4} {
		var conns []net.Conn
		for range attempts {
			conn, err := attacker.dial()
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			if _, err := conn.Write(append([]byte{5, 1, 0}, connectRequest(target)...)); err != nil {
				t.Fatal(err)
			}
			conns = append(conns, conn)
		}
		c.wantBanner("public.evil.test:80")
		got := map[int]int{}
		for _, conn := range conns {
			var method [2]byte
			if _, err := conn.Read(method[:]); err != nil {
				t.Fatal(err)
			}
			got[readReply(conn).reply]++
		}
		if target[0] == '1' && (got[want] != limit || got[notAllowed] != attempts-limit) || target[0] != '1' && got[want] != attempts {
			t.Errorf("%s: replies %v", target, got)
		}
		eventually(t, patience, func() string {
			if n := c.descriptors(); n > before {
				return fmt.Sprintf("%s: %d descriptors, %d before", target, n, before)
			}
			return ""
		})
	}
}

// openHole listens at the black hole's address with a full queue, so that the system
// drops new connections.
func openHole(t testing.TB) {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	if err := unix.Bind(fd, &unix.SockaddrInet4{Port: 81, Addr: netip.MustParseAddr(holeAddr).As4()}); err != nil {
		t.Fatal(err)
	}
	if err := unix.Listen(fd, 0); err != nil {
		t.Fatal(err)
	}
	conn, err := net.DialTimeout("tcp", holeAddr+":81", patience)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
}
