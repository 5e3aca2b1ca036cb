package proxy_test

import (
	"context"
	"fmt"
	"sync"
	"testing"

	"usher/proxy"
	"usher/proxy/socks"
)

// A full client-rule closes without a byte, and no later rule is asked.
func TestFullClientRule(t *testing.T) {
	w := newWorld(t, `
client pass { from: 0/0 to: 0/0
	session.max: 2 }
client pass { from: 0/0 to: 0/0 }
socks pass { from: 0/0 to: 0/0 }
`)
	first := w.client()
	first.must(socks.WriteGreeting(first, socks.NoAuth))
	first.expect([]byte{5, 0})
	second := w.client()
	second.must(socks.WriteGreeting(second, socks.NoAuth))
	second.expect([]byte{5, 0})
	third := w.client()
	third.send([]byte{5, 1, 0}) // early or not, nothing is answered
	third.closed()
	line := w.reason("limit")
	if line["client_rule"] != "c1" {
		t.Errorf("log %v, want the full rule", line)
	}
	if n := w.metric("usher_sessions_rejected_total", "rule", "c1", "reason", "limit"); n != 1 {
		t.Errorf("%v counted, want 1", n)
	}
	eventually(t, func() string { // a session is logged before it leaves
		if n := w.server.Sessions(); n != 2 {
			return fmt.Sprintf("%d sessions, want 2", n)
		}
		return ""
	})
	first.Close()
	second.Close()
	w.left("c1", 2)
}

// A full socks-rule answers 2, SOCKS 4's 91, and no later rule is asked.
func TestFullSocksRule(t *testing.T) {
	to := echo(t)
	w := newWorld(t, `
client pass { from: 0/0 to: 0/0 }
socks pass { from: 0/0 to: 0/0
	session.max: 1 }
socks pass { from: 0/0 to: 0/0 }
`)
	first := w.client()
	first.connect(to, socks.Succeeded)
	w.client().connect(to, socks.NotAllowed)
	four := w.client()
	if r := four.request(socks.Request{Version: socks.V4, Addr: to}); r.Code == socks.Succeeded {
		t.Error("SOCKS 4 got past the limit")
	}
	four.closed()
	for _, line := range w.log.wait(t, 2) {
		if line["reason"] != "limit" || line["rule"] != "s1" {
			t.Errorf("log %v", line)
		}
	}
	first.echoes("still here")
	first.Close()
	eventually(t, func() string { // the slot is free at once, for anybody
		c := w.client()
		defer c.Close()
		if r := c.request(socks.Request{Addr: to}); r.Code != socks.Succeeded {
			return "the slot is not free"
		}
		return ""
	})
	w.left("s1", 1)
}

// Of 30 simultaneous clients, a rule with a limit of 7 admits exactly 7.
func TestExactUnderABurst(t *testing.T) {
	to := echo(t)
	w := newWorld(t, "client pass { from: 0/0 to: 0/0 }\nsocks pass { from: 0/0 to: 0/0\n session.max: 7 }\n")
	var wg sync.WaitGroup
	codes := make(chan socks.Code, 30)
	for range cap(codes) {
		c := w.client()
		wg.Go(func() { codes <- c.request(socks.Request{Addr: to}).Code })
	}
	wg.Wait()
	close(codes)
	got := map[socks.Code]int{}
	for code := range codes {
		got[code]++
	}
	if got[socks.Succeeded] != 7 || got[socks.NotAllowed] != 23 {
		t.Errorf("replies %v, want 7 of 0 and 23 of 2", got)
	}
}

// What happens to the slot of the client-rule when the request is granted
// (session.inheritable), by how many of the rule's 2 slots are free then.
func TestClientSlotAfterTheGrant(t *testing.T) {
	to := echo(t)
	for _, c := range []struct {
		name, client, socks     string
		clientFree, socksFree   int
		clientMax, socksMaximum int64
	}{
		{"inherited", "session.max: 2", "", 1, 0, 2, 0},
		{"not inheritable", "session.max: 2\nsession.inheritable: no", "", 2, 0, 2, 0},
		{"maxsessions", "maxsessions: 2", "", 2, 0, 2, 0},
		{"moved", "session.max: 2", "session.max: 3", 2, 2, 2, 3},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t, "client pass { from: 0/0 to: 0/0\n"+c.client+"\n}\nsocks pass { from: 0/0 to: 0/0\n"+c.socks+"\n}\n")
			one := w.client()
			one.must(socks.WriteGreeting(one, socks.NoAuth))
			one.expect([]byte{5, 0})
			if n := w.slots("c1", c.clientMax); n != 1 {
				t.Errorf("%d client slots free while negotiating, want 1", n)
			}
			one.must(socks.WriteRequest(one, socks.Request{Version: socks.V5, Command: socks.Connect, Addr: to}))
			reply, err := socks.ReadReply(one, socks.V5)
			if one.must(err); reply.Code != socks.Succeeded {
				t.Fatalf("reply %d", reply.Code)
			}
			if n := w.slots("c1", c.clientMax); n != c.clientFree {
				t.Errorf("%d client slots free once granted, want %d", n, c.clientFree)
			}
			if c.socksMaximum > 0 {
				if n := w.slots("s1", c.socksMaximum); n != c.socksFree {
					t.Errorf("%d socks slots free once granted, want %d", n, c.socksFree)
				}
			}
			one.Close()
			w.left("c1", c.clientMax)
		})
	}
}

