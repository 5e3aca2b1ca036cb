package proxy_test

import (
	"bytes"
	"context"
	"net/netip"
	"strings"
	"testing"
	"time"

	"usher/limiter"
	"usher/proxy"
	"usher/proxy/socks"
	"usher/store/memstore"
)

const oneAtATime = `
client pass { from: 0/0 to: 0/0
	session.max: 2 }
socks pass { from: 0/0 to: 0/0
	session.max: 1 }
`

// If a client leaves while its target does not answer, its slot is free at once,
// whether it closes or resets.
func TestHangUpWhileDialling(t *testing.T) {
	hole := blackhole(t)
	for _, reset := range []bool{false, true} {
		w := newWorld(t, oneAtATime)
		c := w.client()
		c.must(socks.WriteGreeting(c, socks.NoAuth))
		c.expect([]byte{5, 0})
		c.must(socks.WriteRequest(c, socks.Request{Version: socks.V5, Command: socks.Connect, Addr: hole}))
		w.hold("s1", 1)
		if reset {
			c.must(c.SetLinger(0))
		}
		c.Close()
		w.left("s1", 1)
		w.reason("client_gone")
	}
}

// A client that leaves between two messages is reported as gone, not as an error of
// Usher.
func TestHangUpWhileNegotiating(t *testing.T) {
	w := newWorld(t, oneAtATime)
	c := w.client()
	c.must(socks.WriteGreeting(c, socks.NoAuth))
	c.expect([]byte{5, 0})
	c.Close()
	w.left("c1", 2)
	line := w.reason("client_gone")
	for _, key := range []string{"command", "target"} {
		if v, ok := line[key]; ok {
			t.Errorf("the log has %s %v, but there was no such request", key, v)
		}
	}
}

// storeAway makes a world whose store does not answer, and a client that waits for its
// slot.
func storeAway(t *testing.T, rules string) (*world, *client) {
	t.Helper()
	st := &leased{Store: memstore.New()}
	st.cut.Store(true)
	away := limiter.New(limiter.Options{Store: st, TTL: time.Second, StoreWait: time.Hour})
	t.Cleanup(func() {
		over, cancel := context.WithCancel(context.Background())
		cancel()
		_ = away.Close(over) // it cannot: the store is cut off
	})
	w := newWorld(t, rules, func(o *proxy.Options, _ *proxy.Policy) { o.Limiter = away })
	c := w.client()
	c.send([]byte{5})
	return w, c
}

// If a client leaves while it waits for a store that does not answer, its session ends
// at once.
func TestHangUpWhileAdmitting(t *testing.T) {
	w, c := storeAway(t, oneAtATime)
	eventually(t, func() string {
		if w.server.Sessions() != 1 {
			return "no session"
		}
		return ""
	})
	c.must(c.SetLinger(0))
	c.Close()
	w.left("", 0)
	w.reason("client_gone")
}

// If it stays, its session ends at the negotiation deadline.
func TestDeadlineWhileAdmitting(t *testing.T) {
	w, c := storeAway(t, "timeout.negotiate: 1\n"+oneAtATime)
	c.closed()
	w.left("", 0)
	w.reason("negotiation_timeout")
}

// stuck is a resolver that answers only when it is told to stop.
type stuck struct{ asked chan struct{} }

func (s stuck) LookupNetIP(ctx context.Context, _, _ string) ([]netip.Addr, error) {
	s.asked <- struct{}{}
	<-ctx.Done()
	return nil, ctx.Err()
}

func TestHangUpWhileResolving(t *testing.T) {
	resolver := stuck{make(chan struct{})}
	w := newWorld(t, oneAtATime, func(o *proxy.Options, _ *proxy.Policy) { o.Resolver = resolver })
	c := w.client()
	c.must(socks.WriteGreeting(c, socks.NoAuth))
	c.expect([]byte{5, 0})
	c.must(socks.WriteRequest(c, socks.Request{Version: socks.V5, Command: socks.Connect, Addr: socks.Addr{Name: "slow.test", Port: 80}}))
	<-resolver.asked
	c.Close()
	w.left("c1", 2)
	w.reason("client_gone")
}

// slow is a resolver that answers with addr when it is released.
type slow struct {
	asked, release chan struct{}
	addr           netip.Addr
}

func (s slow) LookupNetIP(context.Context, string, string) ([]netip.Addr, error) {
	close(s.asked)
	<-s.release
	return []netip.Addr{s.addr}, nil
}

// A client that has sent everything and ended its direction waits for an answer. The
// bytes behind its request tell it from a client that has left, be they read or not.
func TestPipelinedHalfCloseIsNoHangUp(t *testing.T) {
	for _, early := range []string{"early", strings.Repeat("early ", 50)} {
		pipelinedHalfClose(t, early)
	}
}

func pipelinedHalfClose(t *testing.T, early string) {
	t.Helper()
	to := echo(t)
	resolver := slow{make(chan struct{}), make(chan struct{}), to.IP}
	w := newWorld(t, anybody, func(o *proxy.Options, _ *proxy.Policy) { o.Resolver = resolver })
	c := w.client()
	var text bytes.Buffer
	c.must(socks.WriteGreeting(&text, socks.NoAuth))
	c.must(socks.WriteRequest(&text, socks.Request{Version: socks.V5, Command: socks.Connect, Addr: socks.Addr{Name: "echo.test", Port: to.Port}}))
	c.send(append(text.Bytes(), early...))
	c.must(c.CloseWrite())
	<-resolver.asked
	eventually(t, func() string {
		if w.server.Sessions() > 0 && !proxy.Watched() {
			return "the client is not watched"
		}
		return ""
	})
	close(resolver.release)
	c.expect([]byte{5, 0, 5, 0, 0, 1})
	c.skip(6)
	c.expect([]byte(early))
	c.closed()
	w.reason("done")
}

// If a client leaves while a client-rule looks up a name, its session ends at once.
func TestHangUpWhileClientRulesResolve(t *testing.T) {
	resolver := stuck{make(chan struct{})}
	w := newWorld(t, "client block { from: slow.test to: 0/0 }\n"+anybody, unhurried, func(o *proxy.Options, _ *proxy.Policy) { o.Resolver = resolver })
	c := w.client()
	<-resolver.asked
	c.Close()
	w.left("", 0)
	w.requireChecks(1)
}

// A client that has ended its direction and left nothing unread looks like one that has
// closed, and counts as closed until it has its reply. After the reply it may do so,
// see TestClientHalfCloses.
func TestHalfCloseBeforeTheReplyIsAHangUp(t *testing.T) {
	resolver := stuck{make(chan struct{})}
	w := newWorld(t, oneAtATime, func(o *proxy.Options, _ *proxy.Policy) { o.Resolver = resolver })
	c := w.client()
	c.must(socks.WriteGreeting(c, socks.NoAuth))
	c.expect([]byte{5, 0})
	c.must(socks.WriteRequest(c, socks.Request{Version: socks.V5, Command: socks.Connect, Addr: socks.Addr{Name: "slow.test", Port: 80}}))
	c.must(c.CloseWrite())
	<-resolver.asked
	c.closed()
	w.left("c1", 2)
	w.reason("client_gone")
}
