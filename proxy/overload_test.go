package proxy_test

import (
	"context"
	"fmt"
	"net/netip"
	"sync/atomic"
	"testing"

	"usher/proxy"
	"usher/proxy/socks"
)

// However many clients wait without a request, a client that sends its request is
// served. To make room, one of the same source is closed.
func TestTooManyNegotiate(t *testing.T) {
	to := echo(t)
	w := newWorld(t, anybody, func(o *proxy.Options, _ *proxy.Policy) { o.MaxNegotiating = 2 })
	w.client().connect(to, socks.Succeeded) // which is no negotiation any more
	turnedAway := func() float64 { return w.metric("usher_clients_turned_away_total", "reason", "negotiating") }
	var silent []*client
	for range 5 {
		silent = append(silent, w.client())
	}
	eventually(t, func() string {
		if n := turnedAway(); n != 3 {
			return fmt.Sprintf("%v turned away, want 3", n)
		}
		return ""
	})
	served := w.client()
	served.connect(to, socks.Succeeded)
	if n := turnedAway(); n != 4 {
		t.Errorf("%v turned away, want 4", n)
	}
	w.client().connect(to, socks.Succeeded) // there is room again
	if n := turnedAway(); n != 4 {
		t.Errorf("%v turned away, want 4", n)
	}
	served.echoes("whoever was let in stays")

	lines := w.log.wait(t, 5)
	warned := 0
	for _, line := range lines {
		switch {
		case line["msg"] == "clients are turned away" && line["reason"] == "negotiating":
			warned++
		case line["msg"] != "session refused" || line["reason"] != "crowded":
			t.Errorf("log %v", line)
		}
	}
	if warned != 1 {
		t.Errorf("%d warnings, want one for all", warned)
	}
	for _, c := range silent {
		c.try([]byte{5}) // else the last one is a health check
		c.Close()
	}
	w.log.wait(t, 6) // the last of them
}

// One source may open any number of connections. It takes no negotiating slots from
// others, however slow they are. Behind a balancer, sources are those of the headers.
func TestOneSourceCrowdsOutItself(t *testing.T) {
	const most, flood = 8, 200
	to := echo(t)
	for name, behind := range map[string]bool{"direct": false, "behind a balancer": true} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, anybody, func(o *proxy.Options, p *proxy.Policy) {
				o.MaxNegotiating = most
				if behind {
					trusting(o, p)
				}
			})
			client := func(host int) *client {
				if !behind {
					return w.clientAt(fmt.Sprintf("127.0.0.%d", host))
				}
				c := w.client()
				c.send(fmt.Appendf(nil, "PROXY TCP4 192.0.2.%d 127.0.0.1 4711 1080\r\n", host))
				return c
			}
			slow := client(2)
			slow.send([]byte{5, 1, 0})
			slow.expect([]byte{5, 0})
			for range flood {
				client(1)
			}
			eventually(t, func() string {
				want := float64(flood + 1 - most)
				if n := w.metric("usher_clients_turned_away_total", "reason", "negotiating"); n != want {
					return fmt.Sprintf("%v turned away, want %v", n, want)
				}
				return ""
			})
			slow.must(socks.WriteRequest(slow, socks.Request{Version: socks.V5, Command: socks.Connect, Addr: to}))
			if r, err := socks.ReadReply(slow, socks.V5); err != nil || r.Code != socks.Succeeded {
				t.Fatalf("%+v, %v; want the slow client served", r, err)
			}
			slow.echoes("served")
			w.log.wait(t, 1+flood+1-most) // those that were closed, and a warning
		})
	}
}

// silentNames is a resolver that never answers. It counts queries.
type silentNames struct{ asked atomic.Int32 }

func (s *silentNames) LookupNetIP(ctx context.Context, _, _ string) ([]netip.Addr, error) {
	s.asked.Add(1)
	<-ctx.Done()
	return nil, ctx.Err()
}

// asks makes a client at an address send a request, and returns the client.
func (w *world) asks(from string, r socks.Request) *client {
	w.t.Helper()
	c := w.clientAt(from)
	c.send([]byte{5, 1, 0})
	c.expect([]byte{5, 0})
	r.Version = socks.V5
	c.must(socks.WriteRequest(c, r))
	return c
}

// code returns the code of the reply.
func (c *client) code() socks.Code {
	c.t.Helper()
	r, err := socks.ReadReply(c, socks.V5)
	c.must(err)
	return r.Code
}

