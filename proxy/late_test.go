package proxy_test

import (
	"context"
	"fmt"
	"net/netip"
	"testing"

	"usher/proxy"
	"usher/proxy/socks"
)

// replace puts rules in force, as if published under a number.
func (w *world) replace(number uint64, text string, setups ...setup) {
	w.t.Helper()
	p := policy(w.t, text)
	p.Number = number
	for _, s := range setups {
		s(nil, p)
	}
	w.server.SetPolicy(p)
}

// greet sends a greeting and expects this method.
func (c *client) greet(want socks.Method) {
	c.t.Helper()
	c.must(socks.WriteGreeting(c, want))
	c.expect([]byte{5, byte(want)})
}

// ask sends a request after a greeting, and expects this reply code.
func (c *client) ask(command socks.Command, to socks.Addr, want socks.Code) {
	c.t.Helper()
	c.must(socks.WriteRequest(c, socks.Request{Version: socks.V5, Command: command, Addr: to}))
	reply, err := socks.ReadReply(c, socks.V5)
	c.must(err)
	if reply.Code != want {
		c.t.Fatalf("reply %d, want %d", reply.Code, want)
	}
	if want != socks.Succeeded {
		c.closed()
	}
}

const nobody = "client pass { from: 0/0 to: 0/0 }\nsocks block { from: 0/0 to: 0/0 }\n"

// A client that connected under older rules is judged by those in force when its
// request is judged, whatever it asks for and however far it has come. An admitted
// session keeps its rules.
func TestLateRequests(t *testing.T) {
	t.Parallel()
	to := echo(t)
	w := newWorld(t, anybody, unhurried)
	old := w.client()
	old.connect(to, socks.Succeeded)

	connected, v4 := w.client(), w.client()
	v4.send([]byte{4})
	greeted := map[socks.Command]*client{socks.Connect: nil, socks.Bind: nil, socks.UDPAssociate: nil}
	for command := range greeted {
		greeted[command] = w.client()
		greeted[command].greet(socks.NoAuth)
	}
	w.replace(7, nobody)
	for command, c := range greeted {
		c.ask(command, to, socks.NotAllowed)
	}
	connected.connect(to, socks.NotAllowed)
	v4.send([]byte{1, 0, 80, 127, 0, 0, 1, 0})
	v4.expect([]byte{0, 91, 0, 0, 0, 0, 0, 0})
	for _, line := range w.log.wait(t, 5) {
		if line["client_rule"] != "c1" || line["rule"] != "s1" || line["reason"] != "blocked" || line["generation"].(string)[:3] != "g7-" {
			t.Errorf("log: %v", line)
		}
	}
	old.echoes("still there")

	late := w.client()
	late.greet(socks.NoAuth)
	w.replace(8, anybody)
	late.ask(socks.Connect, to, socks.Succeeded)
	late.echoes("by the new rules")
	eventually(t, func() string {
		for _, g := range w.server.Generations() {
			if g.Number == 7 || g.Number == 8 && g.Sessions != 1 {
				return fmt.Sprintf("%+v", w.server.Generations())
			}
		}
		return ""
	})
}

// A client gets the slot of its client-rule in the new rules, and returns the old one.
func TestLateRequestTakesTheNewSlots(t *testing.T) {
	t.Parallel()
	to := echo(t)
	limited := func(client, socks int) string {
		return fmt.Sprintf("client pass { from: 0/0 to: 0/0\n session.max: %d\n session.inheritable: no }\nsocks pass { from: 0/0 to: 0/0\n session.max: %d }\n", client, socks)
	}
	w := newWorld(t, limited(9, 9))
	a, b, c := w.client(), w.client(), w.client()
	for _, late := range []*client{a, b, c} {
		late.greet(socks.NoAuth)
	}
	w.replace(2, limited(1, 2))
	a.ask(socks.Connect, to, socks.Succeeded)
	b.ask(socks.Connect, to, socks.Succeeded)
	if n := w.slots("s1", 2); n != 0 {
		t.Errorf("%d slots are free under the new rules", n)
	}
	c.ask(socks.Connect, to, socks.NotAllowed)
	if n := w.slots("c1", 1); n != 1 {
		t.Errorf("%d of 1 slots of the client-rule are free", n)
	}
	if line := w.log.wait(t, 1)[0]; line["reason"] != "limit" {
		t.Errorf("log: %v", line)
	}
	w.replace(3, limited(9, 9)) // the counts of the first generation
	if n := w.slots("c1", 9) + w.slots("s1", 9); n != 18 {
		t.Errorf("%d of 18 slots of the old rules are free", n)
	}

	full := w.client()
	full.greet(socks.NoAuth)
	w.replace(4, limited(1, 8))
	w.client().greet(socks.NoAuth) // it has the only slot
	full.ask(socks.Connect, to, socks.NotAllowed)
}

