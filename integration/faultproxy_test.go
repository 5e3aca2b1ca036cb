package integration

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"sync"
	"testing"
	"time"
)

// faultKind is what a fault proxy does to one request to the store.
type faultKind int

const (
	pass        faultKind = iota
	cutBefore             // the connection ends, the store does not receive the request
	cutAfter              // the request is executed, its reply is lost
	late                  // the client side is cut at once, the request arrives long after
	lateByOther           // the same, over another connection than the client's own
	blackHole             // nothing arrives any more, in either direction; the connections stay open
	delayed               // it arrives late, to a client that may have given up
	faultKinds
)

func (k faultKind) String() string {
	return [...]string{"pass", "cut before", "cut after", "late", "late by another", "black hole", "delay"}[k]
}

// mix is the probability of each fault, drawn again for each request.
type mix [faultKinds]float64

func only(k faultKind, probability float64) (m mix) {
	m[k] = probability
	return m
}

// partition loses everything in both directions.
var partition = only(blackHole, 1)

// Bounds of the delay of late requests: longer than the time limit of a request at the
// TTL of these tests, and shorter than the lease deadline.
const leastLate, mostLate = 20 * time.Millisecond, 500 * time.Millisecond

// faultProxy stands between one replica and its store and does to its requests what
// networks do. It takes the bytes of one read as one request, because the client has
// one request in flight.
type faultProxy struct {
	t        testing.TB
	addr     string
	upstream string
	ln       net.Listener
	running  sync.WaitGroup
	over     chan struct{} // closed at the end of the test

	mu    sync.Mutex
	rand  *rand.Rand
	mix   mix
	did   [faultKinds]int
	links map[net.Conn]struct{} // both sides of all links
}

// startFaultProxy starts a proxy that passes everything on, until set is called.
func startFaultProxy(t testing.TB, upstream string, seed uint64) *faultProxy {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &faultProxy{
		t: t, addr: ln.Addr().String(), upstream: upstream, ln: ln, over: make(chan struct{}),
		rand: rand.New(rand.NewPCG(seed, 1)), links: map[net.Conn]struct{}{},
	}
	p.running.Go(p.accept)
	t.Cleanup(p.close)
	return p
}

func (p *faultProxy) close() {
	close(p.over)
	p.ln.Close()
	p.cutAll()
	p.running.Wait()
}

// url returns the store's address for the replica.
func (p *faultProxy) url() string { return "redis://" + p.addr + "/0" }

// set chooses what happens to requests from now on. What a black hole has swallowed
// before stays lost, and its client dials again.
func (p *faultProxy) set(m mix) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.mix = m
}

// counts returns how often each fault happened so far.
func (p *faultProxy) counts() [faultKinds]int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.did
}

// cutAll ends all connections.
func (p *faultProxy) cutAll() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.links {
		c.Close()
	}
}

// decide draws the fault for one request.
func (p *faultProxy) decide() (k faultKind, after time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	roll := p.rand.Float64()
	after = leastLate + time.Duration(p.rand.Int64N(int64(mostLate-leastLate)))
	for i, share := range p.mix {
		if roll -= share; roll < 0 {
			k = faultKind(i)
			break
		}
	}
	p.did[k]++
	return k, after
}

func (p *faultProxy) add(c net.Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.links[c] = struct{}{}
	select {
	case <-p.over:
		c.Close()
	default:
	}
}

func (p *faultProxy) remove(c net.Conn) {
	c.Close()
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.links, c)
}

func (p *faultProxy) dial() (net.Conn, error) {
	c, err := net.DialTimeout("tcp", p.upstream, patience)
	if err == nil {
		p.add(c)
	}
	return c, err
}

func (p *faultProxy) accept() {
	for {
		c, err := p.ln.Accept()
		if err != nil {
			if !errors.Is(err, net.ErrClosed) {
				p.t.Errorf("fault proxy: %v", err)
			}
			return
		}
		p.add(c)
		p.running.Go(func() { p.serve(c) })
	}
}

// link is a connection of the client, and the connection to the store for it.
type link struct {
	*faultProxy
	client, server net.Conn

	mu      sync.Mutex
	swallow bool // replies
	cutNext bool // the client side ends in the place of the next reply
}

func (p *faultProxy) serve(client net.Conn) {
	defer p.remove(client)
	server, err := p.dial()
	if err != nil {
		return // as if the store had refused
	}
	l := &link{faultProxy: p, client: client, server: server}
	var replies sync.WaitGroup
	replies.Go(l.replies)
	l.requests()
	p.remove(server)
	replies.Wait()
}

