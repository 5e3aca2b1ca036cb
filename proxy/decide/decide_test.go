package decide

import (
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"usher/proxy/rules"
	"usher/proxy/socks"
)

const open = "client pass { from: 0/0 to: 0/0 }\nsocks pass { from: 0/0 to: 0/0 }\n"

func parse(t *testing.T, text string) *rules.Set {
	t.Helper()
	set, found := rules.Parse("f", []byte(text), rules.Env{})
	if set == nil {
		t.Fatal(found)
	}
	return set
}

func TestMethods(t *testing.T) {
	none, username := rules.None, rules.Username
	for _, c := range []struct {
		text   string
		logins bool
		want   []rules.Method
	}{
		{open, false, []rules.Method{none}},
		{open, true, []rules.Method{username}},
		{"socksmethod: username none\n" + open, true, []rules.Method{username, none}},
		{"socksmethod: username none\n" + open, false, []rules.Method{none}},
		{"socksmethod: username\n" + open, false, nil},
		{"socksmethod: username none\nclient pass { from: 0/0 to: 0/0\nsocksmethod: none }\n", true, []rules.Method{none}},
		{"socksmethod: none username\nclient block { from: 0/0 to: 0/0\nsocksmethod: none }\n", true, []rules.Method{none, username}}, // a health check
	} {
		set := parse(t, c.text)
		policy := Policy{Rules: set, Logins: c.logins}
		if got := policy.Methods(set.Client[0]); !slices.Equal(got, c.want) {
			t.Errorf("%q, logins %v: %v, want %v", c.text, c.logins, got, c.want)
		}
	}
}

// An address that is sent as a name is an address, and never has a zone.
func TestTarget(t *testing.T) {
	for name, want := range map[string]rules.Target{
		"one.test":         {Name: "one.test", Port: 80},
		"one.test.":        {Name: "one.test.", Port: 80},
		"192.0.2.1":        {Addr: netip.MustParseAddr("192.0.2.1"), Port: 80},
		"::ffff:192.0.2.1": {Addr: netip.MustParseAddr("192.0.2.1"), Port: 80},
		"fe80::1%eth0":     {Addr: netip.MustParseAddr("fe80::1"), Port: 80},
	} {
		if got := Target(socks.Addr{Name: name, Port: 80}); got != want {
			t.Errorf("%s: %+v, want %+v", name, got, want)
		}
	}
	mapped := socks.Addr{IP: netip.MustParseAddr("::ffff:192.0.2.1"), Port: 80}
	if got := Target(mapped); got.Addr != netip.MustParseAddr("192.0.2.1") {
		t.Errorf("%v: %+v", mapped, got)
	}
}

func TestSource(t *testing.T) {
	addr := netip.MustParseAddr
	unreachable := errors.New("no route")
	for _, c := range []struct {
		rotation, external, to, local string // external: separated by blanks
		want                          string // "": the system chooses
		err                           error
	}{
		{"none", "", "198.51.100.1", "192.0.2.1", "", nil},
		{"none", "192.0.2.1 192.0.2.2 2001:db8::1", "198.51.100.1", "192.0.2.2", "192.0.2.1", nil},
		{"none", "192.0.2.1 2001:db8::1", "2001:db8::9", "192.0.2.1", "2001:db8::1", nil},
		{"none", "192.0.2.1", "2001:db8::9", "192.0.2.1", "", ErrNoExternal},
		{"same-same", "192.0.2.1 192.0.2.2", "198.51.100.1", "192.0.2.2", "192.0.2.2", nil},
		{"same-same", "192.0.2.1 192.0.2.2", "198.51.100.1", "192.0.2.3", "", ErrNoRoute},
		{"route", "192.0.2.1 192.0.2.2", "198.51.100.2", "192.0.2.1", "192.0.2.2", nil},
		{"route", "192.0.2.1", "198.51.100.2", "192.0.2.1", "", ErrNoRoute},
		{"route", "192.0.2.1", "203.0.113.1", "192.0.2.1", "", unreachable},
		{"route", "192.0.2.1 192.0.2.2", "0.0.0.0", "192.0.2.2", "192.0.2.1", nil}, // BIND for anybody
	} {
		s := Session{Policy: &Policy{Rules: parse(t, "external: 192.0.2.1\nexternal.rotation: "+c.rotation+"\n"+open)}, Local: addr(c.local)}
		for _, a := range []string{"192.0.2.1", "192.0.2.2", "2001:db8::1"} {
			if slices.Contains(strings.Fields(c.external), a) {
				s.Policy.External = append(s.Policy.External, addr(a))
			}
		}
		s.Machine.Toward = func(to netip.Addr) (netip.Addr, error) {
			if to == addr("198.51.100.2") {
				return addr("192.0.2.2"), nil
			}
			return netip.Addr{}, unreachable
		}
		var want netip.AddrPort
		if c.want != "" {
			want = netip.AddrPortFrom(addr(c.want), 0)
		}
		if got, err := s.Source(addr(c.to)); !errors.Is(err, c.err) || err == nil && got != want {
			t.Errorf("%+v: %v, %v", c, got, err)
		}
	}
}
