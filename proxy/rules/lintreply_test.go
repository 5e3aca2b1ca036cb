package rules

import (
	"slices"
	"strings"
	"testing"
)

// told returns the findings of Lint about a text.
func told(t *testing.T, text string) string {
	t.Helper()
	var all []string
	for _, d := range parse(t, text).Lint(t.Context()) {
		all = append(all, d.String())
	}
	slices.Sort(all)
	return strings.Join(all, "\n")
}

func TestLintAnswers(t *testing.T) {
	const in = "client pass { from: 10.0.0.0/8 to: 0/0 }\n"
	const back = "socks pass { from: 0/0 to: 10.0.0.0/8 command: bindreply udpreply }\n"
	const warns = "no rule passes the answers"
	for _, c := range []struct{ name, text, want string }{
		{"the usual file", in + "socks pass { from: 10.0.0.0/8 to: 0/0 }", "test.conf:2:1: this rule passes requests for UDP and BIND, but no rule passes the answers (udpreply, bindreply)"},
		{"one rule for all", in + "socks pass { from: 0/0 to: 0/0 }", ""},
		{"a rule for answers", in + "socks pass { from: 10.0.0.0/8 to: 0/0 }\n" + back, ""},
		{"answers of UDP alone", in + "socks pass { from: 10.0.0.0/8 to: 0/0 }\n" + strings.Replace(back, "bindreply ", "", 1), "requests for BIND, but no rule passes the answers (bindreply)"},
		{"neither is passed", in + "socks pass { from: 10.0.0.0/8 to: 0/0 command: connect }", ""},
		{"answers are blocked first", in + "socks block { from: 0/0 to: 10.0.0.0/8 }\nsocks pass { from: 10.0.0.0/8 to: 0/0 command: udpassociate }\n" + back, warns},
		{"blocks are for requests alone", in + "socks block { from: 0/0 to: 10.0.0.0/8 command: connect udpassociate }\nsocks pass { from: 10.0.0.0/8 to: 0/0 }\n" + back, ""},
		{"answers of another port", in + "socks pass { from: 10.0.0.0/8 to: 0/0 port = 53 command: udpassociate }\nsocks pass { from: 0/0 port = 123 to: 0/0 command: udpreply }", warns},
		{"answers of that port", in + "socks pass { from: 10.0.0.0/8 to: 0/0 port = 53 command: udpassociate }\nsocks pass { from: 0/0 port = 53 to: 0/0 command: udpreply }", ""},
		{"targets that are listed are no place for BIND", in + "socks pass { from: 10.0.0.0/8 to: 192.0.2.0/24 command: connect bind }", ""},
		{"a name as target", in + "socks pass { from: 10.0.0.0/8 to: one.test protocol: udp }", ""},
		{"one family leaves", "external: 192.0.2.7\n" + in + "socks pass { from: 0/0 to: 0/0 command: udpassociate }\nsocks pass { from: 0.0.0.0/0 to: 0/0 command: udpreply }", ""},
		{"a rule that is dead", in + "socks pass { from: 0/0 to: 0/0 }\nsocks pass { from: 10.0.0.0/8 to: 0/0 user: monica }", ""},
		{"SOCKS 4 has no UDP answer to wait for", in + "socks pass { from: 0/0 to: 0/0 proxyprotocol: socks_v4 }", ""},
	} {
		text := strings.ReplaceAll(c.text, " command:", "\ncommand:")
		got := told(t, text)
		if c.want == "" && strings.Contains(got, warns) || !strings.Contains(got, c.want) || strings.Count(got, warns) > 1 {
			t.Errorf("%s: got %q, want %q", c.name, got, c.want)
		}
	}
}

