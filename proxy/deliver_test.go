package proxy_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"testing"
	"time"

	"usher/proxy"
	"usher/proxy/socks"
)

// fillAndEnd lets a client send to a target that reads nothing, until all buffers are
// full. Then both end their direction, the target first or last. It returns the
// target's end and how much was sent.
func fillAndEnd(t *testing.T, w *world, targetFirst bool) (target *net.TCPConn, c *client, sent int64) {
	t.Helper()
	ln, err := net.ListenTCP("tcp", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	c = w.asks("127.0.0.1", socks.Request{Command: socks.Connect, Addr: socks.AddrOf(ln.Addr().(*net.TCPAddr).AddrPort())})
	if code := c.code(); code != socks.Succeeded {
		t.Fatalf("code %d", code)
	}
	if target, err = ln.AcceptTCP(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { target.Close() })
	for sent < 2<<20 { // less than what the kernel takes at most: all of it is on its way when the client ends
		c.must(c.SetWriteDeadline(time.Now().Add(time.Second)))
		n, err := c.Write(make([]byte, 64<<10))
		sent += int64(n)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			break
		}
		c.must(err)
	}
	if targetFirst {
		c.must(target.CloseWrite())
		if _, err := io.Copy(io.Discard, c); err != nil {
			t.Fatal(err)
		}
		c.must(c.CloseWrite())
	} else {
		c.must(c.CloseWrite())
		c.must(target.CloseWrite())
	}
	return target, c, sent
}

// A session lasts until the kernel has sent everything, and nothing is lost.
func TestSessionLastsUntilDelivered(t *testing.T) {
	for _, targetFirst := range []bool{true, false} {
		t.Run(fmt.Sprintf("target first %v", targetFirst), func(t *testing.T) {
			w := newWorld(t, anybody, func(o *proxy.Options, _ *proxy.Policy) { o.MaxSessions = 9 })
			target, c, sent := fillAndEnd(t, w, targetFirst)
			if !targetFirst { // the end of the target comes through while the session lasts
				if n, err := io.Copy(io.Discard, c); n != 0 || err != nil {
					t.Errorf("%d bytes, %v", n, err)
				}
			}
			c.Close()
			if w.server.Places() != 1 {
				t.Error("the session has ended with much to send")
			}
			got, err := io.Copy(io.Discard, target)
			if got != sent || err != nil {
				t.Errorf("the target gets %d of %d bytes, %v", got, sent, err)
			}
			w.reason("done")
		})
	}
}

// GuardMemory also ends sessions whose both directions have ended and that still have
// much to send.
func TestGuardMemoryOfEndedSessions(t *testing.T) {
	w := newWorld(t, anybody, func(o *proxy.Options, _ *proxy.Policy) { o.MaxBuffered = 1 << 20 })
	fillAndEnd(t, w, true)
	ctx, stop := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { w.server.GuardMemory(ctx) })
	w.endedFor("buffered")
	stop()
	running.Wait()
}

// If a session is cut while there is much to send, the rest is dropped: the connection
// does not outlive the slot.
func TestCutForgetsMuch(t *testing.T) {
	w := newWorld(t, anybody)
	target, _, sent := fillAndEnd(t, w, true)
	over, cancel := context.WithCancel(t.Context())
	cancel()
	if cut := w.server.Drain(over); cut.Sessions != 1 {
		t.Errorf("%d sessions are cut, want 1", cut.Sessions)
	}
	if n, err := io.Copy(io.Discard, target); n >= sent || !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the target gets %d of %d bytes, %v, want a reset", n, sent, err)
	}
	w.reason("drain")
}
