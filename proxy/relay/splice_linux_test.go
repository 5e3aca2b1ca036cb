package relay

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"usher/deploy/need"
	"usher/proxy/idle"
)

// running is one direction of a relay that runs.
type running struct {
	t        *testing.T
	flow     *flow
	src, dst *net.TCPConn // the far ends
	ended    chan error
	pipes    int   // ends of pipes that the process had before
	received int64 // bytes
}

// startFlow starts a direction that is gone, and its pipe with it, when the test
// ends.
func startFlow(t *testing.T, o *Relay) *running {
	t.Helper()
	before := pipes(t)
	src, from := pair(t)
	dst, to := pair(t)
	for _, c := range []*net.TCPConn{src, dst} {
		if err := c.SetDeadline(time.Now().Add(patient)); err != nil {
			t.Fatal(err)
		}
	}
	r := &running{t: t, src: src, dst: dst, ended: make(chan error, 1), pipes: before}
	o.up = flow{relay: o, from: from, to: to, bytes: new(atomic.Int64)}
	o.down.ended.Store(true)
	r.flow = &o.up
	r.start()
	return r
}

// start lets the direction run up to the end of the test.
func (r *running) start() {
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		r.ended <- r.flow.run()
	}()
	r.t.Cleanup(func() {
		r.flow.from.Close()
		r.flow.to.Close()
		<-gone
	})
}

// spliced floods until the flow goes through a pipe, and returns what is left to
// be received. One flood may not do: how much a read finds is the system's affair.
func (r *running) spliced() []byte {
	r.t.Helper()
	for range 50 {
		sent := r.flood()
		if pipes(r.t) == r.pipes+2 {
			return sent
		}
		r.receive(sent)
	}
	r.t.Fatal("not spliced")
	return nil
}

// deluge is more than socket buffers take.
var deluge = sync.OnceValue(func() []byte {
	b := make([]byte, 64<<20)
	_, _ = rand.NewChaCha8([32]byte{1}).Read(b) // never fails
	return b
})

