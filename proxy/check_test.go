package proxy_test

import (
	"fmt"
	"net/netip"
	"testing"

	proxyproto "github.com/pires/go-proxyproto"

	"usher/proxy"
	"usher/proxy/socks"
)

// oneEver is a client-rule whose rate a single health check would use up.
const oneEver = "client pass { from: 0/0 to: 0/0\n session.max: 1\n session.throttle: 1/3600 }\nsocks pass { from: 0/0 to: 0/0 }\n"

// far trusts a balancer that these tests do not use.
func far(o *proxy.Options, _ *proxy.Policy) {
	o.TrustedProxies = []netip.Prefix{netip.MustParsePrefix("192.0.2.1/32")}
}

// unhurried gives health checks as much time as a busy machine needs.
func unhurried(o *proxy.Options, _ *proxy.Policy) { o.CheckGrace = patience }

// requireChecks waits until n health checks were counted. It fails if they had any
// other effect.
func (w *world) requireChecks(n float64) {
	w.t.Helper()
	eventually(w.t, func() string {
		if got := w.metric("usher_health_checks_total"); got != n {
			return fmt.Sprintf("%v health checks counted, want %v", got, n)
		}
		return ""
	})
	w.requireFree()
}

// A connection that ends without a byte after its header is a health check, whoever
// sent it and however it ends. It takes no slot, uses up no rate, is not logged, and
// has its own counter. The rate admits one client, which is served after all checks.
func TestConnectingAndLeavingIsAHealthCheck(t *testing.T) {
	to := echo(t)
	for _, c := range []struct {
		name   string
		head   []byte
		behind bool
	}{
		{"direct", nil, false},
		{"a balancer without a header", nil, true},
		{"version 1", header(t, 1, proxyproto.PROXY), true},
		{"version 1 at its own address", []byte("PROXY TCP4 127.0.0.9 127.0.0.1 4711 1080\r\n"), true},
		{"version 1, UNKNOWN", []byte("PROXY UNKNOWN\r\n"), true},
		{"version 2", header(t, 2, proxyproto.PROXY), true},
		{"version 2, LOCAL", header(t, 2, proxyproto.LOCAL), true},
	} {
		t.Run(c.name, func(t *testing.T) {
			trust := far
			if c.behind {
				trust = trusting
			}
			w := newWorld(t, oneEver, trust, unhurried)
			for range 2 {
				closes, resets, halfCloses := w.client(), w.client(), w.client()
				resets.must(resets.SetLinger(0)) // as HAProxy does
				for _, check := range []*client{closes, resets, halfCloses} {
					check.send(c.head)
				}
				closes.Close()
				resets.Close()
				halfCloses.must(halfCloses.CloseWrite())
				halfCloses.closed()
			}
			w.left("", 0)
			w.requireChecks(6)
			client := w.client()
			if c.head == nil && c.behind {
				c.head = header(t, 2, proxyproto.PROXY)
			}
			client.send(c.head)
			client.connect(to, socks.Succeeded)
		})
	}
}

// A client that stays silent counts as a client after a second: it takes a slot, and
// its end is logged.
func TestSilentClientsAreCounted(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name   string
		head   []byte
		setups []setup
	}{
		{"direct", nil, nil},
		{"beside a balancer", nil, []setup{far}},
		{"version 1", header(t, 1, proxyproto.PROXY), []setup{trusting}},
		{"version 1, UNKNOWN", []byte("PROXY UNKNOWN\r\n"), []setup{trusting}},
		{"version 2", header(t, 2, proxyproto.PROXY), []setup{trusting}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, "client pass { from: 0/0 to: 0/0\n session.max: 1 }\n"+anybody, c.setups...)
			silent := w.client()
			silent.send(c.head)
			w.hold("c1", 1)
			for _, greeting := range [][]byte{{5, 1, 0}, nil} { // there is no slot left, for the silent neither
				refused := w.client()
				refused.send(append(c.head[:len(c.head):len(c.head)], greeting...))
				refused.closed()
			}
			w.log.wait(t, 2)
			silent.Close()
			for i, line := range w.log.wait(t, 3) {
				if want := []string{"limit", "limit", "no_greeting"}[i]; line["reason"] != want || line["level"] != "INFO" || line["client_rule"] != "c1" {
					t.Errorf("log %v, want %s", line, want)
				}
			}
			if n := w.metric("usher_sessions_rejected_total", "rule", "", "reason", "no_greeting"); n != 1 {
				t.Errorf("%v counted, want 1", n)
			}
			if n := w.metric("usher_health_checks_total"); n != 0 {
				t.Errorf("%v health checks counted, want 0", n)
			}
			w.left("c1", 1)
		})
	}
}

// A silent client ends at the negotiation deadline, even if the deadline comes before
// it would count as a client.
func TestSilentToAShortDeadline(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "client pass { from: 0/0 to: 0/0\n session.max: 1\n timeout.negotiate: 1 }\n"+anybody)
	w.client().closed()
	w.reason("negotiation_timeout")
	w.left("c1", 1)
}

// The messages of a client may arrive in pieces and with pauses.
func TestGreetingInPieces(t *testing.T) {
	t.Parallel()
	to := echo(t)
	w := newWorld(t, oneEver)
	c := w.client()
	w.hold("c1", 1) // silent
	for _, b := range []byte{5, 1, 0} {
		c.send([]byte{b})
	}
	c.expect([]byte{5, 0})
	c.must(socks.WriteRequest(c, socks.Request{Version: socks.V5, Command: socks.Connect, Addr: to}))
	if r, err := socks.ReadReply(c, socks.V5); err != nil || r.Code != socks.Succeeded {
		t.Errorf("%+v, %v", r, err)
	}
}
