package policyfile

import (
	"path/filepath"
	"strings"
	"testing"

	"usher/proxy/users"
)

func TestCheckAuth(t *testing.T) {
	const (
		in     = "client pass { from: 0/0 to: 0/0 }\n"
		all    = "socks pass { from: 0/0 to: 0/0 }\n"
		named  = "socks pass { from: 0/0 to: 0/0\nuser: monica }\n"
		byUser = "socks pass { from: 0/0 to: 0/0\nsession.state.key: user\nsession.state.max: 1\n"
		asked  = "socks pass { from: 0/0 to: 0/0\nsocksmethod: username }\n"
	)
	for _, c := range []struct {
		what, text string
		UsersFile  bool
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
			[]string{"f:1:1: ", "f:2:1: socksmethod: there is no users file, so no client can log in and clients of this rule cannot go on"}},
		{"none where username is assumed", in + strings.Replace(asked, "username", "none", 1), true,
			[]string{"f:1:1: ", "f:3:1: socksmethod: every client must log in, so this rule never matches"}},
		{"a client-rule that offers it", strings.Replace(in, " }", "\nsocksmethod: none }", 1) + strings.Replace(asked, "username", "none", 1), true,
			[]string{"f:1:1: "}},
		{"the parser's own warning is enough", "socksmethod: none\n" + in + named, false,
			[]string{"f:4:1: no client can log in"}},
		{"groups without a file", "socksmethod: username\n" + in + strings.Replace(named, "user:", "group:", 1), true,
			[]string{"f:4:1: group: there is no groups file, so this rule never matches"}},
		{"users are counted and some have no name", "socksmethod: username none\n" + in + byUser + "}", true,
			[]string{"f:4:1: session.state.key: user: clients that use the method none have no user name, so all of them count as one user"}},
		{"users are counted and all are asked", "socksmethod: username\n" + in + byUser + "}", true, nil},
		{"users are counted and the rule asks", "socksmethod: username none\n" + in + byUser + "socksmethod: username }", true, nil},
		{"users are counted and named", "socksmethod: username none\n" + in + byUser + "user: monica }", true, nil},
		{"users are counted where there are none", "socksmethod: none\n" + in + byUser + "}", false,
			[]string{"f:4:1: session.state.key: user: "}},
	} {
		set, found := Parse("f", []byte(c.text), Accounts{UsersFile: c.UsersFile})
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

// TestGroupsOfRules checks that a rule that would block nobody is an error, and that
// one that passes nobody is a warning.
func TestGroupsOfRules(t *testing.T) {
	groups, err := users.LoadGroups(write(t, filepath.Join(t.TempDir(), "groups"), "staff: monica\nempty:\n"))
	if err != nil {
		t.Fatal(err)
	}
	const in = "socksmethod: username\nclient pass { from: 0/0 to: 0/0 }\n"
	with := Accounts{UsersFile: true, GroupsFile: true, Groups: groups}
	for _, c := range []struct {
		what, rule string
		known      Accounts
		refused    bool
		want       string // the beginning of the only finding; "": there is none
	}{
		{"known", "socks block { from: 0/0 to: 0/0\ngroup: staff empty }\n", with, false, ""},
		{"unknown, pass", "socks pass { from: 0/0 to: 0/0\ngroup: stuff staff }\n", with, false,
			`f:4:1: group: the groups file has no group "stuff", so for this group the rule never matches`},
		{"unknown, block", "socks block { from: 0/0 to: 0/0\ngroup: stuff staff }\n", with, true,
			`f:4:1: group: the groups file has no group "stuff", so for this group the rule would block nobody`},
		{"no file, block", "socks block { from: 0/0 to: 0/0\ngroup: staff }\n", Accounts{UsersFile: true}, true,
			"f:4:1: group: there is no groups file, so this rule would block nobody"},
		{"broken file", "socks block { from: 0/0 to: 0/0\ngroup: staff }\n", Accounts{UsersFile: true, GroupsFile: true}, false, ""},
	} {
		set, found := Parse("f", []byte(in+c.rule+"socks pass { from: 0/0 to: 0/0 }\n"), c.known)
		if refused := set == nil; refused != c.refused {
			t.Errorf("%s: refused %v, want %v", c.what, refused, c.refused)
		}
		switch {
		case c.want == "" && len(found) > 0, c.want != "" && len(found) != 1:
			t.Errorf("%s: got %q, want %q", c.what, found, c.want)
		case c.want != "" && !strings.HasPrefix(found[0].String(), c.want):
			t.Errorf("%s: got %q, want %q", c.what, found[0], c.want)
		}
	}
}

// TestUsersOfRules checks that a rule that blocks a user is an error if nobody can be
// this user because there is no users file. It is a warning if nobody could be this
// user even with one, because of the SOCKS version, a client-rule or the settings: then
// the rule blocks nobody in Dante either. A rule with a method only is no error.
func TestUsersOfRules(t *testing.T) {
	const in = "client pass { from: 0/0 to: 0/0 }\n"
	const all = "socks pass { from: 0/0 to: 0/0 }\n"
	const byName = "socks block { from: 0/0 to: 0/0\nuser: monica }\n" + all
	const byName4 = "socks block { from: 0/0 to: 0/0\nproxyprotocol: socks_v4\nuser: monica }\n" + all
	const noneInside = "socksmethod: username none\nclient pass { from: 0/0 to: 0/0\nsocksmethod: none }\n"
	const without4 = "SOCKS 4 has no user names, so this rule blocks nobody"
	const without = "no client can log in, so this rule blocks nobody"
	const never = "no client can negotiate username, which this rule asks for, so it never matches"
	for _, c := range []struct {
		what, text string
		UsersFile  bool
		refused    bool
		want       string // "": nothing is said of the rule
	}{
		{"user, no users file", in + byName, false, true, "f:3:1: user: there is no users file, so no client can log in and this rule would block nobody"},
		{"group, none is asked", noneInside + strings.Replace(byName, "user:", "group:", 1), true, false, "f:5:1: group: " + never},
		{"user, none is asked, no users file", noneInside + byName, false, false, "f:5:1: user: " + never},
		{"user, asked only of clients that are blocked", "socksmethod: username none\nclient block { from: 10.0.0.0/8 to: 0/0\nsocksmethod: username }\n" +
			"client pass { from: 0/0 to: 0/0\nsocksmethod: none }\n" + byName, true, false, "f:7:1: user: " + never},
		{"user, method none", "socksmethod: none\n" + in + byName, true, false, "f:4:1: " + without},
		{"user, method none, no users file", "socksmethod: none\n" + in + byName, false, false, "f:4:1: " + without},
		{"user, users file", in + byName, true, false, ""},
		{"method, no users file", in + "socks block { from: 0/0 to: 0/0\nsocksmethod: username }\n" + all, false, false,
			"f:3:1: socksmethod: there is no users file, so no client can log in and this rule never matches"},
		{"SOCKS 4, users file", in + byName4, true, false, "f:3:1: " + without4},
		{"SOCKS 4, no users file", in + byName4, false, false, "f:3:1: " + without4},
		{"SOCKS 4, method none", "socksmethod: none\n" + in + byName4, false, false, "f:4:1: " + without4},
		{"SOCKS 4, method username", "socksmethod: username\n" + in + byName4, false, false, "f:4:1: " + without4},
		{"SOCKS 4, group", in + strings.Replace(byName4, "user:", "group:", 1), false, false, "f:3:1: " + without4},
		{"SOCKS 4, UDP", in + "socks block { from: 0/0 to: 0/0\nproxyprotocol: socks_v4\nuser: monica\ncommand: udpassociate }\n" + all, false, false,
			"f:3:1: SOCKS 4 has no UDP, so this rule never matches"},
	} {
		known := Accounts{UsersFile: c.UsersFile, GroupsFile: true} // of which the contents are not known
		set, found := Parse("f", []byte(c.text), known)
		if err := AsError(found); (err != nil) != c.refused || (set == nil) != c.refused {
			t.Errorf("%s: set %v, error %v; want refused %v", c.what, set, err, c.refused)
		}
		var ofRule []string
		for _, d := range found {
			if strings.Contains(d.Message, "blocks nobody") || strings.Contains(d.Message, "block nobody") || strings.Contains(d.Message, "never matches") {
				ofRule = append(ofRule, d.String())
			}
		}
		switch {
		case c.want == "" && len(ofRule) > 0, c.want != "" && len(ofRule) != 1:
			t.Errorf("%s: got %q, want %q alone", c.what, ofRule, c.want)
		case c.want != "" && !strings.HasPrefix(ofRule[0], c.want):
			t.Errorf("%s: got %q, want %q", c.what, ofRule[0], c.want)
		}
	}
}
