package proxy_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"usher/deploy/need"
	"usher/limiter"
	"usher/proxy"
	"usher/proxy/socks"
	"usher/store"
	"usher/store/memstore"
)

// The client ends its direction and still gets the whole answer.
func TestClientHalfCloses(t *testing.T) {
	answer := bytes.Repeat([]byte("answer "), 100_000)
	to := target(t, "tcp4", func(c *net.TCPConn) {
		question, err := io.ReadAll(c)
		if err != nil || string(question) != "question" {
			t.Errorf("target read %q, %v", question, err)
		}
		if _, err := c.Write(answer); err != nil {
			t.Error(err)
		}
	})
	w := newWorld(t, anybody)
	c := w.client()
	c.connect(to, socks.Succeeded)
	c.send([]byte("question"))
	c.must(c.CloseWrite())
	got, err := io.ReadAll(c)
	if err != nil || !bytes.Equal(got, answer) {
		t.Errorf("got %d bytes, %v; want %d", len(got), err, len(answer))
	}
	w.reason("done")
}

// If the target ends its direction, it still gets everything that the client sends.
func TestTargetHalfCloses(t *testing.T) {
	const text = "sent after the end"
	got := make(chan string, 1)
	to := target(t, "tcp4", func(c *net.TCPConn) {
		if err := c.CloseWrite(); err != nil {
			t.Error(err)
		}
		b, _ := io.ReadAll(c)
		got <- string(b)
	})
	w := newWorld(t, anybody)
	c := w.client()
	c.connect(to, socks.Succeeded)
	if b, err := io.ReadAll(c); len(b) > 0 || err != nil {
		t.Fatalf("%q, %v; want the end", b, err)
	}
	c.send([]byte(text))
	c.must(c.CloseWrite())
	if b := <-got; b != text {
		t.Errorf("target read %q", b)
	}
	w.reason("done")
}

// Much data in both directions at once arrives complete, even if socket buffers are
// full.
func TestBulkBothWays(t *testing.T) {
	to := echo(t)
	w := newWorld(t, anybody)
	c := w.client()
	c.connect(to, socks.Succeeded)
	sent := make([]byte, 8<<20)
	random := rand.NewChaCha8([32]byte{7})
	_, _ = random.Read(sent) // never fails
	go func() {
		c.try(sent)
		_ = c.CloseWrite() // what is missing shows below
	}()
	got, err := io.ReadAll(c)
	if err != nil || !bytes.Equal(got, sent) {
		t.Fatalf("%d of %d bytes came back, or others: %v", len(got), len(sent), err)
	}
	line := w.reason("done")
	if line["bytes_up"] != float64(len(sent)) || line["bytes_down"] != float64(len(sent)) {
		t.Errorf("log %v", line)
	}
}

func TestResetEndsBothSides(t *testing.T) {
	over := make(chan struct{})
	to := target(t, "tcp4", func(c *net.TCPConn) {
		_, _ = io.ReadAll(c) // an end or a reset
		close(over)
	})
	w := newWorld(t, anybody)
	c := w.client()
	c.connect(to, socks.Succeeded)
	c.must(c.SetLinger(0))
	c.Close()
	<-over
	w.reason("client_error")
	w.left("", 0)
}

// A session without any data for timeout.io ends. One with data does not.
func TestIdle(t *testing.T) {
	need.Seconds(t)
	to := echo(t)
	w := newWorld(t, "timeout.io: 4\nclient pass { from: 0/0 to: 0/0 }\nsocks pass { from: 0/0 to: 0/0\n session.max: 9 }\n")
	c := w.client()
	c.connect(to, socks.Succeeded)
	began, idle := time.Now(), time.Time{}
	tick := time.NewTicker(300 * time.Millisecond)
	defer tick.Stop()
	for time.Since(began) < 4500*time.Millisecond {
		<-tick.C
		idle = time.Now() // or later
		c.echoes("busy")
	}
	c.closed()
	if took := time.Since(idle); took < 4*time.Second {
		t.Errorf("ended after %v idle, before the 4s", took)
	}
	w.reason("idle")
	w.left("s1", 9)
}

// A rule's own idle time counts, whatever that of the settings is.
func TestIdleByRule(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "timeout.io: 3600\nclient pass { from: 0/0 to: 0/0 }\nsocks pass { from: 0/0 to: 0/0\n timeout.io: 1 }\n")
	c := w.client()
	c.connect(echo(t), socks.Succeeded)
	c.closed()
	w.reason("idle")
}

// leased is a store in memory that has leases, and can be cut off.
type leased struct {
	*memstore.Store
	cut atomic.Bool
}

func (*leased) Leased() bool { return true }

func (l *leased) Dial(ctx context.Context, shard int) (store.Conn, error) {
	if l.cut.Load() {
		return nil, errCut
	}
	conn, err := l.Store.Dial(ctx, shard)
	return cuttable{conn, &l.cut}, err
}

type cuttable struct {
	store.Conn
	cut *atomic.Bool
}

var errCut = errors.New("cut off")

func (c cuttable) Batch(ctx context.Context, b store.Batch) (store.BatchReply, error) {
	if c.cut.Load() {
		return store.BatchReply{}, errCut
	}
	return c.Conn.Batch(ctx, b)
}

