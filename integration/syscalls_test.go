package integration

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"usher/deploy/need"
)

// scheduling are the system calls by which the runtime of Go runs goroutines and memory.
// How many there are depends on how busy the machine is, and not on what a session does.
var scheduling = []string{
	"epoll_pwait", "futex", "getpid", "madvise", "mmap", "munmap", "nanosleep", "restart_syscall", "rt_sigprocmask", "rt_sigreturn",
	"sched_getaffinity", "sched_yield", "sigaltstack", "tgkill", "timer_create", "timer_delete", "timer_settime",
}

// ownCalls are the system calls of a session with its client and target, and the most
// that there may be of each. docs/performance.md explains them. Reads and accepts that
// found nothing are not among them: there are more if a peer is slow.
var ownCalls = map[string]float64{
	"accept4": 1, "getsockname": 2, "setsockopt": 3, "epoll_ctl": 4,
	"read": 6, "write": 5, "socket": 1, "connect": 1, "getsockopt": 1, "getpeername": 1,
	"ppoll": 1, "shutdown": 1, "close": 2,
}

// fileCalls are the system calls for a file that the process reads. It reads how much
// memory sockets take (/proc/net/sockstat) while sessions run.
var fileCalls = map[string]int{"openat": 1, "fcntl": 2, "epoll_ctl": 2, "fstat": 1, "read": 2, "close": 1}

// A change that saves calls lowers these bounds.
const (
	mostOwnCalls = 31.0 // of all of them together, with slack
	mostInVain   = 5.5  // reads and accepts that found nothing: at most one before each wait
	// callSlack is for what the process does beside its sessions. It is less than one call, so
	// that each further call of a session is noticed.
	callSlack = 0.7
)

// A session of CONNECT with one byte each way takes few system calls.
func TestSystemCallsOfASession(t *testing.T) {
	strace := need.Program(t, "strace")
	echo := startEcho(t)
	rules := filepath.Join(t.TempDir(), "sockd.conf")
	if err := os.WriteFile(rules, []byte("client pass { from: 0/0 to: 0/0 }\nsocks pass { from: 0/0 to: 0/0 }\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	r := startReplica(t, "usher", "127.0.0.1", need.Port(t), need.Port(t), map[string]string{"USHER_CONFIG": rules})
	session := func() {
		a := client{proxy: r.socks}.connect(echo.endpoint().String())
		if a.reply != granted {
			t.Fatal(a.reply, a.err)
		}
		defer a.Close()
		var b [1]byte
		if _, err := a.Write(b[:]); err != nil {
			t.Fatal(err)
		}
		if _, err := a.Read(b[:]); err != nil {
			t.Fatal(err)
		}
	}
	session() // what is begun on demand is there
	result := filepath.Join(t.TempDir(), "strace")
	tracer := start(t, "strace", nil, strace, "-f", "-c", "-o", result, "-p", strconv.Itoa(r.proc.cmd.Process.Pid))
	eventually(t, patience, func() string {
		if _, ended := tracer.ended(); ended {
			need.Missing(t, "the right to trace a process (CAP_SYS_PTRACE)")
		}
		if !strings.Contains(tracer.out.String(), "attached") {
			return "strace has not attached"
		}
		return ""
	})
	const sessions = 200
	for range sessions {
		session()
	}
	eventually(t, patience, func() string {
		if n := strings.Count(r.proc.out.String(), "session ended"); n <= sessions {
			return fmt.Sprint(n, " sessions have ended")
		}
		return ""
	})
	tracer.signal(syscall.SIGINT)
	<-tracer.done
	var all, inVain float64
	made := callsIn(t, result)
	files := made["openat"].made
	for name, n := range made {
		if slices.Contains(scheduling, name) {
			continue
		}
		each := float64(n.made-files*fileCalls[name]) / sessions
		if name == "read" || name == "accept4" {
			each -= float64(n.failed) / sessions
			inVain += float64(n.failed) / sessions
		}
		all += each
		t.Logf("%s: %.2f", name, each)
		if each > ownCalls[name]+callSlack {
			t.Errorf("%.2f calls of %s, want at most %.1f", each, name, ownCalls[name])
		}
	}
	t.Logf("%.1f calls a session, and %.1f that found nothing", all, inVain)
	if all > mostOwnCalls || inVain > mostInVain {
		t.Errorf("%.1f system calls a session and %.1f that found nothing, want at most %.1f and %.1f", all, inVain, mostOwnCalls, mostInVain)
	}
}

// callCount is how often a system call was made, and how often it failed.
type callCount struct{ made, failed int }

// callsIn reads the table of strace -c.
func callsIn(t *testing.T, file string) map[string]callCount {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	table := map[string]callCount{}
	for line := range strings.Lines(string(text)) {
		f := strings.Fields(line) // % time, seconds, usecs/call, calls, errors if there are any, name
		if len(f) < 5 || f[len(f)-1] == "total" {
			continue
		}
		var n callCount
		if n.made, err = strconv.Atoi(f[3]); err != nil {
			continue
		}
		if len(f) > 5 {
			n.failed, _ = strconv.Atoi(f[4])
		}
		table[f[len(f)-1]] = n
	}
	if table["read"].made == 0 {
		t.Fatalf("strace has counted nothing:\n%s", text)
	}
	return table
}
