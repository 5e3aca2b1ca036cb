package proxy_test

import (
	"testing"

	"usher/proxy"
	"usher/proxy/socks"
)

// Clients that are one too many are closed, until one of the others has made
// its request, or left.
func TestTooManyNegotiate(t *testing.T) {
	to := echo(t)
	w := newWorld(t, anybody, func(o *proxy.Options, _ *proxy.Policy) { o.MaxNegotiating = 2 })
	w.client().connect(to, socks.Succeeded) // which is no negotiation any more
	first, second := w.client(), w.client()
	for range 3 {
		w.client().closed()
	}
	if line := w.log.wait(t, 1)[0]; line["msg"] != "clients are turned away" || line["reason"] != "negotiating" {
		t.Errorf("log %v, want one line for all", line)
	}
	if n := w.metric("usher_clients_turned_away_total", "reason", "negotiating"); n != 3 {
		t.Errorf("%v counted, want 3", n)
	}
	first.connect(to, socks.Succeeded)
	third := w.client()
	third.must(socks.WriteGreeting(third, socks.NoAuth))
	third.expect([]byte{5, 0})
	w.client().closed()
	second.Close()
	w.log.wait(t, 2) // second has left
	eventually(t, func() string {
		c := w.client()
		if socks.WriteGreeting(c, socks.NoAuth) != nil {
			return "no greeting"
		}
		if n, err := c.Read(make([]byte, 2)); n != 2 {
			return "its place is not free: " + err.Error()
		}
		return ""
	})
}