func TestLintEntrances(t *testing.T) {
	const on = "internal: 192.0.2.1 port = 1080\ninternal: ::1 port = 1081\n"
	const socks = "\nsocks pass { from: 0/0 to: 192.0.2.0/24\ncommand: connect }"
	const warns = "nobody gets in by this rule"
	for _, c := range []struct {
		name, text string
		warns      bool
	}{
		{"a target", on + "client pass { from: 0/0 to: 203.0.113.0/24 }", true},
		{"every address", on + "client pass { from: 0/0 to: 0/0 }", false},
		{"the address", on + "client pass { from: 0/0 to: 192.0.2.1/32 }", false},
		{"its port", on + "client pass { from: 0/0 to: 0/0 port = 1080 }", false},
		{"another port", on + "client pass { from: 0/0 to: 0/0 port = 443 }", true},
		{"the port of the other address", on + "client pass { from: 0/0 to: 192.0.2.1/32 port = 1081 }", true},
		{"a rule that blocks", on + "client block { from: 0/0 to: 203.0.113.0/24 }\nclient pass { from: 0/0 to: 0/0 }", false},
		{"every address of a family", "internal: 0.0.0.0 port = 1080\nclient pass { from: 0/0 to: 203.0.113.0/24 }", false},
		{"the other family", "internal: 0.0.0.0 port = 1080\nclient pass { from: 0/0 to: ::/0 }", true},
		{"any port", "internal: 192.0.2.1 port = 0\nclient pass { from: 0/0 to: 0/0 port = 443 }", false},
		{"an interface, whose addresses change", "internal: eth0 port = 1080\nclient pass { from: 0/0 to: 203.0.113.0/24 }", false},
		{"an interface as to", on + "client pass { from: 0/0 to: eth0 }", true},
		{"the interface of the address", "internal: 10.1.2.3\nclient pass { from: 0/0 to: eth0 }", false},
		{"the environment says where", "client pass { from: 0/0 to: 203.0.113.0/24 }", false},
	} {
		if got := told(t, c.text+socks); strings.Contains(got, warns) != c.warns {
			t.Errorf("%s: got %q, want a warning: %v", c.name, got, c.warns)
		}
	}
}

// Remedies can be obeyed: they lock nobody out, and open nothing.
func TestRemediesDoNoHarm(t *testing.T) {
	const in = "client pass { from: 0/0 to: 0/0 }\n"
	for _, c := range []struct{ name, text, want, not string }{
		{"a block of everything at the end", in + "socks pass { from: 0/0 to: 0/0 }\nsocks block { from: 0/0 to: 0/0 }", "remove it, or correct it", "or move it"},
		{"the same for clients", in + "client block { from: 0/0 to: 0/0 }\nsocks pass { from: 0/0 to: 0/0 }", "remove it, or correct it", "or move it"},
		{"an exception behind its rule", in + "socks pass { from: 0/0 to: 0/0 }\nsocks block { from: 0/0 to: 127.0.0.0/8 }", "move it before that rule if it is meant as an exception", ""},
		{"a limit behind its rule", in + "socks pass { from: 0/0 to: 0/0 }\nsocks pass { from: 10.0.0.0/8 to: 0/0 session.max: 5 }", "move it before that rule", ""},
		{"as wide as one of two", "client pass { from: 0.0.0.0/0 to: 0/0 }\nclient pass { from: ::/0 to: 0/0 }\nclient block { from: 0/0 to: 0/0 }\nsocks pass { from: 0/0 to: 0/0 }", "remove it, or correct it", "or move it"},
	} {
		got := ""
		for line := range strings.Lines(told(t, c.text)) {
			if strings.Contains(line, "never matches") {
				got += line
			}
		}
		if !strings.Contains(got, c.want) || c.not != "" && strings.Contains(got, c.not) {
			t.Errorf("%s: got %q, want %q, not %q", c.name, got, c.want, c.not)
		}
	}
	for _, harmful := range []string{"username or none", "0/0 for", "or none to socksmethod", "remove username"} {
		for _, file := range append(cases(t, "testdata/good/*.golden"), cases(t, "testdata/bad/*.golden")...) {
			if strings.Contains(string(read(t, file)), harmful) {
				t.Errorf("%s: a remedy says %q", file, harmful)
			}
		}
	}
}

func TestFold(t *testing.T) {
	_, found := Parse("test.conf", []byte("user.privileged: root\nuser.unprivileged: nobody\nuser.privileged: root\nmethod: none\n"+
		"client pass { from: 0/0 to: 198.51.100.14/0 }\nsocks pass { from: 0/0 to: 0/0 }"), testEnv)
	Sort(found)
	folded := Fold(found)
	want := []string{
		"test.conf:5:29: 198.51.100.14/0 is every address of its family; write 0.0.0.0/0 if you mean that, or 198.51.100.14/32 for the one address",
		"test.conf:4:1: method: is the old name of socksmethod:; write socksmethod:",
		"test.conf:1:1: 3 lines have no effect here: user.privileged: user.unprivileged:; leave them, or remove them, usher validate --json tells why for each",
	}
	var got []string
	for _, d := range folded {
		got = append(got, d.String())
	}
	if !slices.Equal(got, want) || folded[0].Severity != Danger {
		t.Errorf("got %q, want %q", got, want)
	}
	if one := Fold(folded[2:]); len(one) != 1 || one[0] != folded[2] {
		t.Errorf("a single note is %v", one)
	}
}
