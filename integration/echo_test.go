package integration

import (
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"testing"
)

// echo is a target that sends back what it gets, and knows how many
// connections it has: the truth about a limit.
type echo struct {
	addr netip.AddrPort

	mu    sync.Mutex
	conns map[net.Conn]netip.AddrPort // open ones, and where they come from
	peak  int
}

func startEcho(t testing.TB) *echo {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	e := &echo{addr: ln.Addr().(*net.TCPAddr).AddrPort(), conns: map[net.Conn]netip.AddrPort{}}
	var running sync.WaitGroup
	running.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			e.add(c)
			running.Go(func() {
				defer e.remove(c)
				io.Copy(c, c) //nolint:errcheck // the connection ended, one way or another
			})
		}
	})
	t.Cleanup(func() {
		ln.Close()
		e.closeAll()
		running.Wait()
	})
	return e
}

func (e *echo) add(c net.Conn) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.conns[c] = c.RemoteAddr().(*net.TCPAddr).AddrPort()
	e.peak = max(e.peak, len(e.conns))
}

func (e *echo) remove(c net.Conn) {
	c.Close()
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.conns, c)
}

func (e *echo) closeAll() {
	e.mu.Lock()
	defer e.mu.Unlock()
	for c := range e.conns {
		c.Close()
	}
}

// sources returns the addresses that the open connections come from.
func (e *echo) sources() []netip.Addr {
	e.mu.Lock()
	defer e.mu.Unlock()
	var all []netip.Addr
	for _, from := range e.conns {
		all = append(all, from.Addr())
	}
	return all
}

// open returns the number of connections now, and the most at a time so far.
func (e *echo) open() (now, peak int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	return len(e.conns), e.peak
}

// endpoint returns how clients and rules name the target.
func (e *echo) endpoint() endpoint { return endpoint{e.addr.Addr().String(), int(e.addr.Port())} }

// endpoint is a target as the proxy reaches it.
type endpoint struct {
	host string // an IPv4 address or a name
	port int
}

// String returns host:port, for clients.
func (e endpoint) String() string { return fmt.Sprintf("%s:%d", e.host, e.port) }

// to returns the rule file's address for the endpoint.
func (e endpoint) to() string {
	host := e.host
	if _, err := netip.ParseAddr(host); err == nil {
		host += "/32"
	}
	return fmt.Sprintf("%s port = %d", host, e.port)
}