// Users are counted one by one, and all clients without a name as one.
func TestLimitByUser(t *testing.T) {
	to := echo(t)
	w := newWorld(t, `
socksmethod: username none
client pass { from: 0/0 to: 0/0 }
socks pass { from: 0/0 to: 0/0
	session.state.key: user
	session.state.max: 1 }
`, withMonica(t))
	asMonica := func(want socks.Code) {
		t.Helper()
		c := w.client()
		text, _ := script(t, socks.Connect, to)
		c.send(text)
		c.expect([]byte{5, 2, 1, 0, 5, byte(want)})
	}
	asMonica(socks.Succeeded)
	asMonica(socks.NotAllowed)
	w.client().connect(to, socks.Succeeded)
	w.client().connect(to, socks.NotAllowed)
}

// When the limiter has closed, rules with a limit refuse with 1, and others work.
func TestWithoutTheLimiter(t *testing.T) {
	to := echo(t)
	w := newWorld(t, `
client pass { from: 0/0 to: 0/0 }
socks pass { from: 0/0 to: 127.0.0.0/8 }
socks pass { from: 0/0 to: ::1/128
	session.max: 5 }
`)
	if err := w.limiter.Close(context.Background()); err != nil {
		t.Fatal(err)
	}
	six := target(t, "tcp6", echoing)
	w.client().connect(six, socks.GeneralFailure)
	c := w.client()
	c.connect(to, socks.Succeeded)
	c.echoes("hello")
}

// Running sessions keep their rules and counters after a reload. New sessions get the
// new rules and count separately.
func TestReload(t *testing.T) {
	to := echo(t)
	rules := func(n string) string {
		return "client pass { from: 0/0 to: 0/0 }\nsocks pass { from: 0/0 to: 0/0\n session.max: " + n + " }\n"
	}
	w := newWorld(t, rules("1"))
	old := w.client()
	old.connect(to, socks.Succeeded)
	label := w.server.Generation()

	w.server.SetPolicy(policy(t, rules("2")))
	old.echoes("untouched")
	first, second := w.client(), w.client()
	first.connect(to, socks.Succeeded)
	second.connect(to, socks.Succeeded)
	w.client().connect(to, socks.NotAllowed)
	if label == w.server.Generation() {
		t.Errorf("two generations are called %s", label)
	}
	eventually(t, func() string { // the refused one may still be on its way out
		gens := w.server.Generations()
		if len(gens) != 2 || gens[0].Current || !gens[1].Current || gens[0].Sessions != 1 || gens[1].Sessions != 2 {
			return fmt.Sprintf("generations %+v", gens)
		}
		return ""
	})
	if n := w.metric("usher_sessions", "rule", "s1", "generation", label, "command", "connect"); n != 1 {
		t.Errorf("%v sessions of the old generation, want 1", n)
	}

	old.Close()
	eventually(t, func() string {
		if n := len(w.server.Generations()); n != 1 {
			return "the old generation stays"
		}
		return ""
	})
	if n := w.metric("usher_sessions", "rule", "s1", "generation", label, "command", "connect"); n != 0 {
		t.Errorf("the old generation still has a series: %v", n)
	}
	w.client().connect(to, socks.NotAllowed) // its end freed nothing here

	w.server.SetPolicy(policy(t, rules("2"))) // unchanged: the same counters
	w.client().connect(to, socks.NotAllowed)
	first.Close()
	second.Close()
	w.left("s1", 2)
}

// Simultaneous reloads and sessions lose no session.
func TestReloadUnderLoad(t *testing.T) {
	to := echo(t)
	w := newWorld(t, anybody)
	limited := policy(t, "client pass { from: 0/0 to: 0/0\n session.max: 100 }\nsocks pass { from: 0/0 to: 0/0 }\n")
	unlimited := policy(t, anybody)
	var wg sync.WaitGroup
	for range 8 {
		c := w.client()
		wg.Go(func() {
			if r := c.request(socks.Request{Addr: to}); r.Code != socks.Succeeded {
				t.Errorf("reply %d", r.Code)
			}
			c.Close()
		})
	}
	for i := range 50 {
		w.server.SetPolicy([]*proxy.Policy{limited, unlimited}[i%2])
	}
	wg.Wait()
	w.server.SetPolicy(limited)
	w.left("c1", 100)
	if n := len(w.server.Generations()); n != 1 {
		t.Errorf("%d generations left, want 1", n)
	}
}