// Above the maximum, a session is refused with a reply and a reason. UDP and BIND count
// twice. Clients can negotiate all the same.
func TestSessionsAreBounded(t *testing.T) {
	to := echo(t)
	w := newWorld(t, anybody, func(o *proxy.Options, _ *proxy.Policy) { o.MaxSessions = 3 })
	connect, associate := socks.Request{Command: socks.Connect, Addr: to}, socks.Request{Command: socks.UDPAssociate, Addr: socks.Addr{IP: netip.IPv4Unspecified()}}
	sources := 0
	want := func(r socks.Request, want socks.Code) *client {
		t.Helper()
		sources++
		c := w.asks(fmt.Sprintf("127.0.0.%d", sources), r)
		if got := c.code(); got != want {
			t.Errorf("%v: code %d, want %d", r.Command, got, want)
		}
		return c
	}
	association := want(associate, socks.Succeeded)
	want(associate, socks.GeneralFailure)
	want(connect, socks.Succeeded)
	want(connect, socks.GeneralFailure)
	association.Close()
	eventually(t, func() string {
		if c := w.asks("127.0.1.1", connect); c.code() != socks.Succeeded {
			return "an association has ended, and its places are not free"
		}
		return ""
	})
	want(connect, socks.Succeeded)
	eventually(t, func() string {
		if n := w.metric("usher_sessions_rejected_total", "rule", "", "reason", "sessions"); n < 2 {
			return fmt.Sprintf("%v sessions refused for the bound, want 2 or more", n)
		}
		return ""
	})
}

// If the sessions of a client wait for names or targets that never answer, it takes at
// most half of the free places. Others connect meanwhile.
func TestOneSourceWaitsInVain(t *testing.T) {
	to := echo(t)
	names := new(silentNames)
	w := newWorld(t, anybody, func(o *proxy.Options, _ *proxy.Policy) { o.MaxSessions, o.Resolver = 30, names })
	never := func(i int) socks.Request {
		return socks.Request{Command: socks.Connect, Addr: socks.Addr{Name: fmt.Sprintf("never%d.test", i), Port: 80}}
	}
	for i := range 5 {
		w.asks("127.0.0.1", never(i))
	}
	eventually(t, func() string {
		if n := names.asked.Load(); n != 5 {
			return fmt.Sprintf("%d names are asked for, want 5", n)
		}
		return ""
	})
	refused := w.asks("127.0.0.1", never(5))
	if code := refused.code(); code != socks.GeneralFailure {
		t.Errorf("the sixth that waits: code %d, want %d", code, socks.GeneralFailure)
	}
	for i := range 5 {
		served := w.asks(fmt.Sprintf("127.0.1.%d", 1+i), socks.Request{Command: socks.Connect, Addr: to})
		if code := served.code(); code != socks.Succeeded {
			t.Fatalf("another client: code %d", code)
		}
	}
	if line := w.log.wait(t, 1)[0]; line["reason"] != "connecting" {
		t.Errorf("log %v, want the reason connecting", line)
	}
}

// When all places are taken, some clients can still negotiate. The more sessions run,
// the fewer these are.
func TestSessionsMakeNegotiatorsGo(t *testing.T) {
	to := echo(t)
	w := newWorld(t, anybody, func(o *proxy.Options, _ *proxy.Policy) { o.MaxSessions = 2 })
	for range 4 { // room for 5: two for each free place, and one
		w.client()
	}
	for _, from := range []string{"127.0.0.2", "127.0.0.3"} {
		if code := w.asks(from, socks.Request{Command: socks.Connect, Addr: to}).code(); code != socks.Succeeded {
			t.Fatalf("code %d", code)
		}
	}
	eventually(t, func() string {
		if n := w.metric("usher_clients_turned_away_total", "reason", "negotiating"); n != 3 {
			return fmt.Sprintf("%v turned away, want 3 of 4", n)
		}
		return ""
	})
	if code := w.asks("127.0.0.2", socks.Request{Command: socks.Connect, Addr: to}).code(); code != socks.GeneralFailure {
		t.Errorf("code %d, want %d", code, socks.GeneralFailure)
	}
}

// Associations of one client take most places and leave the last ones. Others connect
// meanwhile.
func TestOneSourceConnectsWithoutEnd(t *testing.T) {
	to := echo(t)
	w := newWorld(t, anybody, func(o *proxy.Options, _ *proxy.Policy) { o.MaxSessions = 40 })
	associate := socks.Request{Command: socks.UDPAssociate, Addr: socks.Addr{IP: netip.IPv4Unspecified()}}
	granted := 0
	for w.asks("127.0.0.1", associate).code() == socks.Succeeded {
		if granted++; granted > 20 {
			t.Fatal("one client has more places than there are")
		}
	}
	if granted != 17 { // 34 of 40; less than an eighth would be free with one more
		t.Errorf("one client has %d associations, want 17", granted)
	}
	for i := range 3 {
		served := w.asks(fmt.Sprintf("127.0.1.%d", 1+i), socks.Request{Command: socks.Connect, Addr: to})
		if code := served.code(); code != socks.Succeeded {
			t.Errorf("another client: code %d", code)
		}
	}
	if code := w.asks("127.0.0.1", associate).code(); code != socks.GeneralFailure {
		t.Errorf("the client with many: code %d, want %d", code, socks.GeneralFailure)
	}
	for _, line := range w.log.wait(t, 2) {
		if line["reason"] != "source_sessions" {
			t.Errorf("log %v, want the reason source_sessions", line)
		}
	}
}