// requests handles requests one by one until the link ends.
func (l *link) requests() {
	buf := make([]byte, 1<<20)
	for {
		n, err := l.client.Read(buf)
		if err != nil {
			return
		}
		if !l.request(buf[:n]) {
			return
		}
	}
}

// request handles one request and reports whether the link goes on.
func (l *link) request(b []byte) bool {
	kind, after := l.decide()
	switch kind {
	case cutBefore:
		return false
	case cutAfter:
		l.mark(&l.cutNext)
	case late:
		l.client.Close()
		l.mark(&l.swallow)
		l.pause(after)
		if _, err := l.server.Write(b); err == nil {
			l.awaitReply(l.server)
		}
		return false
	case lateByOther:
		request := append([]byte(nil), b...)
		l.running.Go(func() { l.deliver(request, after) })
		return false
	case blackHole:
		l.mark(&l.swallow)
		io.Copy(io.Discard, l.client) //nolint:errcheck // until the client gives up
		return false
	case delayed:
		l.pause(after)
	}
	_, err := l.server.Write(b)
	return err == nil
}

// deliver sends a request over a new connection, long after its client has given up.
func (l *link) deliver(request []byte, after time.Duration) {
	l.pause(after)
	c, err := l.dial()
	if err != nil {
		return
	}
	defer l.remove(c)
	if _, err := c.Write(request); err == nil {
		l.awaitReply(c)
	}
}

// awaitReply waits until the store has executed what it received. If a connection
// closes, the store may drop what it has not read yet.
func (l *link) awaitReply(c net.Conn) {
	c.SetReadDeadline(time.Now().Add(mostLate)) //nolint:errcheck // of an open connection
	c.Read(make([]byte, 1))                     //nolint:errcheck // or the connection ended
}

func (l *link) mark(flag *bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	*flag = true
	// The goroutine that reads replies stops, and looks at the marks first.
	if flag == &l.swallow {
		l.server.SetReadDeadline(time.Now()) //nolint:errcheck // of an open connection
	}
}

func (l *link) marks() (swallow, cutNext bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.swallow, l.cutNext
}

func (l *link) pause(d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-l.over:
	}
}

// replies passes the answers of the store on, until the link ends or a fault takes the
// replies.
func (l *link) replies() {
	buf := make([]byte, 1<<20)
	for {
		n, err := l.server.Read(buf)
		swallow, cutNext := l.marks()
		if swallow {
			return
		}
		if err == nil && !cutNext {
			_, err = l.client.Write(buf[:n])
		}
		if err != nil || cutNext {
			l.client.Close() // which ends requests
			return
		}
	}
}

// startRecorder starts a server that answers everything it receives, and reports it.
func startRecorder(t testing.TB) (addr string, arrived chan string) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	arrived = make(chan string, 4)
	var running sync.WaitGroup
	serve := func(c net.Conn) {
		defer c.Close()
		buf := make([]byte, 64)
		for {
			n, err := c.Read(buf)
			if err != nil {
				return
			}
			arrived <- string(buf[:n])
			fmt.Fprint(c, "yes")
		}
	}
	running.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			running.Go(func() { serve(c) })
		}
	})
	t.Cleanup(func() { ln.Close(); running.Wait() })
	return ln.Addr().String(), arrived
}

// TestFaultProxy shows that each fault does what its name says. The store does not
// receive a request that is cut before it, receives one that is cut after it, and
// receives a late one late.
func TestFaultProxy(t *testing.T) {
	for kind := pass; kind < faultKinds; kind++ {
		t.Run(kind.String(), func(t *testing.T) {
			addr, arrived := startRecorder(t)
			p := startFaultProxy(t, addr, 1)
			p.set(only(kind, 1))
			c, err := net.Dial("tcp", p.addr)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			fmt.Fprint(c, "please")
			c.SetReadDeadline(time.Now().Add(2 * mostLate)) //nolint:errcheck // of an open connection
			n, err := c.Read(make([]byte, 64))
			if got, want := n > 0, kind == pass || kind == delayed; got != want {
				t.Errorf("a reply: %v (%v), want %v", got, err, want)
			}
			if got, want := errors.Is(err, os.ErrDeadlineExceeded), kind == blackHole; got != want {
				t.Errorf("silence: %v (%v), want %v", got, err, want)
			}
			got := false
			select {
			case <-arrived:
				got = true
			case <-time.After(2 * mostLate):
			}
			if want := kind != cutBefore && kind != blackHole; got != want {
				t.Errorf("the request arrived: %v, want %v", got, want)
			}
			if did := p.counts(); did[kind] == 0 {
				t.Errorf("counted %v", did)
			}
		})
	}
}
