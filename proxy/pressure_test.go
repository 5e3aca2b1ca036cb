package proxy_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"sync"
	"testing"

	"usher/proxy"
	"usher/proxy/socks"
)

// sendForever sends until the connection ends, and reads nothing.
func sendForever(c io.Writer) {
	chunk := make([]byte, 64<<10)
	for {
		if _, err := c.Write(chunk); err != nil {
			return
		}
	}
}

// When the kernel buffers too much, Usher ends sessions of the source that takes most,
// with a reason. The session of another client relays meanwhile.
func TestGuardMemory(t *testing.T) {
	const bound, stalled = 8 << 20, 24 // more than 256 KiB each, even where buffers are small
	to, mute := echo(t), target(t, "tcp4", func(c *net.TCPConn) { sendForever(c) })
	w := newWorld(t, anybody, func(o *proxy.Options, _ *proxy.Policy) { o.MaxBuffered = bound })
	ctx, stop := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { w.server.GuardMemory(ctx) })
	t.Cleanup(func() { stop(); running.Wait() })

	honest := w.asks("127.0.0.9", socks.Request{Command: socks.Connect, Addr: to})
	if code := honest.code(); code != socks.Succeeded {
		t.Fatalf("code %d", code)
	}
	for range stalled {
		c := w.asks("127.0.0.1", socks.Request{Command: socks.Connect, Addr: mute})
		if code := c.code(); code != socks.Succeeded {
			t.Fatalf("code %d", code)
		}
		t.Cleanup(c.Close)
		running.Go(func() { sendForever(c) })
	}
	eventually(t, func() string {
		if n := w.metric("usher_clients_turned_away_total", "reason", "memory"); n == 0 {
			return fmt.Sprintf("%v sessions are ended", n)
		}
		return ""
	})
	text := bytes.Repeat([]byte("honest"), 20000)
	running.Go(func() { honest.try(text) })
	honest.expect(text)
	honest.Close()
	w.endedFor("buffered")
}

// endedFor waits for a session that ended with this reason.
func (w *world) endedFor(reason string) {
	w.t.Helper()
	eventually(w.t, func() string {
		w.log.mu.Lock()
		defer w.log.mu.Unlock()
		for _, line := range w.log.lines {
			if line["msg"] == "session ended" && line["reason"] == reason {
				return ""
			}
		}
		return "no session ended for the reason " + reason
	})
}
