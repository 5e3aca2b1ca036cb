package proxy_test

import (
	"fmt"
	"testing"

	"usher/proxy"
	"usher/proxy/socks"
)

// However many clients wait without a request, one that makes its request is
// served: one of them has to go.
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
