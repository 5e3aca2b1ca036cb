package proxy_test

import (
	"fmt"
	"testing"

	"usher/proxy"
	"usher/proxy/socks"
)

// However many clients wait without a request, one that makes its request is
// served: one of the same source has to go.
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
		c.Close()
	}
	w.log.wait(t, 6) // the last of them
}

// One source that opens any number of connections takes no place from others,
// however slow they are. Behind a balancer the sources are those of the headers.
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
