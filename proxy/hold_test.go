package proxy_test

import (
	"testing"

	"usher/proxy/socks"
)

// No session begins under older rules while newer ones are being loaded. New clients
// wait, and get the newer rules. Admitted sessions keep their rules.
func TestHeldClientsGetTheNewRules(t *testing.T) {
	t.Parallel()
	to := echo(t)
	w := newWorld(t, anybody)
	old := w.client()
	old.connect(to, socks.Succeeded)

	release := w.server.Hold()
	late := w.client()
	answer := make(chan socks.Code, 1)
	go func() { answer <- late.request(socks.Request{Addr: to}).Code }()
	blocking := policy(t, "client pass { from: 0/0 to: 0/0 }\nsocks block { from: 0/0 to: 0/0 }\n")
	blocking.Number = 7
	w.server.SetPolicy(blocking)
	release()
	if code := <-answer; code != socks.NotAllowed {
		t.Errorf("reply %d", code)
	}
	if g := w.server.Generations(); len(g) != 2 || g[1].Number != 7 || g[0].Number == 7 || g[0].Sessions != 1 {
		t.Errorf("generations: %+v", g)
	}
	old.echoes("still there")
}

// The number of published rules is the number of their generation, whatever the store
// says, even if the same rules had another number before.
func TestPublishedNumber(t *testing.T) {
	t.Parallel()
	w := newWorld(t, anybody)
	for _, number := range []uint64{5, 6, 0, 9} {
		p := policy(t, anybody)
		p.Number = number
		w.server.SetPolicy(p)
		g := w.server.Generations()
		if got := g[len(g)-1].Number; number != 0 && got != number {
			t.Errorf("number %d, want %d", got, number)
		}
	}
}
