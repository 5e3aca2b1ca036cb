package proxy_test

import (
	"fmt"
	"net/netip"
	"testing"

	"usher/proxy/socks"
)

const webPool = `
client pass { from: 0/0 to: 0/0 }
socks pass { from: 0/0 to: 127.0.0.1/32
	session.pool: web
	session.max: %d }
socks pass { from: 0/0 to: 127.0.0.2/32
	session.pool: web
	maxsessions: %[1]d }
socks pass { from: 0/0 to: 127.0.0.3/32
	session.pool: %s
	session.max: %[1]d }
`

// Three rules in one pool share one limit, which continues over a reload. A changed
// number applies to new sessions at once.
func TestPoolOverRulesAndReloads(t *testing.T) {
	w := newWorld(t, fmt.Sprintf(webPool, 3, "web"))
	var targets []socks.Addr
	for i := 1; i <= 3; i++ {
		targets = append(targets, targetAt(t, fmt.Sprintf("127.0.0.%d:0", i), echoing))
	}
	var held []*client
	connect := func(i int) {
		t.Helper()
		c := w.client()
		c.connect(targets[i], socks.Succeeded)
		held = append(held, c)
	}
	for i := range targets {
		connect(i)
	}
	for _, to := range targets {
		w.client().connect(to, socks.NotAllowed)
	}
	for i, keyword := range []string{"session.max", "maxsessions", "session.max"} {
		if line := w.log.wait(t, 3)[i]; line["pool"] != "web" || line["reason"] != "limit" || line["error"] != keyword+": 3 in pool web" {
			t.Errorf("log %v", line)
		}
	}
	w.server.SetPolicy(policy(t, "timeout.io: 77\n"+fmt.Sprintf(webPool, 3, "web")+"socks block { from: 0/0 to: 192.0.2.1/32 }\n"))
	w.client().connect(targets[0], socks.NotAllowed)
	w.server.SetPolicy(policy(t, fmt.Sprintf(webPool, 4, "web")))
	connect(1)
	w.client().connect(targets[2], socks.NotAllowed)
	w.server.SetPolicy(policy(t, fmt.Sprintf(webPool, 2, "web")))
	w.client().connect(targets[0], socks.NotAllowed)
	w.server.SetPolicy(policy(t, fmt.Sprintf(webPool, 1, "other"))) // s3 has left the pool
	w.client().connect(targets[0], socks.NotAllowed)
	connect(2)
	w.client().connect(targets[2], socks.NotAllowed)
	for _, c := range held {
		c.echoes("nobody is ended")
		c.Close()
	}
	eventually(t, func() string { // the slots are free
		c := w.client()
		defer c.Close()
		if r := c.request(socks.Request{Addr: targets[1]}); r.Code != socks.Succeeded {
			return "the pool is still full"
		}
		return ""
	})
}

// A session that moves from a client-rule to a socks-rule, or to the rule of BIND's
// peer, keeps its slot if both are in one pool. One slot is enough, and no other client
// can take it meanwhile.
func TestPoolKeepsTheSlot(t *testing.T) {
	t.Parallel()
	for _, limit := range []string{"session.max: 1", "maxsessions: 1", "session.state.key: from\nsession.state.max: 1", "session.max: 1\nsession.throttle: 1/3600"} {
		t.Run(limit, func(t *testing.T) {
			t.Parallel()
			to := echo(t)
			in := "session.pool: one\n" + limit
			w := newWorld(t, fmt.Sprintf("client pass { from: 0/0 to: 0/0\n%s }\nsocks pass { from: 0/0 to: 0/0\ncommand: connect bind\n%[1]s }\n"+
				"socks pass { from: 0/0 to: 0/0\ncommand: bindreply\n%[1]s }\n", in))
			c := w.client()
			c.connect(to, socks.Succeeded)
			w.client().closed()
			c.echoes("one slot")
			c.Close()
			if limit == "session.max: 1\nsession.throttle: 1/3600" {
				return
			}
			w.left("", 0)
			b := w.client()
			peer := dialFrom(t, "127.0.0.2", b.bind(socks.V5, socks.Addr{IP: netip.IPv4Unspecified()}))
			b.second(socks.V5, socks.Succeeded)
			w.client().closed()
			peer.send([]byte("still here"))
			b.expect([]byte("still here"))
		})
	}
}

// A pool counts each user over its rules.
func TestPoolByKey(t *testing.T) {
	const in = "session.pool: each\nsession.state.key: from\nsession.state.max: 1\nsession.max: 2\n"
	w := newWorld(t, "client pass { from: 0/0 to: 0/0 }\nsocks pass { from: 0/0 to: 127.0.0.1/32\n"+in+"}\nsocks pass { from: 0/0 to: 127.0.0.2/32\n"+in+"}\n")
	one, two := targetAt(t, "127.0.0.1:0", echoing), targetAt(t, "127.0.0.2:0", echoing)
	w.clientAt("127.0.0.5").connect(one, socks.Succeeded)
	w.clientAt("127.0.0.5").connect(two, socks.NotAllowed)
	if line := w.reason("limit"); line["error"] != "session.state.max: 1 in pool each for 127.0.0.5" {
		t.Errorf("log %v", line)
	}
	w.clientAt("127.0.0.6").connect(two, socks.Succeeded)
	w.clientAt("127.0.0.7").connect(one, socks.NotAllowed)
}
