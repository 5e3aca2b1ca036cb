package proxy_test

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"usher/proxy"
	"usher/proxy/record"
	"usher/proxy/socks"
)

// Sessions that newer rules would not admit are ended on demand, and no others.
func TestEndNotAdmitted(t *testing.T) {
	to := echo(t)
	name := socks.Addr{Name: "target.example.com", Port: to.Port}
	const client, all = "client pass { from: 0/0 to: 0/0 }\n", "socks pass { from: 0/0 to: 0/0 }\n"
	for _, c := range []struct {
		what, rules string
		to          socks.Addr
		command     socks.Command
		ends        bool
	}{
		{"the same", client + all, to, socks.Connect, false},
		{"a block for others", client + "socks block { from: 127.0.0.9/32 to: 0/0 }\n" + all, to, socks.Connect, false},
		{"a block for the client", "client block { from: 127.0.0.1/32 to: 0/0 }\n" + client + all, to, socks.Connect, true},
		{"a block for the address dialled", "client pass { from: 0/0 to: 127.0.0.9/32 }\n" + all, to, socks.Connect, true},
		{"a block for the target", client + "socks block { from: 0/0 to: 127.0.0.0/8 }\n" + all, to, socks.Connect, true},
		{"a block for the command", client + "socks pass { from: 0/0 to: 0/0\n command: bind udpassociate }\n", to, socks.Connect, true},
		{"a block for the address of the name", client + "socks block { from: 0/0 to: 127.0.0.0/8 }\n" + all, name, socks.Connect, true},
		{"another address of the name", client + "socks block { from: 0/0 to: 192.0.2.0/24 }\n" + all, name, socks.Connect, false},
		{"a block for the name", client + "socks block { from: 0/0 to: .example.com }\n" + all, name, socks.Connect, true},
		{"a password", "socksmethod: username\n" + client + all, to, socks.Connect, true},
		{"a full limit", client + "socks pass { from: 0/0 to: 0/0\n session.max: 1 }\n", to, socks.Connect, false},
		{"UDP", client + all, socks.Addr{IP: to.IP}, socks.UDPAssociate, false},
		{"a block for UDP", client + "socks pass { from: 0/0 to: 0/0\n command: connect bind }\n", socks.Addr{IP: to.IP}, socks.UDPAssociate, true},
		{"BIND", client + all, to, socks.Bind, false},
		{"a block for BIND", client + "socks pass { from: 0/0 to: 0/0\n command: connect udpassociate }\n", to, socks.Bind, true},
	} {
		t.Run(c.what, func(t *testing.T) {
			var told ends
			w := newWorld(t, "socksmethod: username none\n"+client+all, withEnds(&told), withMonica(t),
				withNames(names{"target.example.com": {netip.MustParseAddr("127.0.0.1")}}))
			one := w.client()
			if reply := one.request(socks.Request{Command: c.command, Addr: c.to}); reply.Code != socks.Succeeded {
				t.Fatalf("reply %d", reply.Code)
			}
			if c.command == socks.Connect {
				one.echoes("hello")
				w.only(record.Relaying)
			}
			old := w.server.Running()[0].ID
			if ended := w.server.EndNotAdmitted(); ended != nil {
				t.Fatalf("%v ended, which its own rules have admitted", ended)
			}
			rules := c.rules
			if !strings.HasPrefix(rules, "socksmethod") {
				rules = "socksmethod: username none\n" + rules
			}
			next := policy(t, rules)
			withMonica(t)(new(proxy.Options), next)
			w.server.SetPolicy(next)
			ended := w.server.EndNotAdmitted()
			if c.ends != slices.Equal(ended, []string{old}) || !c.ends && ended != nil {
				t.Fatalf("ended %v", ended)
			}
			if !c.ends {
				if list := w.server.Running(); len(list) != 1 {
					t.Errorf("running %+v", list)
				}
				return
			}
			if end := told.one(t); end.ID != old || end.Reason != "ended" {
				t.Errorf("end %+v", end)
			}
		})
	}
}

// A session through a balancer is judged by the address in its PROXY header, also when
// it relays.
func TestEndNotAdmittedBehindABalancer(t *testing.T) {
	to := echo(t)
	var told ends
	w := newWorld(t, anybody, withEnds(&told), trusting)
	one := w.client()
	one.send([]byte("PROXY TCP4 192.0.2.1 198.51.100.1 4711 1080\r\n"))
	one.connect(to, socks.Succeeded)
	one.echoes("hello")
	w.only(record.Relaying)
	for i, address := range []string{"198.51.100.1", "198.51.100.2"} {
		w.server.SetPolicy(policy(t, fmt.Sprintf("client pass { from: 192.0.2.1/32 to: %s/32 }\nsocks pass { from: 0/0 to: 0/0 }\n", address)))
		if ended := w.server.EndNotAdmitted(); len(ended) != i {
			t.Errorf("to: %s: ended %v", address, ended)
		}
	}
	told.one(t)
}
