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

// What docker-compose.yml and docs/deploy.md say of a session that stalls: it
// takes 1 MiB of the kernel, and as many as may run fit into the memory.
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

// limitMemory puts a process into a memory cgroup of its own, if this machine lets
// the test make one. Version 1 does not count what the kernel buffers.
func limitMemory(t testing.TB, pid int, bytes int64) {
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
		os.WriteFile(filepath.Join(group, "cgroup.procs"), []byte(strconv.Itoa(pid)), 0o600),
	); err != nil {
		t.Logf("without a memory cgroup: %v", err)
	}
	t.Cleanup(func() { os.Remove(group) }) // once the process has ended
}

// flood sends and receives on a connection: it reads so many bytes, so that the
// kernel's buffers grow, and then no more, and sends until nobody takes it.
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

// stall opens sessions to a target of its own, and lets both ends of each send.
func (f *flood) stall(t testing.TB, proxy string, sessions int) (held []net.Conn) {
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
	attacker := client{proxy: proxy, from: netip.MustParseAddr(attackerSource)}
	for range sessions {
		a := attacker.connect(target)
		if a.reply != granted {
			t.Fatalf("session %d of %d: reply %d, %v", len(held)+1, sessions, a.reply, a.err)
		}
		held = append(held, a.Conn)
		f.begin(a.Conn, warm)
	}
	return held
}

// TestAttackStalledSessions lets as many sessions as may run send in both
// directions, and then read in none. With the settings of docker-compose.yml, what
// the kernel buffers for them and what Usher takes fit into the memory limit.
func TestAttackStalledSessions(t *testing.T) {
	ss := need.Program(t, "ss")
	demo := readComposeSettings(t)
	l := newLaboratory(t)
	for name, value := range demo.sysctls { // of this network alone
		if err := os.WriteFile("/proc/sys/net/ipv4/"+name, []byte(value), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if len(demo.sysctls) != 2 {
		t.Fatalf("sysctls %v of docker-compose.yml, want tcp_rmem and tcp_wmem", demo.sysctls)
	}
	config := filepath.Join(l.dir, "sockd.conf")
	writeFile(t, config, "socksmethod: none\nclient pass { from: 0/0 to: 0/0 }\nsocks pass { from: 0/0 to: 0/0 command: connect }\n")
	proxy := l.start("listening for SOCKS clients", 1, []string{
		"USHER_LISTEN=127.0.0.1:1080", "USHER_ADMIN_LISTEN=127.0.0.1:9090", "USHER_LOG_FORMAT=json", "USHER_CONFIG=" + config,
		"USHER_MAX_SESSIONS=" + strconv.Itoa(demo.sessions), "GORACE=halt_on_error=1 exitcode=66",
	}, usher, "serve")
	t.Cleanup(func() {
		proxy.stop(t)
		if t.Failed() {
			t.Logf("%.4000s", proxy.said.String())
		}
	})
	pid := proxy.cmd.Process.Pid
	limitMemory(t, pid, demo.memory)
	if want := fmt.Sprintf(`"stalled_session_kib":%d`, stalledBytes>>10); !strings.Contains(proxy.said.String(), want) {
		t.Errorf("the log lacks %s", want)
	}

	var f flood
	held := f.stall(t, "127.0.0.1:1080", demo.sessions)
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

// socketMemory returns how many bytes the kernel holds for the proxy's connections
// in this network: those to its clients and those to the target.
func socketMemory(t testing.TB, ss string) (sum int64) {
	t.Helper()
	out, err := exec.Command(ss, "-tmnH", "state", "established", "( sport = :1080 or dport = :9 )").Output()
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range regexp.MustCompile(`skmem:\(r(\d+),rb\d+,t\d+,tb\d+,f(\d+),w(\d+),`).FindAllStringSubmatch(string(out), -1) {
		for _, part := range m[1:] {
			n, err := strconv.ParseInt(part, 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			sum += n
		}
	}
	return sum
}

// anonymous returns how much memory a process has for itself.
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
