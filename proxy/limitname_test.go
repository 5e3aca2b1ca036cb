package proxy_test

import (
	"fmt"
	"strings"
	"testing"

	"usher/proxy/socks"
)

// A refusal names the limit, and for whom it counts if it has a key.
func TestRefusalNamesTheLimit(t *testing.T) {
	to := echo(t)
	const byFrom, byUser = "session.state.key: from\n", "session.state.key: user\n"
	for _, c := range []struct{ limit, reason, want string }{
		{"maxsessions: 1", "limit", "maxsessions: 1"},
		{"session.max: 1", "limit", "session.max: 1"},
		{"session.throttle: 1/3600", "throttle", "session.throttle: 1/3600"},
		{byFrom + "session.state.max: 1", "limit", "session.state.max: 1 for 127.0.0.1"},
		{byFrom + "session.state.throttle: 1/3600", "throttle", "session.state.throttle: 1/3600 for 127.0.0.1"},
		{byUser + "session.state.max: 1", "limit", "session.state.max: 1 for clients without a user name"},
		{byUser + "session.state.max: 1\nsocksmethod: username", "limit", "session.state.max: 1 for user monica"},
		{byFrom + "session.state.max: 1\nsession.max: 1", "limit", "session.max: 1"},
		{byFrom + "session.state.throttle: 1/60\nsession.throttle: 1/60", "throttle", "session.throttle: 1/60"},
	} {
		t.Run(c.want, func(t *testing.T) {
			w := newWorld(t, fmt.Sprintf("socksmethod: username none\nclient pass { from: 0/0 to: 0/0 }\nsocks pass { from: 0/0 to: 0/0\n%s }\n", c.limit), withMonica(t))
			for _, want := range []socks.Code{socks.Succeeded, socks.NotAllowed} {
				one := w.client()
				if strings.Contains(c.limit, "socksmethod: username") {
					one.must(socks.WriteGreeting(one, socks.Username))
					one.expect([]byte{5, 2})
					one.must(socks.WriteCredentials(one, socks.Credentials{User: "monica", Password: "sesame"}))
					one.expect([]byte{1, 0})
					one.must(socks.WriteRequest(one, socks.Request{Version: socks.V5, Command: socks.Connect, Addr: to}))
					one.expect([]byte{5, byte(want)})
					continue
				}
				one.connect(to, want)
			}
			if line := w.reason(c.reason); line["error"] != c.want {
				t.Errorf("error %q, want %q", line["error"], c.want)
			}
		})
	}
}

// The same for a client-rule, which counts before the client is let in.
func TestRefusalOfAClientRuleNamesTheLimit(t *testing.T) {
	w := newWorld(t, "client pass { from: 0/0 to: 0/0\n session.state.key: from\n session.state.max: 1 }\nsocks pass { from: 0/0 to: 0/0 }\n")
	first := w.client()
	first.must(socks.WriteGreeting(first, socks.NoAuth))
	first.expect([]byte{5, 0})
	second := w.client()
	second.send([]byte{5}) // a client from its first byte on
	second.closed()
	if line := w.reason("limit"); line["error"] != "session.state.max: 1 for 127.0.0.1" {
		t.Errorf("error %q", line["error"])
	}
}
