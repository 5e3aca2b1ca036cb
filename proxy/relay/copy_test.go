package relay

import (
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
)

// patient is the time limit of every wait in these tests.
const patient = time.Minute

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// pair returns two ends of a TCP connection.
func pair(t *testing.T) (a, b *net.TCPConn) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	dialled, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	accepted, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { dialled.Close(); accepted.Close() })
	return dialled.(*net.TCPConn), accepted.(*net.TCPConn)
}

// A writer that is blocked in the middle of a buffer when it loses its right to write
// does not write the rest when it can.
func TestWriterAsksBeforeEverySystemCall(t *testing.T) {
	from, to := pair(t)
	raw, err := from.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var asked atomic.Int64
	var lost atomic.Bool
	var w writer
	w.init(raw, func() bool { asked.Add(1); return !lost.Load() })
	big := make([]byte, 64<<20) // more than socket buffers take
	type result struct {
		n   int
		err error
	}
	done := make(chan result, 1)
	go func() {
		n, err := w.write(big)
		done <- result{n, err}
	}()
	blockedAt := waitBlocked(t, from, &asked)
	lost.Store(true)
	read := make(chan int64, 1)
	go func() {
		n, _ := io.Copy(io.Discard, struct{ io.Reader }{to})
		read <- n
	}()
	r := <-done
	if !errors.Is(r.err, ErrMayWrite) || r.n == len(big) {
		t.Errorf("wrote %d of %d, %v; want %v", r.n, len(big), r.err, ErrMayWrite)
	}
	if n := asked.Load(); n != blockedAt+1 {
		t.Errorf("asked %d times more, want once", n-blockedAt)
	}
	if err := from.Close(); err != nil {
		t.Fatal(err)
	}
	if n := <-read; n != int64(r.n) {
		t.Errorf("%d bytes arrived, %d were counted", n, r.n)
	}
}

// waitBlocked waits until the writer to c is blocked because nobody reads: c accepts no
// more, and n, which changes with each write, no longer changes. An unchanged n alone
// may mean a busy machine.
func waitBlocked(t *testing.T, c *net.TCPConn, n *atomic.Int64) int64 {
	t.Helper()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	last, still := int64(0), 0
	for end := time.Now().Add(patient); time.Now().Before(end); {
		<-tick.C
		now := n.Load()
		if still++; now == 0 || now != last || writable(t, c) {
			still = 0
		}
		if still == 3 {
			return now
		}
		last = now
	}
	t.Fatal("it does not block")
	return 0
}

// writable reports whether the system would accept bytes for c.
func writable(t *testing.T, c *net.TCPConn) bool {
	t.Helper()
	raw, err := c.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var ready int
	if err := raw.Control(func(fd uintptr) {
		ready, err = retry(func() (int, error) {
			return unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLOUT}}, 0)
		})
	}); err != nil {
		t.Fatal(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	return ready > 0
}

// A reader that waits holds no buffer, and tells an end from an error.
func TestReaderHoldsNoBuffer(t *testing.T) {
	from, to := pair(t)
	raw, err := to.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var r reader
	r.init(raw)
	if err := raw.Control(func(fd uintptr) {
		if r.attempt(fd) || r.buffer != nil {
			t.Error("a read of an empty socket returns data, or keeps a buffer")
		}
	}); err != nil {
		t.Fatal(err)
	}
	if _, err := from.Write([]byte("hello")); err != nil {
		t.Fatal(err)
	}
	b, n, err := r.wait()
	if err != nil || string(b[:n]) != "hello" {
		t.Fatalf("%q, %v", b[:n], err)
	}
	buffers.Put(b)
	if err := from.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if _, n, err := r.wait(); n != 0 || err != nil {
		t.Errorf("%d, %v; want the end", n, err)
	}
	if err := to.Close(); err != nil {
		t.Fatal(err)
	}
	if _, n, err := r.wait(); n != 0 || !errors.Is(err, net.ErrClosed) {
		t.Errorf("%d, %v; want %v", n, err, net.ErrClosed)
	}
}

// A client that has gone looks as if it had ended its direction. If its target is
// silent, the relay ends all the same.
func TestFinWait(t *testing.T) {
	for name, idle := range map[string]time.Duration{"without timeout.io": 0, "with a long one": time.Hour} {
		t.Run(name, func(t *testing.T) {
			client, fromClient := pair(t)
			target, toTarget := pair(t)
			r := New(fromClient, toTarget, Options{Idle: idle, FinWait: 50 * time.Millisecond, Up: new(atomic.Int64), Down: new(atomic.Int64)})
			ended := make(chan error, 1)
			go func() { ended <- r.Run() }()
			if err := client.Close(); err != nil {
				t.Fatal(err)
			}
			select {
			case err := <-ended:
				if !errors.Is(err, ErrFinWait) {
					t.Errorf("%v, want %v", err, ErrFinWait)
				}
			case <-time.After(patient):
				_ = target.Close()
				t.Errorf("the relay goes on, until its target is closed: %v", <-ended)
			}
		})
	}
}

// A relay that ends early resets a connection on which the kernel has much to send.
// Otherwise the kernel would keep the connection, and the peer would take what comes
// for everything.
func TestEarlyEndForgetsMuch(t *testing.T) {
	client, fromClient := pair(t)
	target, toTarget := pair(t)
	r := New(fromClient, toTarget, Options{Idle: 300 * time.Millisecond, Up: new(atomic.Int64), Down: new(atomic.Int64)})
	var sending sync.WaitGroup
	sending.Go(func() {
		for err := error(nil); err == nil; { // until the relay takes no more, and has ended
			_, err = client.Write(make([]byte, 64<<10))
		}
	})
	if err := r.Run(); !errors.Is(err, ErrIdle) {
		t.Errorf("%v, want %v", err, ErrIdle)
	}
	sending.Wait()
	if n, err := io.Copy(io.Discard, target); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the target gets %d bytes, %v, want a reset", n, err)
	}
}
