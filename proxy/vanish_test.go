package proxy_test

import (
	"io"
	"net"
	"syscall"
	"testing"
	"time"

	"usher/deploy/need"
	"usher/proxy/socks"
)

// urgent sends one byte as urgent data.
func (c *client) urgent(b byte) {
	c.t.Helper()
	raw, err := c.SyscallConn()
	c.must(err)
	var failed error
	c.must(raw.Control(func(fd uintptr) { failed = syscall.Sendto(int(fd), []byte{b}, syscall.MSG_OOB, nil) }))
	c.must(failed)
}

// inline keeps urgent data of a connection in the stream.
func inline(t *testing.T, c *net.TCPConn) {
	t.Helper()
	raw, err := c.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var failed error
	if err := raw.Control(func(fd uintptr) {
		failed = syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_OOBINLINE, 1)
	}); err != nil || failed != nil {
		t.Fatal(err, failed)
	}
}

// No byte is lost that was sent as urgent data, such as an interrupt of telnet or ABOR
// of FTP, in either direction.
func TestUrgentByteIsRelayed(t *testing.T) {
	to := target(t, "tcp4", func(c *net.TCPConn) {
		inline(t, c)
		back := &client{t, c}
		back.send([]byte("ready "))
		b, err := io.ReadAll(c)
		if err != nil || string(b) != "abcXdef" {
			t.Errorf("the target read %q, %v", b, err)
		}
		back.send([]byte("uvw"))
		back.urgent('Y')
		back.send([]byte("xyz"))
	})
	w := newWorld(t, anybody)
	c := w.client()
	inline(t, c.TCPConn)
	c.connect(to, socks.Succeeded)
	c.expect([]byte("ready "))
	c.send([]byte("abc"))
	c.urgent('X')
	c.send([]byte("def"))
	c.must(c.CloseWrite())
	if b, err := io.ReadAll(c); err != nil || string(b) != "uvwYxyz" {
		t.Errorf("the client read %q, %v", b, err)
	}
	w.reason("done")
}

// The same for the peer of a BIND.
func TestUrgentByteOfPeer(t *testing.T) {
	w := newWorld(t, bindRules)
	c := w.client()
	inline(t, c.TCPConn)
	peer := dialFrom(t, "127.0.0.1", c.bind(socks.V5, socks.Addr{IP: loopback}))
	c.second(socks.V5, socks.Succeeded)
	peer.send([]byte("abc"))
	peer.urgent('X')
	peer.send([]byte("def"))
	peer.must(peer.CloseWrite())
	c.must(c.CloseWrite())
	if b, err := io.ReadAll(c); err != nil || string(b) != "abcXdef" {
		t.Errorf("the client read %q, %v", b, err)
	}
}

// A peer that resets its connection is gone, even if it had ended its direction before,
// or is a client whose data nobody reads, and the other side is silent. Usher neither
// reads nor writes there at that time. The session must end all the same, and return
// its slot.
func TestResetIsNoticedWhoeverIsSilent(t *testing.T) {
	t.Parallel()
	reset := func(c *net.TCPConn) {
		_ = c.SetLinger(0) // it fails if the other side was quicker, as below
		c.Close()
	}
	for name, c := range map[string]struct {
		target, client func(c *client, met, over chan struct{})
		reason         string
	}{
		"client, after its end": {
			func(c *client, met, over chan struct{}) {
				_, _ = io.Copy(io.Discard, struct{ io.Reader }{c})
				close(met)
				<-over
			},
			func(c *client, met, _ chan struct{}) {
				c.send([]byte("question"))
				c.must(c.CloseWrite())
				<-met
				reset(c.TCPConn)
			}, "client_error",
		},
		"client, while the target does not read": {
			func(_ *client, _, over chan struct{}) { <-over },
			func(c *client, _, _ chan struct{}) {
				c.flood()
				reset(c.TCPConn)
			}, "client_error",
		},
		"target, after its end": {
			func(c *client, met, _ chan struct{}) {
				_ = c.CloseWrite()
				<-met
				reset(c.TCPConn)
			},
			func(c *client, met, _ chan struct{}) {
				if b, err := io.ReadAll(c); len(b) > 0 || err != nil {
					t.Errorf("%q, %v; want the end", b, err)
				}
				close(met)
			}, "target_error",
		},
	} {
		t.Run(name, func(t *testing.T) {
			met, over := make(chan struct{}), make(chan struct{})
			to := target(t, "tcp4", func(conn *net.TCPConn) { c.target(&client{t, conn}, met, over) })
			w := newWorld(t, oneAtATime)
			t.Cleanup(func() { close(over) })
			one := w.client()
			one.connect(to, socks.Succeeded)
			c.client(one, met, over)
			w.reason(c.reason)
		})
	}
}

// A slow client still gets what its target sent before a reset, as far as it had
// arrived: the client's connection breaks only after that.
func TestSlowClientOfATargetThatBreaksOff(t *testing.T) {
	need.Seconds(t)
	t.Parallel()
	gone := make(chan struct{})
	to := target(t, "tcp4", func(c *net.TCPConn) {
		defer close(gone)
		(&client{t, c}).flood()
		_ = c.SetLinger(0)
		c.Close()
	})
	w := newWorld(t, anybody)
	c := w.client()
	c.must(c.SetReadBuffer(64 << 10)) // so that nearly all is still in the relay
	c.connect(to, socks.Succeeded)
	<-gone
	<-time.After(2 * time.Second) // nobody who watches the target is quicker than the client
	got := 0
	for b := make([]byte, 256<<10); ; {
		n, err := c.Read(b)
		if got += n; err != nil {
			break
		}
	}
	if got < 1<<20 {
		t.Errorf("%d bytes, want what was on its way", got)
	}
	w.reason("target_error")
}

// flood sends until nothing more goes through for a while. A single pause may mean a
// busy machine.
func (c *client) flood() {
	c.t.Helper()
	for still := 0; still < 3; {
		c.must(c.SetWriteDeadline(time.Now().Add(300 * time.Millisecond)))
		still++
		if n, _ := c.Write(make([]byte, 256<<10)); n > 0 {
			still = 0
		}
	}
}
