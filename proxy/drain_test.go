package proxy_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"testing"
	"time"

	"usher/proxy"
	"usher/proxy/socks"
)

// Drain waits for sessions that end by themselves.
func TestDrainWaits(t *testing.T) {
	to := echo(t)
	w := newWorld(t, oneAtATime)
	c := w.client()
	c.connect(to, socks.Succeeded)
	if err := w.server.CloseListeners(); err != nil {
		t.Fatal(err)
	}
	if conn, err := net.Dial("tcp", w.addr); err == nil {
		conn.Close()
		t.Error("still listening")
	}
	drained := make(chan proxy.Cut)
	go func() { drained <- w.server.Drain(t.Context()) }()
	c.echoes("still served")
	select {
	case <-drained:
		t.Fatal("did not wait")
	default:
	}
	c.Close()
	if cut := <-drained; cut.Sessions != 0 || cut.By() != "" || cut.Longest != 0 {
		t.Errorf("cut %+v, want nothing", cut)
	}
	w.reason("done")
}

// Drain cuts the remaining sessions when its time is over, whether they negotiate,
// resolve, dial or relay. None of them gets a reply.
func TestDrainCuts(t *testing.T) {
	t.Parallel()
	to, hole, resolving := echo(t), blackhole(t), stuck{make(chan struct{})}
	w := newWorld(t, `
client pass { from: 0/0 to: 0/0
	session.max: 20
	session.inheritable: no }
socks pass { from: 0/0 to: 0/0
	session.max: 20 }
`, func(o *proxy.Options, _ *proxy.Policy) { o.Resolver = resolving })
	relaying, negotiating := w.client(), w.client()
	clients := []*client{relaying, negotiating}
	relaying.connect(to, socks.Succeeded)
	relaying.echoes("hello")
	negotiating.must(socks.WriteGreeting(negotiating, socks.NoAuth))
	negotiating.expect([]byte{5, 0})
	for i := range 16 { // several, so that no race between the cut and a reply goes well by chance
		c := w.client()
		c.must(socks.WriteGreeting(c, socks.NoAuth))
		c.expect([]byte{5, 0})
		clients = append(clients, c)
		if i%2 == 0 {
			c.must(socks.WriteRequest(c, socks.Request{Version: socks.V5, Command: socks.Connect, Addr: hole}))
			continue
		}
		c.must(socks.WriteRequest(c, socks.Request{Version: socks.V5, Command: socks.Connect, Addr: socks.Addr{Name: fmt.Sprintf("n%d.test", i), Port: 80}}))
		<-resolving.asked
	}
	w.hold("s1", 9)
	if err := w.server.CloseListeners(); err != nil {
		t.Fatal(err)
	}
	soon, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	cut := w.server.Drain(soon)
	if cut.Sessions != len(clients) || cut.By() != "c1 negotiate 9, s1 connect 9" {
		t.Errorf("cut %+v, %s, want %d", cut, cut.By(), len(clients))
	}
	if c, s := w.slots("c1", 20), w.slots("s1", 20); c != 20 || s != 20 {
		t.Errorf("%d and %d slots free after the drain, want 20", c, s)
	}
	oldest := 0.0
	for _, line := range w.log.wait(t, len(clients)) {
		if line["reason"] != "drain" {
			t.Errorf("log %v", line)
		}
		if line["session"] == cut.Oldest {
			oldest, _ = line["seconds"].(float64)
		}
	}
	if oldest == 0 || oldest < cut.Longest.Seconds() {
		t.Errorf("the oldest session, %s, lasted %vs, and the drain says %v", cut.Oldest, oldest, cut.Longest)
	}
	for _, c := range clients {
		c.closed()
	}
}

// Clients that are accepted after the drain are closed, and a listener that comes late
// is not served.
func TestNothingAfterDrain(t *testing.T) {
	w := newWorld(t, anybody)
	over, cancel := context.WithCancel(context.Background())
	cancel()
	w.server.Drain(over)
	w.client().closed()
	if err := w.server.CloseListeners(); err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if err := w.server.Serve(ln); err != nil {
		t.Fatal(err)
	}
	if _, err := ln.Accept(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("the listener is open: %v", err)
	}
}
