//go:build linux && amd64 && !race

package proxy_test

import (
	"io"
	"net"
	"os"
	"os/exec"
	"runtime"
	"runtime/debug"
	"testing"

	"usher/proxy/socks"
)

// The two goroutines of an idle session fit into the smallest stacks, 2 KiB each:
// one that needs more has 4 KiB or more for as long as the session is idle.
//
// It runs in a process of its own: after other tests, new stacks may begin larger.
func TestIdleSessionsHaveSmallStacks(t *testing.T) {
	const fixed = "adaptivestackstart=0"
	if os.Getenv("GODEBUG") != fixed {
		alone := exec.Command(os.Args[0], "-test.run=^TestIdleSessionsHaveSmallStacks$", "-test.v")
		alone.Env = append(os.Environ(), "GODEBUG="+fixed)
		if said, err := alone.CombinedOutput(); err != nil {
			t.Errorf("%v\n%s", err, said)
		}
		return
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	w := newWorld(t, anybody)
	to := socks.AddrOf(ln.Addr().(*net.TCPAddr).AddrPort())
	open := func(n int) (stacks uint64) {
		for range n {
			near := w.client()
			near.connect(to, socks.Succeeded)
			far, err := ln.Accept()
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { far.Close() })
			// A stack is as large as its deepest point so far, which is a write.
			near.send([]byte{1})
			if _, err := io.CopyN(far, far, 1); err != nil {
				t.Fatal(err)
			}
			near.expect([]byte{1})
		}
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.StackInuse
	}
	defer debug.SetGCPercent(debug.SetGCPercent(-1)) // which would shrink stacks
	const few, sessions = 100, 300
	before := open(few)
	each := (open(sessions) - before) / sessions
	t.Logf("%d bytes of stack a session", each)
	if each > 4<<10+512 {
		t.Errorf("%d bytes of stack a session, want 2 KiB for each of its two goroutines", each)
	}
}
