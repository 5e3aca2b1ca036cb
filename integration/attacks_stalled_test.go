package integration

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"usher/deploy/need"
)

// docker-compose.yml and docs/deploy.md say: the kernel buffers up to 1 MiB for a
// stalled session, and the memory suffices for as many sessions as may run.
const (
	stalledBytes = 1 << 20
	pipesBytes   = 64 << 20 // of all pipes together
)

// composeSettings are those of the service usher in docker-compose.yml.
type composeSettings struct {
	sysctls  map[string]string
	sessions int
	memory   int64
}

func readComposeSettings(t testing.TB) composeSettings {
	t.Helper()
	_, text, _ := strings.Cut(readFile(t, "../docker-compose.yml"), "\n  usher:\n")
	text, _, _ = strings.Cut(text, "\n  haproxy:\n")
	s := composeSettings{sysctls: map[string]string{}}
	for _, m := range regexp.MustCompile(`(?m)^      net\.ipv4\.(\w+): "(.*)"$`).FindAllStringSubmatch(text, -1) {
		s.sysctls[m[1]] = m[2]
	}
	number := func(pattern string) int {
		m := regexp.MustCompile(pattern).FindStringSubmatch(text)
		if m == nil {
			t.Fatalf("no %s in docker-compose.yml", pattern)
		}
		n, err := strconv.Atoi(m[1])
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	s.sessions = number(`USHER_MAX_SESSIONS: "(\d+)"`)
	s.memory = int64(number(`mem_limit: "(\d+)m"`)) << 20
	return s
}

// limitedMemory makes a memory cgroup with this limit, and returns the file to which a
// process writes its id to join it. It needs the right to make one. Version 1 of
// cgroups does not count the buffers of the kernel.
func limitedMemory(t testing.TB, bytes int64) (procs string) {
	t.Helper()
	root, limit := "/sys/fs/cgroup/memory", "memory.limit_in_bytes"
	if _, err := os.Stat(root); err != nil {
		root, limit = "/sys/fs/cgroup", "memory.max"
		os.WriteFile(filepath.Join(root, "cgroup.subtree_control"), []byte("+memory"), 0o600) //nolint:errcheck // the write of the limit shows it
	}
	group := filepath.Join(root, "usher-"+testRun)
	if err := errors.Join(
		os.Mkdir(group, 0o755),
		os.WriteFile(filepath.Join(group, limit), []byte(strconv.FormatInt(bytes, 10)), 0o600),
	); err != nil {
		need.Missing(t, fmt.Sprintf("the right to make a memory cgroup (%v)", err))
	}
	t.Cleanup(func() { os.Remove(group) }) // once the process has ended
	return filepath.Join(group, "cgroup.procs")
}

// flood sends and receives on a connection. It reads a number of bytes, so that the
// buffers of the kernel grow, and then stops. It sends until its peer stops reading.
type flood struct {
	read    atomic.Int64 // connections that have read what they read
	running sync.WaitGroup
}

func (f *flood) begin(c net.Conn, most int64) {
	f.running.Go(func() {
		if _, err := io.CopyN(io.Discard, c, most); err == nil {
			f.read.Add(1)
		}
	})
	f.running.Go(func() {
		chunk := make([]byte, 64<<10)
		for {
			if _, err := c.Write(chunk); err != nil {
				return
			}
		}
	})
}

// stall opens sessions to its own target, from one source after the other, and lets
// both ends of each send.
func (f *flood) stall(t testing.TB, proxy string, sessions, sources int) (held []net.Conn) {
	t.Helper()
	const target, warm = "127.0.1.9:9", 1 << 20
	ln, err := net.Listen("tcp", target)
	if err != nil {
		t.Fatal(err)
	}
	var targets []net.Conn
	var mu sync.Mutex
	f.running.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			targets = append(targets, c)
			mu.Unlock()
			f.begin(c, warm)
		}
	})
	t.Cleanup(func() {
		ln.Close()
		mu.Lock()
		all := append(held, targets...)
		mu.Unlock()
		for _, c := range all {
			c.Close()
		}
		f.running.Wait()
	})
	for i := range sessions {
		attacker := client{proxy: proxy, from: netip.AddrFrom4([4]byte{127, 1, byte(i % sources >> 8), byte(i % sources)})}
		a := attacker.connect(target)
		if a.reply != granted {
			t.Fatalf("session %d of %d: reply %d, %v", len(held)+1, sessions, a.reply, a.err)
		}
		held = append(held, a.Conn)
		f.begin(a.Conn, warm)
	}
	return held
}

