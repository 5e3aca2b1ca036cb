package proxy_test

import (
	"fmt"
	"strings"
	"testing"

	"usher/proxy/socks"
)

// as sends a PROXY header about a client at an IPv6 address, and then a request.
func (w *world) as(address string, to socks.Addr) socks.Code {
	w.t.Helper()
	c := w.client()
	c.send(fmt.Appendf(nil, "PROXY TCP6 %s 2001:db8:ffff::1 4711 1080\r\n", address))
	return c.request(socks.Request{Addr: to}).Code
}

// A client that uses other addresses of its IPv6 network gets no additional slots:
// addresses count by their /64, or by session.state.key.ipv6.
func TestLimitByIPv6Network(t *testing.T) {
	to := echo(t)
	for _, c := range []struct{ setting, granted, refused, elsewhere, key string }{
		{"", "2001:db8::1 2001:db8::2", "2001:db8::ffff:ffff:ffff:ffff", "2001:db8:0:1::", "from=2001:db8::/64"},
		{"session.state.key.ipv6: 48", "2001:db8::1 2001:db8:0:1::", "2001:db8:0:ffff::1", "2001:db8:1::", "from=2001:db8::/48"},
		{"session.state.key.ipv6: 128", "2001:db8::1 2001:db8::1", "2001:db8::1", "2001:db8::2", "from=2001:db8::1"},
	} {
		for _, where := range []string{"client", "socks"} {
			t.Run(strings.TrimSpace(where+" "+c.setting), func(t *testing.T) {
				limit := map[string]string{where: "session.state.key: from\nsession.state.max: 2\n"}
				w := newWorld(t, c.setting+"\nclient pass { from: 0/0 to: 0/0\n"+limit["client"]+"}\nsocks pass { from: 0/0 to: 0/0\n"+limit["socks"]+"}\n", trusting)
				for address := range strings.FieldsSeq(c.granted) {
					if code := w.as(address, to); code != socks.Succeeded {
						t.Errorf("%s: reply %d, want 0", address, code)
					}
				}
				if where == "socks" {
					if code := w.as(c.refused, to); code != socks.NotAllowed {
						t.Errorf("%s: reply %d, want 2", c.refused, code)
					}
				} else {
					late := w.client()
					late.send(fmt.Appendf(nil, "PROXY TCP6 %s 2001:db8:ffff::1 4711 1080\r\n\x05", c.refused)) // a client from its first byte on
					late.closed()
				}
				if key := w.reason("limit")["limit_key"]; key != c.key {
					t.Errorf("limit_key %v, want %s", key, c.key)
				}
				if code := w.as(c.elsewhere, to); code != socks.Succeeded {
					t.Errorf("%s: reply %d, want 0", c.elsewhere, code)
				}
			})
		}
	}
}