// flood sends until nothing more goes through, as nobody reads, and returns
// what was sent.
func (r *running) flood() []byte {
	r.t.Helper()
	sent := deluge()
	stuck := make(chan int, 1)
	go func() {
		n, _ := r.src.Write(sent)
		stuck <- n
	}()
	waitBlocked(r.t, r.flow.to, r.flow.bytes)
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
	if err := r.dst.SetReadDeadline(time.Now().Add(patient)); err != nil {
		r.t.Fatal(err)
	}
	n, err := io.ReadFull(r.dst, got)
	r.received += int64(n)
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
	r := startFlow(t, new(Relay))
	r.receive(r.spliced())
	for end := time.Now().Add(patient); pipes(t) != r.pipes; {
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
	if n := r.flow.bytes.Load(); n != r.received {
		t.Errorf("%d bytes counted, want %d", n, r.received)
	}
}

// A flow that goes on in small pieces is copied again, though it is never
// silent. Its end arrives in either form.
func TestSmallPiecesAreCopiedAgain(t *testing.T) {
	r := startFlow(t, new(Relay))
	r.receive(r.spliced())
	few := 0
	for pipes(t) != r.pipes {
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
	r := startFlow(t, new(Relay))
	sent := r.spliced()
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
	r := startFlow(t, &Relay{mayWrite: func() bool { return !lost.Load() }})
	r.spliced()
	lost.Store(true)
	if err := r.src.CloseWrite(); err != nil { // so that it ends if nobody asks
		t.Fatal(err)
	}
	counted := r.flow.bytes.Load()
	received, read := r.received, make(chan int64, 1)
	go func() {
		n, _ := io.Copy(io.Discard, struct{ io.Reader }{r.dst})
		read <- received + n
	}()
	if err := <-r.ended; !errors.Is(err, ErrMayWrite) {
		t.Errorf("ended with %v, want %v", err, ErrMayWrite)
	}
	if err := r.flow.to.Close(); err != nil {
		t.Fatal(err)
	}
	if n := <-read; n != counted {
		t.Errorf("%d bytes arrived, %d were written when the right was lost", n, counted)
	}
}

// What is spliced keeps its relay alive, though nothing comes back.
func TestSplicedBytesAreNoIdleness(t *testing.T) {
	o := new(Relay)
	moved := new(idle.Stamp)
	o.idle.Start(time.Hour, moved, func() { t.Error("idle for an hour") })
	t.Cleanup(o.idle.Stop)
	r := startFlow(t, o)
	sent := r.spliced() // and is blocked
	blocked := time.Now()
	if err := r.src.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	r.receive(sent)
	if err := <-r.ended; err != nil {
		t.Error(err)
	}
	if since, silent := time.Since(blocked), moved.Idle(); silent >= since {
		t.Errorf("idle for %v, although bytes moved in the last %v", silent, since)
	}
}

// splice(2) goes no further at urgent data, and says 0 there if the peer's end has
// come by then, as at the end itself: what follows is relayed all the same.
func TestSplicedUpToUrgentData(t *testing.T) {
	r := startFlow(t, new(Relay))
	sent := r.spliced()
	rest := bytes.Repeat([]byte("rest "), 10_000)
	raw, err := r.src.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	sending := make(chan error, 1)
	go func() {
		var oob error
		_, err := r.src.Write([]byte("abc"))
		failed := raw.Write(func(fd uintptr) bool {
			oob = unix.Sendto(int(fd), []byte("X"), unix.MSG_OOB, nil)
			return !errors.Is(oob, unix.EAGAIN)
		})
		_, last := r.src.Write(rest)
		sending <- errors.Join(err, failed, oob, last, r.src.CloseWrite())
	}()
	r.receive(append(sent, "abc"...))
	if err := <-sending; err != nil {
		t.Fatal(err)
	}
	r.receive(rest) // X is out of band, as these sockets are not Listen's
	if b, err := io.ReadAll(r.dst); len(b) > 0 || err != nil {
		t.Errorf("%d bytes, %v; want the end", len(b), err)
	}
	if err := <-r.ended; err != nil {
		t.Error(err)
	}
}

// A pipe holds 1 MiB, and so no more than that is written between two questions
// for the lease.
func TestPipeSize(t *testing.T) {
	p, err := newPipe(new(flow))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.close)
	size, err := unix.FcntlInt(uintptr(p.w), unix.F_GETPIPE_SZ, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := unix.FcntlInt(uintptr(p.w), unix.F_SETPIPE_SZ, 1<<20); err != nil {
		t.Log(err)
		need.Missing(t, "the right to a pipe of 1 MiB")
	}
	if size != 1<<20 {
		t.Errorf("%d bytes, want %d", size, 1<<20)
	}
}

// Without descriptors for a pipe a bulk flow is copied.
func TestBulkWithoutDescriptors(t *testing.T) {
	r := startFlow(t, new(Relay))
	var limit, none syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	none = limit
	none.Cur = 3 // fewer than are open: no new one
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &none); err != nil {
		t.Fatal(err)
	}
	restore := sync.OnceValue(func() error { return syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit) })
	defer restore() //nolint:errcheck // asked below, unless the test has failed already
	for range 3 {   // see spliced
		r.receive(r.flood())
	}
	sent := r.flood()
	if err := restore(); err != nil {
		t.Fatal(err)
	}
	if n := pipes(t); n != r.pipes {
		t.Errorf("%d ends of pipes, %d before", n, r.pipes)
	}
	r.receive(sent)
}

// Pipes are bounded: bulk above that is copied. A pipe that is closed leaves room.
func TestBulkWithoutRoomForAPipe(t *testing.T) {
	pipesInUse := make(chan struct{}, 1)
	pipesInUse <- struct{}{}
	r := startFlow(t, &Relay{pipes: pipesInUse})
	for range 3 { // see spliced
		r.receive(r.flood())
	}
	sent := r.flood()
	if n := pipes(t); n != r.pipes {
		t.Errorf("%d ends of pipes, %d before", n, r.pipes)
	}
	r.receive(sent)
	<-pipesInUse
	sent = r.spliced()
	if len(pipesInUse) != 1 { // looked at while it is full: an idle one is given up
		t.Error("the pipe is not counted")
	}
	r.receive(sent)
}