// stalledReplica starts a replica with a memory limit, in its own network with these
// settings.
func stalledReplica(t testing.TB, memory int64, sysctls map[string]string, env ...string) *contender {
	t.Helper()
	l := newLaboratory(t)
	for name, value := range sysctls { // of this network alone
		if err := os.WriteFile("/proc/sys/net/ipv4/"+name, []byte(value), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if len(sysctls) != 2 {
		t.Fatalf("settings %v, want tcp_rmem and tcp_wmem", sysctls)
	}
	config := filepath.Join(l.dir, "sockd.conf")
	writeFile(t, config, "socksmethod: none\nclient pass { from: 0/0 to: 0/0 }\nsocks pass { from: 0/0 to: 0/0 command: connect }\n")
	proxy := l.start("listening for SOCKS clients", 1, append([]string{
		"USHER_LISTEN=127.0.0.1:1080", "USHER_ADMIN_LISTEN=127.0.0.1:9090", "USHER_LOG_FORMAT=json", "USHER_CONFIG=" + config,
		"GORACE=halt_on_error=1 exitcode=66",
	}, env...), "/bin/sh", "-c", `echo $$ >"$0" && exec "$@"`, limitedMemory(t, memory), usher, "serve")
	t.Cleanup(func() {
		proxy.stop(t)
		if t.Failed() {
			t.Logf("%.4000s", proxy.said.String())
		}
	})
	if want := fmt.Sprintf(`"memory_mib":%d`, memory>>20); !strings.Contains(proxy.said.String(), want) {
		t.Fatalf("the log lacks %s", want)
	}
	return proxy
}

// TestAttackStalledSessionsAtDefaults stalls sessions of one source. The kernel may
// buffer 20 MiB for each, which is the default, and the memory suffices for a fifth of
// them. Usher ends sessions of this source before the memory is full, and serves
// others.
func TestAttackStalledSessionsAtDefaults(t *testing.T) {
	const sessions, memory = 120, 512 << 20
	ss := need.Program(t, "ss")
	proxy := stalledReplica(t, memory, map[string]string{"tcp_rmem": "4096 131072 6291456", "tcp_wmem": "4096 16384 4194304"})
	pid := proxy.cmd.Process.Pid
	honest := client{proxy: "127.0.0.1:1080", from: netip.MustParseAddr(honestSource)}
	ended := func() int { return strings.Count(proxy.said.String(), `"reason":"buffered"`) }

	var f flood
	f.stall(t, "127.0.0.1:1080", sessions, 1)
	most, served := int64(0), 0
	eventually(t, 12*patience, func() string {
		sockets := socketMemory(t, ss)
		most = max(most, sockets)
		if used := sockets + anonymous(t, pid) + memory/8; used > memory && !raceEnabled {
			t.Fatalf("%d MiB in use, %d of them in sockets; the limit is %d", used>>20, sockets>>20, memory>>20)
		}
		a := honest.connect("127.0.1.1:7")
		if a.reply != granted {
			t.Fatalf("an honest client: reply %d, %v", a.reply, a.err)
		}
		defer a.Close()
		if line, err := readLine(within(a)); !strings.HasPrefix(line, "127.0.1.1:7 ") {
			t.Fatalf("an honest client gets %q, %v", line, err)
		}
		served++
		if ended() == 0 || served < 50 {
			return fmt.Sprintf("%d sessions are ended, %d MiB in sockets, %d honest clients served", ended(), sockets>>20, served)
		}
		return ""
	})
	t.Logf("at most %d MiB in sockets; %d of %d sessions were ended; %d honest clients were served", most>>20, ended(), sessions, served)
	if answer := ask(t, "127.0.0.1:9090", "GET /healthz HTTP/1.0\r\n\r\n"); !strings.Contains(answer, "200 OK") {
		t.Errorf("/healthz answers %q", answer)
	}
}

// TestAttackStalledSessions opens as many sessions as may run. They send in both
// directions, and then nobody reads. With the settings of docker-compose.yml, the
// buffers of the kernel and the memory of Usher stay below the memory limit.
func TestAttackStalledSessions(t *testing.T) {
	ss := need.Program(t, "ss")
	demo := readComposeSettings(t)
	proxy := stalledReplica(t, demo.memory, demo.sysctls, "USHER_MAX_SESSIONS="+strconv.Itoa(demo.sessions))
	pid := proxy.cmd.Process.Pid
	for _, want := range []string{fmt.Sprintf(`"stalled_session_kib":%d`, stalledBytes>>10), `"max_buffered_mib":0`} {
		if !strings.Contains(proxy.said.String(), want) {
			t.Errorf("the log lacks %s", want)
		}
	}

	var f flood
	held := f.stall(t, "127.0.0.1:1080", demo.sessions, demo.sessions)
	most := int64(0)
	eventually(t, 12*patience, func() string {
		sockets := socketMemory(t, ss)
		most = max(most, sockets)
		if used := sockets + anonymous(t, pid) + pipesBytes; used > demo.memory && !raceEnabled {
			t.Fatalf("%d MiB in use, %d of them in sockets; the limit is %d", used>>20, sockets>>20, demo.memory>>20)
		}
		if n := f.read.Load(); n < int64(2*demo.sessions) || sockets < int64(demo.sessions)*stalledBytes/2 {
			return fmt.Sprintf("%d of %d directions have stalled, %d MiB in sockets", n, 2*demo.sessions, sockets>>20)
		}
		return ""
	})
	t.Logf("%d sessions take %d KiB each in the kernel; %d MiB of Usher's own", demo.sessions, most/int64(demo.sessions)>>10, anonymous(t, pid)>>20)
	if each := most / int64(demo.sessions); each > stalledBytes*9/8 {
		t.Errorf("%d KiB in the kernel for each session, documented are %d", each>>10, stalledBytes>>10)
	}

	honest := client{proxy: "127.0.0.1:1080", from: netip.MustParseAddr(honestSource)}
	if a := honest.connect("127.0.1.1:7"); a.reply != 1 {
		t.Errorf("reply %d while all places are taken, want 1", a.reply)
	}
	if answer := ask(t, "127.0.0.1:9090", "GET /healthz HTTP/1.0\r\n\r\n"); !strings.Contains(answer, "200 OK") {
		t.Errorf("/healthz answers %q", answer)
	}
	held[0].Close()
	eventually(t, patience, func() string {
		a := honest.connect("127.0.1.1:7")
		if a.reply != granted {
			return fmt.Sprintf("reply %d to an honest client when a place is free", a.reply)
		}
		defer a.Close()
		if line, err := readLine(within(a)); !strings.HasPrefix(line, "127.0.1.1:7 ") {
			return fmt.Sprintf("an honest client gets %q, %v", line, err)
		}
		return ""
	})
}

// ask sends a request and returns the answer.
func ask(t testing.TB, addr, request string) string {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := io.WriteString(within(c), request); err != nil {
		t.Fatal(err)
	}
	answer, err := io.ReadAll(c)
	if err != nil {
		t.Fatal(err)
	}
	return string(answer)
}

// socketMemory returns how many bytes the kernel buffers for the proxy's connections to
// clients and targets in this network.
func socketMemory(t testing.TB, ss string) (sum int64) {
	t.Helper()
	out, err := exec.Command(ss, "-tmnH", "state", "established", "( sport = :1080 or dport = :9 )").Output()
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range regexp.MustCompile(`skmem:\(r(\d+),rb\d+,t\d+,tb\d+,f(\d+),w(\d+),`).FindAllStringSubmatch(string(out), -1) {
		for _, part := range m[1:] {
			n, err := strconv.ParseUint(part, 10, 32)
			if err != nil {
				t.Fatal(err)
			}
			sum += int64(int32(n)) // f may be negative for a moment
		}
	}
	return sum
}

// anonymous returns the anonymous memory of a process.
func anonymous(t testing.TB, pid int) int64 {
	t.Helper()
	m := regexp.MustCompile(`RssAnon:\s*(\d+) kB`).FindStringSubmatch(readFile(t, fmt.Sprintf("/proc/%d/status", pid)))
	if m == nil {
		t.Fatal("no RssAnon")
	}
	n, err := strconv.ParseInt(m[1], 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return n << 10
}
