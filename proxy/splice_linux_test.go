package proxy

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// running is one direction of a relay that runs.
type running struct {
	t        *testing.T
	flow     *flow
	src, dst *net.TCPConn // the far ends
	ended    chan error
}

func startFlow(t *testing.T, s *session) *running {
	t.Helper()
	src, from := pair(t)
	dst, to := pair(t)
	for _, c := range []*net.TCPConn{src, dst} {
		if err := c.SetDeadline(time.Now().Add(patient)); err != nil {
			t.Fatal(err)
		}
	}
	r := &running{t: t, src: src, dst: dst, ended: make(chan error, 1)}
	r.flow = &flow{session: s, from: from, to: to, readError: errClientSide, writeError: errTargetSide, bytes: new(atomic.Int64)}
	go func() { r.ended <- r.flow.run() }()
	return r
}

// flood sends until nothing more goes through, as nobody reads, and returns
// what was sent.
func (r *running) flood() []byte {
	r.t.Helper()
	sent := make([]byte, 64<<20)
	_, _ = rand.NewChaCha8([32]byte{1}).Read(sent) // never fails
	stuck := make(chan int, 1)
	go func() {
		n, _ := r.src.Write(sent)
		stuck <- n
	}()
	waitStill(r.t, r.flow.bytes)
	if err := r.src.SetWriteDeadline(time.Unix(1, 0)); err != nil {
		r.t.Fatal(err)
	}
	sent = sent[:<-stuck]
	if err := r.src.SetWriteDeadline(time.Now().Add(patient)); err != nil {
		r.t.Fatal(err)
	}
	return sent
}

// receive reads what was sent.
func (r *running) receive(want []byte) {
	r.t.Helper()
	got := make([]byte, len(want))
	n, err := io.ReadFull(r.dst, got)
	if err != nil || !bytes.Equal(got, want) {
		r.t.Fatalf("%d of %d bytes, or others: %v", n, len(want), err)
	}
}

// pipes counts the ends of pipes that this process has open.
func pipes(t *testing.T) int {
	t.Helper()
	list, err := filepath.Glob("/proc/self/fd/*")
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, fd := range list {
		if name, err := os.Readlink(fd); err == nil && strings.HasPrefix(name, "pipe:") {
			n++
		}
	}
	return n
}

// A flow of many bytes goes through a pipe, one that has become silent holds
// none.
func TestBulkHasAPipeWhileItLasts(t *testing.T) {
	before := pipes(t)
	r := startFlow(t, new(session))
	sent := r.flood()
	if n := pipes(t) - before; n != 2 {
		t.Errorf("%d ends of pipes, want 2", n)
	}
	r.receive(sent)
	for end := time.Now().Add(patient); pipes(t) != before; {
		if time.Now().After(end) {
			t.Fatal("the pipe is not given up")
		}
		time.Sleep(10 * time.Millisecond)
	}
	if _, err := r.src.Write([]byte("after")); err != nil {
		t.Fatal(err)
	}
	r.receive([]byte("after"))
	if err := r.src.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if b, err := io.ReadAll(r.dst); len(b) > 0 || err != nil {
		t.Errorf("%q, %v; want the end", b, err)
	}
	if err := <-r.ended; err != nil {
		t.Error(err)
	}
	if n := r.flow.bytes.Load(); n != int64(len(sent)+len("after")) {
		t.Errorf("%d bytes counted, want %d", n, len(sent)+len("after"))
	}
}

// A flow that goes on in small pieces is copied again, though it is never
// silent. Its end arrives in either form.
func TestSmallPiecesAreCopiedAgain(t *testing.T) {
	before := pipes(t)
	r := startFlow(t, new(session))
	r.receive(r.flood())
	few := 0
	for pipes(t) != before {
		if few++; few > 10*smallMoves {
			t.Fatalf("still spliced after %d small pieces", few)
		}
		if _, err := r.src.Write([]byte("small")); err != nil {
			t.Fatal(err)
		}
		r.receive([]byte("small"))
	}
}

// A spliced flow that ends ends as a copied one does.
func TestSplicedEnd(t *testing.T) {
	r := startFlow(t, new(session))
	sent := r.flood()
	if err := r.src.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	r.receive(sent)
	if b, err := io.ReadAll(r.dst); len(b) > 0 || err != nil {
		t.Errorf("%d bytes, %v; want the end", len(b), err)
	}
	if err := <-r.ended; err != nil {
		t.Error(err)
	}
}

