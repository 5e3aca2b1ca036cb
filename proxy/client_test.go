package proxy_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"testing"
	"time"

	"usher/deploy/need"
	"usher/proxy"
	"usher/proxy/socks"
)

// client is a connection to a server under test, with a deadline.
type client struct {
	t *testing.T
	*net.TCPConn
}

func (w *world) client() *client {
	w.t.Helper()
	return w.clientAt("127.0.0.1")
}

// clientAt returns a client at an address of the loopback network.
func (w *world) clientAt(from string) *client {
	w.t.Helper()
	dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}
	conn, err := dialer.DialContext(w.t.Context(), "tcp", w.addr)
	if err != nil {
		w.t.Fatal(err)
	}
	c := &client{w.t, conn.(*net.TCPConn)}
	c.must(c.SetDeadline(time.Now().Add(patience)))
	w.t.Cleanup(c.Close)
	return c
}

// Close closes the connection. It may be closed already.
func (c *client) Close() { _ = c.TCPConn.Close() }

// try sends something that the server may not read any more.
func (c *client) try(b []byte) { _, _ = c.Write(b) }

// trickle sends first, and then single bytes, until stop is called. stop waits for the
// end of this.
func (c *client) trickle(first []byte, again byte) (stop func()) {
	over, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		c.try(first)
		tick := time.NewTicker(50 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				c.try([]byte{again})
			case <-over:
				return
			}
		}
	}()
	return func() { close(over); <-ended }
}

func (c *client) must(err error) {
	c.t.Helper()
	if err != nil {
		c.t.Fatal(err)
	}
}

func (c *client) send(b []byte) {
	c.t.Helper()
	_, err := c.Write(b)
	c.must(err)
}

// expect reads exactly these bytes.
func (c *client) expect(want []byte) {
	c.t.Helper()
	got := make([]byte, len(want))
	n, err := io.ReadFull(c, got)
	if err != nil || !bytes.Equal(got, want) {
		c.t.Fatalf("read %q, %v; want %q", got[:n], err, want)
	}
}

// skip reads n bytes that the test cannot know.
func (c *client) skip(n int64) {
	c.t.Helper()
	_, err := io.CopyN(io.Discard, c, n)
	c.must(err)
}

// closed checks that the server closes without another byte, and closes too.
func (c *client) closed() {
	c.t.Helper()
	b, err := io.ReadAll(c)
	if len(b) > 0 || err != nil && !errors.Is(err, syscall.ECONNRESET) {
		c.t.Fatalf("%q, %v; want the end", b, err)
	}
	c.Close()
}

// request negotiates without a password and sends a request.
func (c *client) request(q socks.Request) socks.Reply {
	c.t.Helper()
	if q.Command == 0 {
		q.Command = socks.Connect
	}
	if q.Version == 0 {
		q.Version = socks.V5
		c.must(socks.WriteGreeting(c, socks.NoAuth))
		c.expect([]byte{5, 0})
	}
	c.must(socks.WriteRequest(c, q))
	reply, err := socks.ReadReply(c, q.Version)
	c.must(err)
	return reply
}

// connect asks for a and expects this reply code.
func (c *client) connect(a socks.Addr, want socks.Code) socks.Reply {
	c.t.Helper()
	reply := c.request(socks.Request{Addr: a})
	if reply.Code != want {
		c.t.Fatalf("%v: reply %d, want %d", a, reply.Code, want)
	}
	if want != socks.Succeeded {
		c.closed()
	}
	return reply
}

// echoes checks that what the client sends comes back.
func (c *client) echoes(text string) {
	c.t.Helper()
	c.send([]byte(text))
	c.expect([]byte(text))
}

// target serves every connection with handle until the test ends.
func target(t *testing.T, network string, handle func(*net.TCPConn)) socks.Addr {
	t.Helper()
	if network == "tcp6" {
		return targetAt(t, "[::1]:0", handle)
	}
	return targetAt(t, "127.0.0.1:0", handle)
}

func targetAt(t *testing.T, address string, handle func(*net.TCPConn)) socks.Addr {
	t.Helper()
	ln, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	return targetOn(t, ln, handle)
}

func targetOn(t *testing.T, ln net.Listener, handle func(*net.TCPConn)) socks.Addr {
	t.Helper()
	var conns sync.WaitGroup
	conns.Go(func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			conns.Go(func() {
				defer conn.Close()
				if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
					t.Error(err)
				}
				handle(conn.(*net.TCPConn))
			})
		}
	})
	t.Cleanup(func() {
		ln.Close()
		conns.Wait()
	})
	return socks.AddrOf(ln.Addr().(*net.TCPAddr).AddrPort())
}

// echo sends back what it gets, and ends when its peer ends.
func echo(t *testing.T) socks.Addr {
	t.Helper()
	return target(t, "tcp4", echoing)
}

// echoing hides the type of c from the relay. Splicing would keep the descriptors of a
// pipe.
func echoing(c *net.TCPConn) { _, _ = io.Copy(struct{ io.Writer }{c}, struct{ io.Reader }{c}) }

// names is a resolver without a network.
type names map[string][]netip.Addr

func (n names) LookupNetIP(_ context.Context, _, host string) ([]netip.Addr, error) {
	if addrs := n[host]; addrs != nil {
		return addrs, nil
	}
	return nil, &net.DNSError{Err: "no such host", Name: host, IsNotFound: true}
}

func withNames(n names) setup { return func(o *proxy.Options, _ *proxy.Policy) { o.Resolver = n } }

// blackhole returns an address whose connections are neither accepted nor
// refused: its queue is full.
func blackhole(t *testing.T) socks.Addr {
	t.Helper()
	addr, _ := closingHole(t)
	return addr
}

// closingHole returns a blackhole, and a function that closes it, so that nobody
// listens there.
func closingHole(t *testing.T) (hole socks.Addr, free func()) {
	t.Helper()
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	free = sync.OnceFunc(func() { _ = syscall.Close(fd) })
	t.Cleanup(free)
	port := need.Port(t) // which is nobody else's when it is free
	if err := errors.Join(syscall.Bind(fd, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}, Port: port}), syscall.Listen(fd, 0)); err != nil {
		t.Fatal(err)
	}
	addr := netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), uint16(port))
	for i := range 8 {
		conn, err := net.DialTimeout("tcp", addr.String(), 200*time.Millisecond)
		switch {
		case err != nil && i > 0:
			return socks.AddrOf(addr), free
		case err != nil: // it has room for one, so it is the machine that is busy
			continue
		}
		t.Cleanup(func() { conn.Close() })
	}
	t.Fatal("the queue does not fill")
	return socks.Addr{}, free
}

// refused returns an address where nobody listens.
func refused(t *testing.T) socks.Addr {
	t.Helper()
	return socks.Addr{IP: netip.MustParseAddr("127.0.0.1"), Port: uint16(need.Port(t))}
}
