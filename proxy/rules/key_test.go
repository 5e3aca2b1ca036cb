package rules

import (
	"net/netip"
	"testing"
)

func TestKey(t *testing.T) {
	const rule = "socks pass { from: 0/0 to: 0/0\nsession.state.max: 2\nsession.state.key: "
	for _, c := range []struct{ setting, by, client, want string }{
		{"", "from", "192.0.2.7", "from=192.0.2.7"},
		{"", "from", "::ffff:192.0.2.7", "from=192.0.2.7"},
		{"", "from", "2001:db8::1", "from=2001:db8::/64"},
		{"", "from", "2001:db8::ffff:ffff:ffff:ffff", "from=2001:db8::/64"},
		{"", "from", "2001:db8:0:1::1", "from=2001:db8:0:1::/64"},
		{"", "from", "fe80::1%eth0", "from=fe80::/64"},
		{"session.state.key.ipv6: 1", "from", "2001:db8::1", "from=::/1"},
		{"session.state.key.ipv6: 56", "from", "2001:db8:0:1ff::1", "from=2001:db8:0:100::/56"},
		{"session.state.key.ipv6: 56", "from", "192.0.2.7", "from=192.0.2.7"},
		{"session.state.key.ipv6: 128", "from", "2001:db8::1", "from=2001:db8::1"},
		{"", "user", "2001:db8::1", "user=monica"},
	} {
		s := parse(t, c.setting+"\n"+rule+c.by+" }")
		if got := s.Key(s.Socks[0], netip.MustParseAddr(c.client), "monica"); got != c.want {
			t.Errorf("%s by %s, %s: %s, want %s", c.client, c.by, c.setting, got, c.want)
		}
	}
	if got := (&Set{}).Key(&Rule{}, netip.MustParseAddr("2001:db8::1"), "monica"); got != "" {
		t.Errorf("%q, want no key", got)
	}
}