// What breaks one side resets the other, whichever way the bytes went.
func TestResetIsPassedOn(t *testing.T) {
	for name, flood := range map[string]bool{"copied": false, "spliced": true} {
		t.Run(name, func(t *testing.T) {
			r := startFlow(t, new(Relay))
			if flood {
				r.receive(r.spliced())
			}
			if err := r.src.SetLinger(0); err != nil {
				t.Fatal(err)
			}
			r.src.Close()
			if err := <-r.ended; !errors.Is(err, ErrClient) {
				t.Errorf("ended with %v, want %v", err, ErrClient)
			}
			r.flow.to.Close() // as the session does
			if _, err := io.ReadAll(r.dst); !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("the other side met %v, want %v", err, syscall.ECONNRESET)
			}
		})
		t.Run(name+", backwards", func(t *testing.T) {
			r := startFlow(t, new(Relay))
			if flood {
				r.spliced() // and is blocked
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
			if err := <-r.ended; !errors.Is(err, ErrTarget) {
				t.Errorf("ended with %v, want %v", err, ErrTarget)
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
	r := startFlow(t, new(Relay))
	r.flow.from.Close()
	if err := <-r.ended; !errors.Is(err, net.ErrClosed) {
		t.Errorf("ended with %v, want %v", err, net.ErrClosed)
	}
	r.flow.to.Close()
	if b, err := io.ReadAll(r.dst); len(b) > 0 || err != nil {
		t.Errorf("the other side met %q, %v; want the end", b, err)
	}
}

// narrow returns two ends of a connection that takes little, in small segments:
// what is written goes in parts.
func narrow(t *testing.T) (near, far *net.TCPConn) {
	t.Helper()
	config := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		var err error
		return errors.Join(c.Control(func(fd uintptr) {
			err = errors.Join(unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_MAXSEG, 1400),
				unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF, 4096))
		}), err)
	}}
	ln, err := config.Listen(t.Context(), "tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	dialled, err := net.Dial("tcp4", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { dialled.Close() })
	accepted, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { accepted.Close() })
	near, far = dialled.(*net.TCPConn), accepted.(*net.TCPConn)
	if err := near.SetWriteBuffer(4096); err != nil {
		t.Fatal(err)
	}
	return near, far
}

// startNarrow starts a direction to such a connection, and sends what is too much
// for it and too little for a pipe.
func startNarrow(t *testing.T, o *Relay) *running {
	t.Helper()
	src, from := pair(t)
	to, dst := narrow(t)
	r := &running{t: t, src: src, dst: dst, ended: make(chan error, 1)}
	o.up = flow{relay: o, from: from, to: to, bytes: new(atomic.Int64)}
	r.flow = &o.up
	if _, err := src.Write(make([]byte, 2*bufferSize)); err != nil {
		t.Fatal(err)
	}
	r.start()
	waitBlocked(t, to, r.flow.bytes)
	return r
}

// A part of a buffer that has gone has moved, for timeout.io and for the counts,
// though the rest waits.
func TestPartOfABufferHasMoved(t *testing.T) {
	o := new(Relay)
	moved := new(idle.Stamp)
	o.idle.Start(time.Hour, moved, func() { t.Error("idle for an hour") })
	t.Cleanup(o.idle.Stop)
	began := time.Now()
	r := startNarrow(t, o)
	if n := r.flow.bytes.Load(); n >= bufferSize {
		t.Fatalf("%d bytes: the connection takes whole buffers", n)
	}
	if moved.Idle() >= time.Since(began) {
		t.Error("none has moved for timeout.io")
	}
}

// Whoever breaks the connection that is copied from is noticed while the copy is
// blocked.
func TestBrokenSourceOfABlockedCopy(t *testing.T) {
	t.Parallel()
	r := startNarrow(t, new(Relay))
	if err := r.src.SetLinger(0); err != nil {
		t.Fatal(err)
	}
	r.src.Close()
	select {
	case <-r.ended: //nolint:errcheck // the first error is the watch's
		if err := r.flow.relay.err; !errors.Is(err, ErrClient) {
			t.Errorf("ended with %v, want %v", err, ErrClient)
		}
	case <-time.After(patient):
		t.Error("nobody notices")
	}
}

// That both directions have ended breaks nothing: the rest is written.
func TestEndedSourceOfABlockedCopy(t *testing.T) {
	t.Parallel()
	r := startNarrow(t, new(Relay))
	r.flow.back().ended.Store(true)
	if err := errors.Join(r.flow.from.CloseWrite(), r.src.CloseWrite()); err != nil {
		t.Fatal(err)
	}
	<-time.After(2 * stuckAfter) // it is watched by then
	r.receive(make([]byte, 2*bufferSize))
	if b, err := io.ReadAll(r.dst); len(b) > 0 || err != nil {
		t.Errorf("%d bytes, %v; want the end", len(b), err)
	}
	if err := r.flow.relay.err; err != nil {
		t.Errorf("ended with %v", err)
	}
}
