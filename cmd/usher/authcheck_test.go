package main

import (
	"strings"
	"testing"
)

func TestCheckAuth(t *testing.T) {
	const (
		in    = "client pass { from: 0/0 to: 0/0 }\n"
		all   = "socks pass { from: 0/0 to: 0/0 }\n"
		named = "socks pass { from: 0/0 to: 0/0\nuser: monica }\n"
		asked = "socks pass { from: 0/0 to: 0/0\nsocksmethod: username }\n"
	)
	for _, c := range []struct {
		what, text string
		usersFile  bool
		want       []string // the places and beginnings of the warnings
	}{
		{"no method line", in + all, false, []string{"f:1:1: there is no socksmethod: line, so none is assumed"}},
		{"no method line, users", in + all, true, []string{"f:1:1: there is no socksmethod: line and USHER_USERS_FILE is set"}},
		{"user without users", "socksmethod: username none\n" + in + named, false,
			[]string{"f:1:1: socksmethod: there is no users file, so no client can log in and the method", "f:4:1: user: there is no users file"}},
		{"user with users", "socksmethod: username none\n" + in + named, true, nil},
		{"username alone without users", "socksmethod: username\n" + in + all, false,
			[]string{"f:1:1: socksmethod: there is no users file, so no client can log in and nobody gets in"}},
		{"socks-rule asks for username", in + asked, false, []string{"f:1:1: ", "f:3:1: socksmethod: there is no users file"}},
		{"or none", "socksmethod: none\n" + in + strings.Replace(asked, "username", "none", 1), false, nil},
		{"client-rule asks for username", "client pass { from: 0/0 to: 0/0\nsocksmethod: username }\n" + all, false,
			[]string{"f:1:1: ", "f:2:1: socksmethod: there is no users file, so no client can log in and nobody whom"}},
		{"none where username is assumed", in + strings.Replace(asked, "username", "none", 1), true,
			[]string{"f:1:1: ", "f:3:1: socksmethod: no client can negotiate what this rule asks for"}},
		{"a client-rule that offers it", strings.Replace(in, " }", "\nsocksmethod: none }", 1) + strings.Replace(asked, "username", "none", 1), true,
			[]string{"f:1:1: "}},
		{"the parser's own warning is enough", "socksmethod: none\n" + in + named, false,
			[]string{"f:4:1: no method gives a name"}},
		{"groups", "socksmethod: username\n" + in + strings.Replace(named, "user:", "group:", 1), true,
			[]string{"f:4:1: group: there is no groups file"}},
	} {
		set, found := parseRules("f", []byte(c.text), c.usersFile)
		if set == nil {
			t.Fatalf("%s: refused: %v", c.what, found)
		}
		if len(found) != len(c.want) {
			t.Errorf("%s: got %q, want %q", c.what, found, c.want)
			continue
		}
		for i, d := range found {
			if !strings.HasPrefix(d.String(), c.want[i]) {
				t.Errorf("%s: got %q, want %q", c.what, d, c.want[i])
			}
		}
	}
}
