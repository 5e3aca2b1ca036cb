package proxy_test

import (
	"context"
	"errors"
	"net/netip"
	"sync/atomic"
	"testing"

	"usher/proxy"
	"usher/proxy/socks"
)

// asked is a resolver that knows one name and counts the queries for others.
type asked struct{ lookups *atomic.Int64 }

func (r asked) LookupNetIP(_ context.Context, _, name string) ([]netip.Addr, error) {
	r.lookups.Add(1)
	if name == "is.test" {
		return []netip.Addr{loopback}, nil
	}
	return nil, errors.New("no such host")
}

// A name that no rule could pass is not looked up. The owner of the name would learn of
// it, and the reply would tell the client whether it exists.
func TestNamesOfBlockedRequests(t *testing.T) {
	const client, rest = "client pass { from: 0/0 to: 0/0 }\n", "socks pass { from: 0/0 to: 0/0 }\n"
	for name, c := range map[string]struct {
		rules   string
		command socks.Command
		looks   bool
	}{
		"connect, blocked":         {"socks block { from: 0/0 to: 0/0 }\n", socks.Connect, false},
		"connect, no rule":         {"socks pass { from: 0/0 to: 0/0 command: bind }\n", socks.Connect, false},
		"connect, by families":     {"socks block { from: 0/0 to: 0.0.0.0/0 }\nsocks block { from: 0/0 to: ::/0 }\n" + rest, socks.Connect, false},
		"connect, other domain":    {"socks pass { from: 0/0 to: .example.com }\n", socks.Connect, false},
		"connect, other user":      {"socks pass { from: 0/0 to: 0/0\nuser: monica }\n", socks.Connect, false},
		"connect, other port":      {"socks pass { from: 0/0 to: 0/0 port = 81 }\n", socks.Connect, false},
		"connect, a network":       {"socks block { from: 0/0 to: 127.0.0.0/8 }\n" + rest, socks.Connect, true},
		"bind, blocked":            {"socks block { from: 0/0 to: 0/0 command: bind }\n" + rest, socks.Bind, false},
		"bind, elsewhere":          {"socks block { from: 0/0 to: 127.0.0.0/8 command: bind }\n" + rest, socks.Bind, true},
		"bind, by its name":        {"socks pass { from: 0/0 to: .test }\n", socks.Bind, false},
		"connect, but bind passes": {"socks pass { from: 0/0 to: 0/0 command: bind bindreply udpassociate }\n", socks.Connect, false},
	} {
		t.Run(name, func(t *testing.T) {
			r := asked{new(atomic.Int64)}
			w := newWorld(t, client+c.rules, func(o *proxy.Options, _ *proxy.Policy) { o.Resolver = r })
			codes := map[string]socks.Code{}
			for _, host := range []string{"is.test", "is-not.test", "not valid"} {
				codes[host] = w.client().request(socks.Request{Command: c.command, Addr: socks.Addr{Name: host, Port: 80}}).Code
			}
			if n := r.lookups.Load(); (n > 0) != c.looks {
				t.Errorf("%d lookups, want some: %t", n, c.looks)
			}
			for host, code := range codes {
				if !c.looks && code != socks.NotAllowed {
					t.Errorf("%s: reply %d, want 2", host, code)
				}
			}
			for _, line := range w.log.wait(t, len(codes)) {
				if !c.looks && line["reason"] != "blocked" {
					t.Errorf("log %v", line)
				}
			}
		})
	}
}

// The same for names of datagrams, each of which is judged by itself.
func TestNamesOfBlockedDatagrams(t *testing.T) {
	r := asked{new(atomic.Int64)}
	w := newWorld(t, `
client pass { from: 0/0 to: 0/0 }
socks block { from: 0/0 to: 0/0 port = 54 }
socks pass { from: 0/0 to: .example.com }
socks pass { from: 0/0 to: 127.0.0.0/8 port = 53 }
`, func(o *proxy.Options, _ *proxy.Policy) { o.Resolver = r })
	a := w.associate(socks.Addr{IP: netip.IPv4Unspecified()})
	for i, to := range []socks.Addr{{Name: "is.test", Port: 54}, {Name: "is-not.test", Port: 54}, {Name: "is.test", Port: 80}, {Name: "www.example.com", Port: 54}} {
		a.udp.send(datagram(t, to, "hello"), a.relay)
		w.dropped("blocked", float64(i+1))
	}
	if n := r.lookups.Load(); n != 0 {
		t.Errorf("%d lookups, want none", n)
	}
	a.udp.send(datagram(t, socks.Addr{Name: "is-not.test", Port: 53}, "hello"), a.relay)
	w.dropped("unresolved", 1)
	if n := r.lookups.Load(); n != 1 {
		t.Errorf("%d lookups, want 1", n)
	}
}

// A client cannot tell whether a name is blocked because of its addresses or does not
// exist. The log can.
func TestBlockedNamesAreLikeMissingOnes(t *testing.T) {
	for name, c := range map[string]struct {
		rules   string
		command socks.Command
	}{
		"blocked network":  {"socks block { from: 0/0 to: 127.0.0.0/8 }\nsocks pass { from: 0/0 to: 0/0 }\n", socks.Connect},
		"no rule for it":   {"socks pass { from: 0/0 to: 10.0.0.0/8 }\n", socks.Connect},
		"another name":     {"socks pass { from: 0/0 to: other.test }\n", socks.Connect},
		"bind":             {"socks block { from: 0/0 to: 127.0.0.0/8 }\nsocks pass { from: 0/0 to: 0/0 }\n", socks.Bind},
		"bind, no address": {"socks pass { from: 0/0 to: 10.0.0.0/8 }\n", socks.Bind},
	} {
		t.Run(name, func(t *testing.T) {
			r := asked{new(atomic.Int64)}
			w := newWorld(t, "client pass { from: 0/0 to: 0/0 }\n"+c.rules, func(o *proxy.Options, _ *proxy.Policy) { o.Resolver = r })
			var replies []socks.Reply
			for _, host := range []string{"is.test", "is-not.test"} {
				replies = append(replies, w.client().request(socks.Request{Command: c.command, Addr: socks.Addr{Name: host, Port: 80}}))
			}
			if replies[0] != replies[1] || replies[0].Code != socks.HostUnreachable {
				t.Errorf("%+v and %+v, want the same with code 4", replies[0], replies[1])
			}
			reasons := map[any]bool{}
			for _, line := range w.log.wait(t, 2) {
				reasons[line["reason"]] = true
			}
			if !reasons["blocked"] || !reasons["unresolved"] {
				t.Errorf("the log has the reasons %v, want blocked and unresolved", reasons)
			}
		})
	}
}