// If rules come into force during a lookup or while a session waits for a slot, they
// decide about the request, although the older ones have passed it.
func TestNewRulesBeforeTheAdmission(t *testing.T) {
	t.Parallel()
	asked, answer := make(chan struct{}), make(chan struct{})
	resolver := blockingResolver{asked, answer}
	w := newWorld(t, anybody, func(o *proxy.Options, _ *proxy.Policy) { o.Resolver = resolver })
	c := w.client()
	c.greet(socks.NoAuth)
	c.must(socks.WriteRequest(c, socks.Request{Version: socks.V5, Command: socks.Connect, Addr: socks.Addr{Name: "late.test", Port: 80}}))
	<-asked
	release := w.server.Hold()
	close(answer)
	w.replace(2, nobody)
	release()
	if reply, err := socks.ReadReply(c, socks.V5); err != nil || reply.Code != socks.NotAllowed {
		t.Errorf("%+v, %v", reply, err)
	}
	if line := w.log.wait(t, 1)[0]; line["generation"].(string)[:3] != "g2-" {
		t.Errorf("log: %v", line)
	}
}

// blockingResolver reports its first query, and answers all of them with one address
// when it is released.
type blockingResolver struct{ asked, answer chan struct{} }

func (r blockingResolver) LookupNetIP(ctx context.Context, _, _ string) ([]netip.Addr, error) {
	select {
	case r.asked <- struct{}{}:
	case <-r.answer:
	case <-ctx.Done():
	}
	<-r.answer
	return []netip.Addr{netip.MustParseAddr("127.0.0.1")}, nil
}

// New rules may require another method than the client has used, or may no longer
// accept its password.
func TestLateLogins(t *testing.T) {
	t.Parallel()
	to := echo(t)
	monica := withMonica(t)
	const both = "socksmethod: username none\n" + anybody
	for _, c := range []struct {
		name   string
		method socks.Method
		text   string
		setup  []setup
		want   socks.Code
		reason string
	}{
		{"another method", socks.NoAuth, "socksmethod: username\n" + anybody, []setup{monica}, socks.NotAllowed, "method"},
		{"no method of ours", socks.NoAuth, "client pass { from: 0/0 to: 0/0\n socksmethod: username }\n" + nobody, []setup{monica}, socks.NotAllowed, "method"},
		{"the same file", socks.Username, both + "# new\n", []setup{monica}, socks.Succeeded, ""},
		{"no users file", socks.Username, both, nil, socks.NotAllowed, "method"},
		{"another password", socks.Username, both, []setup{withMonica(t)}, socks.NotAllowed, "auth"},
		{"the client-rule blocks", socks.Username, "client block { from: 0/0 to: 0/0 }\n" + anybody, []setup{monica}, socks.NotAllowed, "blocked"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, both, monica)
			late := w.client()
			late.greet(c.method)
			if c.method == socks.Username {
				late.must(socks.WriteCredentials(late, socks.Credentials{User: "monica", Password: "sesame"}))
				late.expect([]byte{1, 0})
			}
			w.replace(2, c.text, c.setup...)
			late.ask(socks.Connect, to, c.want)
			if c.reason == "" {
				late.echoes("logged in")
				return
			}
			if line := w.log.wait(t, 1)[0]; line["reason"] != c.reason {
				t.Errorf("log: %v", line)
			}
		})
	}
}