// losable adds a strict limiter that loses its lease when its store is cut off. Until
// then, the lease is long enough for a busy machine to renew it in time.
func losable(t *testing.T) (*leased, setup) {
	t.Helper()
	st := &leased{Store: memstore.New()}
	strict := limiter.New(limiter.Options{Store: st, TTL: 6 * time.Second, StoreWait: patience, Strict: true})
	t.Cleanup(func() {
		over, cancel := context.WithCancel(context.Background())
		cancel()
		_ = strict.Close(over) // it cannot: the store is cut off
	})
	return st, func(o *proxy.Options, _ *proxy.Policy) { o.Limiter = strict }
}

// In strict mode, a session with a limit ends when the lease is lost, even if it is
// idle. Sessions without a limit continue.
func TestLostLeaseEndsSessions(t *testing.T) {
	need.Seconds(t)
	t.Parallel()
	to := echo(t)
	st, strict := losable(t)
	w := newWorld(t, `
client pass { from: 0/0 to: 0/0 }
socks pass { from: 0/0 to: localhost
	session.max: 1 }
socks pass { from: 0/0 to: 0/0 }
`, withNames(names{"localhost": {netip.MustParseAddr("127.0.0.2")}}), // so that a rule tells names from addresses
		strict)
	listener := targetAt(t, "127.0.0.2:0", echoing)
	limited, free := w.client(), w.client()
	limited.connect(socks.Addr{Name: "localhost", Port: listener.Port}, socks.Succeeded)
	limited.echoes("hello")
	free.connect(to, socks.Succeeded)
	st.cut.Store(true)
	limited.closed()
	if line := w.reason("lease_lost"); line["rule"] != "s1" {
		t.Errorf("log %v", line)
	}
	free.echoes("still here")
}

// The same for a client that negotiates with a slot of its client-rule.
func TestLostLeaseEndsNegotiations(t *testing.T) {
	need.Seconds(t)
	t.Parallel()
	st, strict := losable(t)
	w := newWorld(t, "timeout.negotiate: 3600\nclient pass { from: 0/0 to: 0/0\n session.max: 1\n session.inheritable: yes }\n"+
		"socks pass { from: 0/0 to: 0/0 }\n", strict)
	c := w.client()
	c.must(socks.WriteGreeting(c, socks.NoAuth))
	c.expect([]byte{5, 0})
	st.cut.Store(true)
	c.closed()
	if line := w.reason("lease_lost"); line["client_rule"] != "c1" || line["command"] != nil {
		t.Errorf("log %v", line)
	}
}

// An idle connected session has two goroutines and two descriptors, whatever watches
// it.
func TestIdleSessionIsSmall(t *testing.T) {
	need.Seconds(t)
	accepted := make(chan *net.TCPConn, 1)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(accepted)
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			accepted <- conn.(*net.TCPConn)
		}
	}()
	st := &leased{Store: memstore.New()}
	strict := limiter.New(limiter.Options{Store: st, TTL: 6 * time.Second, StoreWait: patience, Strict: true})
	t.Cleanup(func() {
		over, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := strict.Close(over); err != nil {
			t.Error(err)
		}
	})
	w := newWorld(t, "timeout.io: 3600\nclient pass { from: 0/0 to: 0/0 }\nsocks pass { from: 0/0 to: 0/0\n session.max: 99 }\n",
		func(o *proxy.Options, _ *proxy.Policy) { o.Limiter = strict })
	const sessions = 20
	running, open := goroutines(), descriptors(t)
	for range sessions {
		c := w.client()
		c.connect(socks.AddrOf(ln.Addr().(*net.TCPAddr).AddrPort()), socks.Succeeded)
		far := <-accepted
		t.Cleanup(func() { far.Close() })
	}
	eventually(t, func() string {
		if n := len(goroutines().since(running)); n != 2*sessions {
			return fmt.Sprintf("%d goroutines for %d sessions", n, sessions)
		}
		return ""
	})
	if n := len(descriptors(t).since(open)); n != 4*sessions { // the client's and the target's ends are here, too
		t.Errorf("%d descriptors for %d sessions with both far ends", n, sessions)
	}
	ln.Close()
	<-accepted
}

// TestResetWhileTheOtherWayIsBusy: the system reports a reset once, possibly to a write
// in the other direction. Even so, the target must not see a normal end, because data
// may be missing.
func TestResetWhileTheOtherWayIsBusy(t *testing.T) {
	t.Parallel()
	full, over := make(chan struct{}), make(chan error)
	to := target(t, "tcp4", func(c *net.TCPConn) {
		for wrote := 1; wrote > 0; { // until nothing more fits: then it is the server that writes
			_ = c.SetWriteDeadline(time.Now().Add(50 * time.Millisecond))
			wrote, _ = c.Write(make([]byte, 64<<10))
		}
		full <- struct{}{}
		_, err := io.Copy(io.Discard, struct{ io.Reader }{c})
		over <- err
	})
	w := newWorld(t, anybody)
	for range 5 {
		c := w.client()
		c.connect(to, socks.Succeeded)
		c.send([]byte("not all"))
		<-full
		c.must(c.SetLinger(0))
		c.Close()
		if err := <-over; !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("the target got %v, want a reset", err)
		}
	}
}
