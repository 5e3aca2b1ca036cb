package proxy_test

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"usher/proxy"
	"usher/proxy/record"
	"usher/proxy/socks"
)

// A refusal by a full limit says what it held and who held it, and counts for a minute.
func TestHeld(t *testing.T) {
	to := echo(t)
	holder := func(client string, n int) record.Holder {
		return record.Holder{Client: netip.MustParseAddr(client), Sessions: n}
	}
	for _, c := range []struct {
		name, client, socks string
		running             []string // clients
		refused             string
		want                record.Held
	}{
		{
			"all", "", "session.max: 3", []string{"127.0.0.1", "127.0.0.2", "127.0.0.2"}, "127.0.0.3",
			record.Held{Limit: "session.max", Max: 3, Sessions: 3, Here: 3, Holders: []record.Holder{holder("127.0.0.2", 2), holder("127.0.0.1", 1)}},
		},
		{
			"by key", "", "session.max: 9\nsession.state.key: from\nsession.state.max: 2", []string{"127.0.0.1", "127.0.0.2", "127.0.0.2"}, "127.0.0.2",
			record.Held{Limit: "session.state.max", Max: 2, Sessions: 2, Here: 2, Holders: []record.Holder{holder("127.0.0.2", 2)}},
		},
		{
			"client-rule", "session.max: 2\nsession.inheritable: yes", "", []string{"127.0.0.1", "127.0.0.2"}, "127.0.0.2",
			record.Held{Limit: "session.max", Max: 2, Sessions: 2, Here: 2, Holders: []record.Holder{holder("127.0.0.1", 1), holder("127.0.0.2", 1)}},
		},
		{
			"more than five", "", "session.max: 7", []string{"127.0.0.7", "127.0.0.6", "127.0.0.5", "127.0.0.4", "127.0.0.3", "127.0.0.2", "127.0.0.7"}, "127.0.0.1",
			record.Held{Limit: "session.max", Max: 7, Sessions: 7, Here: 7, Holders: []record.Holder{
				holder("127.0.0.7", 2), holder("127.0.0.2", 1), holder("127.0.0.3", 1), holder("127.0.0.4", 1), holder("127.0.0.5", 1),
			}},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			var told ends
			w := newWorld(t, "client pass { from: 0/0 to: 0/0\n"+c.client+"\n}\nsocks pass { from: 0/0 to: 0/0\n"+c.socks+"\n}\n", withEnds(&told))
			for _, from := range c.running {
				w.clientAt(from).connect(to, socks.Succeeded)
			}
			one := w.clientAt(c.refused)
			one.try([]byte{5, 1, 0})
			if c.client == "" {
				one.expect([]byte{5, 0})
				one.must(socks.WriteRequest(one, socks.Request{Version: socks.V5, Command: socks.Connect, Addr: to}))
				one.expect([]byte{5, byte(socks.NotAllowed)})
			}
			held := told.one(t).Held
			if held == nil || held.Limit != c.want.Limit || held.Max != c.want.Max || held.Sessions != c.want.Sessions ||
				held.Here != c.want.Here || !slices.Equal(held.Holders, c.want.Holders) {
				t.Errorf("held %+v, want %+v", held, c.want)
			}
			g := w.server.Generations()[0]
			counter := proxy.Counter(g.Digest, g.Rules.Socks[0])
			if c.client != "" {
				counter = proxy.Counter(g.Digest, g.Rules.Client[0])
			}
			if n := w.server.RefusedLately(counter); n != 1 {
				t.Errorf("%d refusals lately, want 1", n)
			}
		})
	}
}

// A rate holds nothing, but counts what it refuses.
func TestRateHoldsNothing(t *testing.T) {
	var told ends
	w := newWorld(t, "client pass { from: 0/0 to: 0/0 }\nsocks pass { from: 0/0 to: 0/0\nsession.throttle: 1/3600 }", withEnds(&told))
	to := echo(t)
	w.client().connect(to, socks.Succeeded)
	w.client().connect(to, socks.NotAllowed)
	if end := told.one(t); end.Held != nil || end.Reason != "throttle" {
		t.Errorf("end %+v", end)
	}
	g := w.server.Generations()[0]
	counter := proxy.Counter(g.Digest, g.Rules.Socks[0])
	if n := w.server.RefusedLately(counter); n != 1 {
		t.Errorf("%d refusals lately, want 1", n)
	}
	w.server.SetPolicy(policy(t, anybody))
	eventually(t, func() string { // the session of the old rules keeps the counter
		if n := w.server.RefusedLately(counter); n != 1 {
			return fmt.Sprintf("%d refusals lately, want 1", n)
		}
		return ""
	})
}