// What loses its right to write while it is blocked does not write what is in
// the pipe once it can.
func TestSpliceAsksBeforeEverySystemCall(t *testing.T) {
	var lost atomic.Bool
	r := startFlow(t, &session{valid: func() bool { return !lost.Load() }})
	before := pipes(t)
	r.flood()
	if pipes(t) == before {
		t.Fatal("not spliced")
	}
	lost.Store(true)
	if err := r.src.CloseWrite(); err != nil { // so that it ends if nobody asks
		t.Fatal(err)
	}
	counted := r.flow.bytes.Load()
	read := make(chan int64, 1)
	go func() {
		n, _ := io.Copy(io.Discard, struct{ io.Reader }{r.dst})
		read <- n
	}()
	if err := <-r.ended; !errors.Is(err, errLeaseLost) {
		t.Errorf("ended with %v, want %v", err, errLeaseLost)
	}
	if err := r.flow.to.Close(); err != nil {
		t.Fatal(err)
	}
	if n := <-read; n != counted {
		t.Errorf("%d bytes arrived, %d were written when the right was lost", n, counted)
	}
}

// What is spliced keeps its session alive, though nothing comes back: timeout.io
// is half an hour, and the last bytes that were copied moved an hour ago.
func TestSplicedBytesAreNoIdleness(t *testing.T) {
	var cut error
	s := &session{began: time.Now().Add(-time.Hour), end: func(cause error) { cut = cause }}
	s.endWhenIdle(30 * time.Minute)
	t.Cleanup(func() { s.idleTimer.Stop() })
	r := startFlow(t, s)
	sent := r.flood()
	s.moved.Store(0)
	if err := r.src.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	r.receive(sent)
	if err := <-r.ended; err != nil {
		t.Error(err)
	}
	if s.checkIdle(); cut != nil {
		t.Errorf("cut while bytes moved: %v", cut)
	}
}

// A pipe holds 1 MiB, and so no more than that is written between two questions
// for the lease.
func TestPipeSize(t *testing.T) {
	p, err := newPipe(new(flow), nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.close)
	size, err := unix.FcntlInt(uintptr(p.w), unix.F_GETPIPE_SZ, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := unix.FcntlInt(uintptr(p.w), unix.F_SETPIPE_SZ, 1<<20); err != nil {
		t.Skipf("the system gives this user no such pipe: %v", err)
	}
	if size != 1<<20 {
		t.Errorf("%d bytes, want %d", size, 1<<20)
	}
}

// Without descriptors for a pipe a bulk flow is copied.
func TestBulkWithoutDescriptors(t *testing.T) {
	before := pipes(t)
	r := startFlow(t, new(session))
	var limit, none syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	none = limit
	none.Cur = 3 // fewer than are open: no new one
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &none); err != nil {
		t.Fatal(err)
	}
	sent := r.flood()
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	if n := pipes(t); n != before {
		t.Errorf("%d ends of pipes, %d before", n, before)
	}
	r.receive(sent)
}

// What breaks one side resets the other, whichever way the bytes went.
func TestResetIsPassedOn(t *testing.T) {
	for name, flood := range map[string]bool{"copied": false, "spliced": true} {
		t.Run(name, func(t *testing.T) {
			r := startFlow(t, new(session))
			if flood {
				r.receive(r.flood())
			}
			if err := r.src.SetLinger(0); err != nil {
				t.Fatal(err)
			}
			r.src.Close()
			if err := <-r.ended; !errors.Is(err, errClientSide) {
				t.Errorf("ended with %v, want %v", err, errClientSide)
			}
			r.flow.to.Close() // as the session does
			if _, err := io.ReadAll(r.dst); !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("the other side met %v, want %v", err, syscall.ECONNRESET)
			}
		})
		t.Run(name+", backwards", func(t *testing.T) {
			r := startFlow(t, new(session))
			if flood {
				r.flood() // and is blocked
			}
			if err := r.dst.SetLinger(0); err != nil {
				t.Fatal(err)
			}
			r.dst.Close()
			for len(r.ended) == 0 && !flood { // the first bytes may go before the reset is there
				if _, err := r.src.Write([]byte("x")); err != nil {
					t.Fatal(err)
				}
			}
			if err := <-r.ended; !errors.Is(err, errTargetSide) {
				t.Errorf("ended with %v, want %v", err, errTargetSide)
			}
			r.flow.from.Close()
			if _, err := io.ReadAll(r.src); !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("the other side met %v, want %v", err, syscall.ECONNRESET)
			}
		})
	}
}

// What we close ourselves, as a session that is idle or cut, is no reset.
func TestCutIsNoReset(t *testing.T) {
	r := startFlow(t, new(session))
	r.flow.from.Close()
	if err := <-r.ended; !errors.Is(err, net.ErrClosed) {
		t.Errorf("ended with %v, want %v", err, net.ErrClosed)
	}
	r.flow.to.Close()
	if b, err := io.ReadAll(r.dst); len(b) > 0 || err != nil {
		t.Errorf("the other side met %q, %v; want the end", b, err)
	}
}
