package rules

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// lints returns the findings of a text: location and beginning of the message.
func lints(t *testing.T, text string) string {
	t.Helper()
	var words []string
	for _, d := range parse(t, text).Lint(t.Context()) {
		if d.Severity == Error || d.Severity == Note || d.Remedy == "" {
			t.Errorf("not a warning with a remedy: %+v", d)
		}
		if strings.Contains(d.Message, "passes the answers") {
			continue // TestLintAnswers
		}
		words = append(words, d.String())
	}
	slices.Sort(words)
	return strings.Join(words, "\n")
}

func TestLintCovered(t *testing.T) {
	const never = "this rule never matches: s1 (line 1)"
	const nearly = "only matches requests for UDP associations: s1 (line 1)"
	for _, c := range []struct{ name, text, want string }{
		{"the same again", "socks block { from: 0/0 to: 0/0 }\nsocks pass { from: 10.0.0.0/8 to: 10.0.0.0/8 }", never},
		{"a smaller network", "socks pass { from: 10.0.0.0/8 to: 10.0.0.0/8 }\nsocks block { from: 10.1.0.0/16 to: 10.2.0.0/16 port = 80 }", never},
		{"a larger network", "socks pass { from: 10.1.0.0/16 to: 10.0.0.0/8 }\nsocks block { from: 10.0.0.0/8 to: 10.0.0.0/8 }", ""},
		{"names are not in networks", "socks block { from: 0/0 to: 0.0.0.0/0 }\nsocks pass { from: 10.0.0.0/8 to: one.test }", ""},
		{"a name is more than its domain", "socks block { from: 0/0 to: .one.test }\nsocks pass { from: 0/0 to: www.one.test }", ""},
		{"a domain that only ends alike", "socks block { from: 0/0 to: .one.test }\nsocks block { from: 0/0 to: .evilone.test }", ""},
		{"a domain below", "socks block { from: 0/0 to: .test }\nsocks block { from: 0/0 to: .one.test }", never},
		{"the same name", "socks block { from: 0/0 to: one.test }\nsocks block { from: 0/0 to: ONE.test port 80 }", never},
		{"an interface without addresses before all", "socks pass { from: 0/0 to: down0 }\nsocks pass { from: 0/0 to: 0/0 }", ""},
		{"an interface without addresses after all", "socks block { from: 0/0 to: 0/0 }\nsocks block { from: 0/0 to: down0 }", never},
		{"an interface", "socks block { from: 0/0 to: lo }\nsocks block { from: 10.0.0.0/8 to: lo }", never},
		{"ports", "socks block { from: 0/0 to: 0/0 port 1-100 }\nsocks pass { from: 10.0.0.0/8 to: 0.0.0.0/0 port 100-101 }", ""},
		{"ports but one", "socks block { from: 0/0 to: 0/0 port != 25 }\nsocks block { from: 10.0.0.0/8 to: 0/0 port 26-99 }", never},
		{"ports but one, below", "socks block { from: 0/0 to: 0/0 port != 25 }\nsocks block { from: 10.0.0.0/8 to: 0/0 port 1-24 }", never},
		{"ports but one, again", "socks block { from: 0/0 to: 0/0 port != 25 }\nsocks block { from: 10.0.0.0/8 to: 0/0 port != 25 }", never},
		{"ports but the first", "socks block { from: 0/0 to: 0/0 port != 0 }\nsocks block { from: 10.0.0.0/8 to: 0/0 port > 0 }\nsocks block { from: 10.0.0.0/8 to: 0/0 port != 0 }",
			"test.conf:3:1: this rule never matches: s1 (line 1)"},
		{"ports with that one", "socks block { from: 0/0 to: 0/0 port != 25 }\nsocks block { from: 10.0.0.0/8 to: 0/0 port 25-99 }", ""},
		{"other users", "socks pass { from: 0/0 to: ::1/128\nuser: a b }\nsocks pass { from: 0/0 to: ::1/128\nuser: b c }", ""},
		{"fewer users", "socks pass { from: 0/0 to: ::1/128\nuser: a b }\nsocks pass { from: 0/0 to: ::1/128\nuser: b }", never},
		{"no user", "socks pass { from: 0/0 to: ::1/128\nuser: a b }\nsocks pass { from: 0/0 to: ::1/128 }", ""},
		{"a group is not a user", "socks pass { from: 0/0 to: ::1/128\ngroup: a }\nsocks pass { from: 0/0 to: ::1/128\nuser: a }", ""},
		{"the method of users", "socks pass { from: 0/0 to: ::1/128\nsocksmethod: username }\nsocks pass { from: 0/0 to: ::1/128\nuser: b }", never},
		{"another method", "socks pass { from: 0/0 to: ::1/128\nsocksmethod: username }\nsocks pass { from: 0/0 to: ::1/128 }", ""},
		{"replies have no method", "socks pass { from: 0/0 to: 0/0\nuser: a }\nsocks pass { from: 0/0 to: ::1/128\ncommand: bindreply }", never},
		{"replies have no group", "socks pass { from: 0/0 to: 0/0\ngroup: a }\nsocks pass { from: 0/0 to: ::1/128\ncommand: bindreply }", never},
		{"fewer groups", "socks pass { from: 0/0 to: ::1/128\ngroup: a b }\nsocks pass { from: 0/0 to: ::1/128\ngroup: b }", never},
		{"fewer groups, of one user", "socks pass { from: 0/0 to: 0/0\ngroup: a b }\nsocks pass { from: 0/0 to: ::1/128\nuser: c\ngroup: b }", never},
		{"other groups", "socks pass { from: 0/0 to: ::1/128\ngroup: a b }\nsocks pass { from: 0/0 to: ::1/128\ngroup: b c }", ""},
		{"ports of clients", "socks block { from: 0/0 port 1-100 to: 0/0 }\nsocks block { from: 10.0.0.0/8 port 80-100 to: 0/0 }", never},
		{"other ports of clients", "socks block { from: 0/0 port 1-100 to: 0/0 }\nsocks block { from: 10.0.0.0/8 port 80-101 to: 0/0 }", ""},
		{"another command", "socks pass { from: 0/0 to: ::1/128\ncommand: connect }\nsocks pass { from: 0/0 to: ::1/128 }", ""},
		{"another version", "socks pass { from: 0/0 to: ::1/128\nproxyprotocol: socks_v4 }\nsocks pass { from: 0/0 to: ::1/128 }", ""},
		{"associations", "socks block { from: 0/0 to: ::1/128 }\nsocks pass { from: 0/0 to: ::1/128 }", nearly},
		{"associations of the only family", "external: 127.0.0.1\nsocks block { from: 0/0 to: 0.0.0.0/0 }\nsocks pass { from: 0/0 to: 10.0.0.0/8 }",
			"test.conf:3:1: this rule never matches: s1 (line 2)"},
		{"families one after the other", "socks pass { from: 0.0.0.0/0 to: ::1/128 }\nsocks pass { from: ::/0 to: ::1/128 }\nsocks block { from: 0/0 to: ::1/128\nprotocol: tcp }",
			"never matches: s1 (line 1), s2 (line 2) match everything first; remove it, or move it before those rules"},
		{"one family", "socks pass { from: 0.0.0.0/0 to: ::1/128 }\nsocks pass { from: 0/0 to: ::1/128 }", ""},
		{"a name without addresses is in no family", "socks pass { from: 0/0 to: 0.0.0.0/0 }\nsocks pass { from: 0/0 to: ::/0 }\nsocks pass { from: 0/0 to: 0/0 }", ""},
		{"families of associations", "socks block { from: 0.0.0.0/0 to: ::1/128 }\nsocks pass { from: ::/0 to: ::1/128 }\nsocks pass { from: 0/0 to: ::1/128 }",
			"only matches requests for UDP associations: s1 (line 1), s2 (line 2) match"},
		{"local addresses of both families", "client pass { from: 0/0 to: 0.0.0.0/0 }\nclient pass { from: 0.0.0.0/0 to: ::/0 }\nclient pass { from: ::/0 to: ::/0 }\nclient pass { from: 0/0 to: 0/0 }",
			"test.conf:4:1: this rule never matches: c1 (line 1), c2 (line 2), c3 (line 3) match"},
		{"all methods of the server", "socksmethod: username\nsocks pass { from: 0/0 to: ::1/128\nsocksmethod: username }\nsocks pass { from: 0/0 to: ::1/128 }",
			"never matches: s1 (line 2)"},
		{"all methods there are", "socks pass { from: 0/0 to: ::1/128\nsocksmethod: none username }\nsocks pass { from: 0/0 to: ::1/128 }", never},
		{"some methods of the server", "socksmethod: username none\nsocks pass { from: 0/0 to: ::1/128\nsocksmethod: username }\nsocks pass { from: 0/0 to: ::1/128 }", ""},
		{"no associations", "socks block { from: 0/0 to: ::1/128 }\nsocks pass { from: 0/0 to: ::1/128\nprotocol: tcp }", never},
	} {
		got := lints(t, c.text)
		if c.want == "" && got != "" || !strings.Contains(got, c.want) {
			t.Errorf("%s: got %q, want %q", c.name, got, c.want)
		}
	}
	many := strings.Repeat("client block { from: 10.0.0.0/8 to: 0/0 }\n", 13)
	if got := lints(t, many); strings.Count(got, "\n") != 9 || !strings.Contains(got, "test.conf:11:1: this rule never matches: c1 (line 1) matches everything first; 2 more rules after it are like this; ") {
		t.Errorf("twelve of a kind:\n%s", got)
	}
}

// If the rules of a list differ in one thing only, each is compared with a few others.
func TestLintComparesFewRules(t *testing.T) {
	const n = 10_000
	lists := append(slices.Clone(longLists),
		longList{name: "groups", rule: func(i int) string { return fmt.Sprintf("socks pass { from: 0/0 to: 0/0\ngroup: group%d }", i) }},
		longList{name: "users beside one", rule: func(i int) string { return fmt.Sprintf("socks pass { from: 0/0 to: 0/0\nuser: admin user%d }", i) }},
		longList{name: "limits by port of the client", rule: func(i int) string {
			return fmt.Sprintf("client pass { from: 0/0 port = %d to: 0/0 session.max: 4 }", i+1)
		}})
	for _, l := range lists {
		set := parse(t, l.text(n))
		c := set.coverage(t.Context(), mostComparisons)
		c.lint(set.Client)
		c.lint(set.Socks)
		set.lintInheritance(c)
		set.lintReach(c)
		if compared := mostComparisons - *c.left; compared > 10*n {
			t.Errorf("%s: %d comparisons of %d rules", l.name, compared, n)
		}
	}
}

// If there would be too many comparisons, this is reported, instead of their findings.
// But what rules let clients reach is compared first.
func TestLintIsBounded(t *testing.T) {
	text := "client pass { from: 10.0.0.0/8 to: 0/0 }\nsocks block { from: 0/0 to: 0/0 port = 1 }\n"
	for i := range 100 { // all hold port 1, and none takes all of a later one
		text += fmt.Sprintf("socks pass { from: 0/0 to: 0/0 port 1-%d command: connect }\n", i+2)
	}
	set := parse(t, text)
	const bounded = "too many rules overlap to compare them all"
	told := func(comparisons int) (all string) {
		for _, d := range set.lint(t.Context(), comparisons) {
			all += d.String() + "\n"
		}
		return all
	}
	const reach = "test.conf:3:1: this rule lets clients reach "
	if got := told(1000); strings.Count(got, "\n") != 2 || !strings.Contains(got, "test.conf:1:1: "+bounded) || !strings.Contains(got, reach) {
		t.Errorf("bounded: %q", got)
	}
	if got := told(1); strings.Count(got, "\n") != 1 || !strings.Contains(got, bounded) {
		t.Errorf("bounded even in what clients can reach: %q", got)
	}
	if got := told(mostComparisons); strings.Contains(got, bounded) || !strings.Contains(got, reach) {
		t.Errorf("in full: %q", got)
	}
	ended, end := context.WithCancel(t.Context())
	end()
	c := set.coverage(ended, mostComparisons)
	if c.lint(set.Socks); *c.left > 0 {
		t.Error("compares for nobody")
	}
}

// For any rules: a rule that is reported as never matching decides no query, and no
// index finds it.
func TestLintCoveredIsNeverWrong(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		set, _ := Parse("random", []byte(anyRules(t)), testEnv)
		for _, d := range set.Lint(t.Context()) {
			if d.Pos.Line < 1 || d.Message == "" || d.Remedy == "" {
				t.Fatalf("a finding without place or remedy: %+v", d)
			}
		}
		dead := map[*Rule]bool{}
		for _, r := range slices.Concat(set.Client, set.Socks) {
			by := set.coverage(t.Context(), mostComparisons).by(r, r)
			dead[r] = by != nil && takeAssociations(by, r)
		}
		for range 20 {
			q := anyQuery(t)
			q.Lookup = dns
			if q.To.Name != "" {
				q.Addrs = dns(strings.ToLower(strings.TrimSuffix(q.To.Name, ".")))
			}
			in := q // always to an address
			in.To.Addr = netip.MustParseAddr(rapid.SampledFrom(someIPs).Draw(t, "local"))
			for _, v := range []Verdict{set.MatchSocks(q), set.MatchClient(in)} {
				if v.Rule != nil && dead[v.Rule] {
					t.Fatalf("%s matches %+v", v.Rule.ID(), q)
				}
			}
		}
	})
}

func TestLintReach(t *testing.T) {
	const in = "client pass { from: 10.0.0.0/8 to: 0/0 }\n"
	const warns = "this rule lets clients reach "
	block := ""
	for _, n := range []string{"127.0.0.0/8", "::1/128", "169.254.0.0/16", "fe80::/10", "fd00:ec2::/32"} {
		block += "socks block { from: 0/0 to: " + n + " }\n"
	}
	block4 := block[:strings.Index(block, "socks block { from: 0/0 to: ::1")] + "socks block { from: 0/0 to: 169.254.0.0/16 }\n"
	for _, c := range []struct{ name, text, want string }{
		{"everything", in + "socks pass { from: 0/0 to: 0/0 }", "test.conf:2:1: " + warns + "this machine at 127.0.0.0/8, this machine at ::1, link-local"},
		{"the first of two", in + "socks pass { from: 0/0 to: 0/0 port = 80 }\nsocks pass { from: 0/0 to: 0/0 }", "test.conf:2:1: " + warns},
		{"blocked", in + block + "socks pass { from: 0/0 to: 0/0 }", ""},
		{"blocked too late", in + "socks pass { from: 0/0 to: 0/0 }\n" + block, warns},
		{"blocked for others", in + strings.ReplaceAll(block, "from: 0/0", "from: 10.1.0.0/16") + "socks pass { from: 0/0 to: 0/0 }", warns},
		{"blocked over TCP, passed over UDP alone", in + strings.ReplaceAll(block, " }", "\nprotocol: tcp }") + "socks pass { from: 0/0 to: 0/0\nprotocol: udp }", warns},
		{"blocked over TCP alone", in + strings.ReplaceAll(block, " }", "\ncommand: connect }") + "socks pass { from: 0/0 to: 0/0 }", warns + "over UDP this machine at 127.0.0.0/8, this machine at ::1"},
		{"blocked over UDP alone", in + strings.ReplaceAll(block, " }", "\nprotocol: udp }") + "socks pass { from: 0/0 to: 0/0 }", warns + "this machine at 127.0.0.0/8, this machine at ::1"},
		{"one is left over UDP", in + strings.Replace(block, "169.254.0.0/16 }", "169.254.0.0/16\ncommand: connect }", 1) + "socks pass { from: 0/0 to: 0/0 }", warns + "over UDP link-local"},
		{"blocked family by family", in + strings.ReplaceAll(block, "from: 0/0", "from: 0.0.0.0/0") + strings.ReplaceAll(block, "from: 0/0", "from: ::/0") + "socks pass { from: 0/0 to: 0/0 }", ""},
		{"all but metadata is left", in + strings.Replace(block, "169.254.0.0/16", "169.254.169.254/32", 1) + "socks pass { from: 0/0 to: 0/0 }", warns + "link-local addresses; put"},
		{"blocked for all that get in", in + strings.ReplaceAll(block, "from: 0/0", "from: 10.0.0.0/8") + "socks pass { from: 0/0 to: 0/0 }", ""},
		{"blocked for all that get in, more than one get in", in + "client pass { from: 192.168.1.0/24 to: 0/0 }\n" + strings.ReplaceAll(block, "from: 0/0", "from: 10.0.0.0/8") +
			strings.ReplaceAll(block, "from: 0/0", "from: 192.168.0.0/16") + "socks pass { from: 0/0 to: 0/0 }", ""},
		{"blocked for one of those that get in", in + "client pass { from: 192.168.0.0/16 to: 0/0 }\n" + strings.ReplaceAll(block, "from: 0/0", "from: 10.0.0.0/8") + "socks pass { from: 0/0 to: 0/0 }", warns},
		{"blocked for a part of those that get in", in + strings.ReplaceAll(block, "from: 0/0", "from: 10.0.0.0/9") + "socks pass { from: 0/0 to: 0/0 }", warns},
		{"blocked at some ports of clients", in + strings.ReplaceAll(block, "from: 0/0", "from: 10.0.0.0/8 port > 1023") + "socks pass { from: 0/0 to: 0/0 }", warns},
		{"blocked at the ports of clients that get in", strings.Replace(in, " to:", " port > 1023 to:", 1) + strings.ReplaceAll(block, "from: 0/0", "from: 0/0 port > 1023") + "socks pass { from: 0/0 to: 0/0 }", ""},
		{"clients that may be others than those that get in", "client pass { from: one.test to: 0/0 }\n" + strings.ReplaceAll(block, "from: 0/0", "from: 10.0.0.0/8") + "socks pass { from: 0/0 to: 0/0 }", warns},
		{"one is left", in + strings.Replace(block, "169.254.0.0/16", "169.254.1.0/24", 1) + "socks pass { from: 0/0 to: 0/0 }", warns + "link-local"},
		{"only IPv4", in + block[:strings.Index(block, "socks block { from: 0/0 to: fe80")] + "socks pass { from: 0/0 to: 0.0.0.0/0 }", ""},
		{"named on purpose", in + "socks pass { from: 0/0 to: 127.0.0.0/8 }\nsocks pass { from: 0/0 to: 192.0.2.0/24 }", ""},
		{"clients of this machine", "client pass { from: 127.0.0.0/8 to: 0/0 }\nsocks pass { from: 0/0 to: 0/0 }", ""},
		{"clients of its interface", "client pass { from: lo to: 0/0 }\nsocks pass { from: 0/0 to: 0/0 }", ""},
		{"clients of localhost", "client pass { from: localhost to: 0/0 }\nsocks pass { from: 0/0 to: 0/0 }", ""},
		{"clients of another interface", "client pass { from: eth0 to: 0/0 }\nsocks pass { from: 0/0 to: 0/0 }", warns},
		{"a part named on purpose", in + "socks pass { from: 0/0 to: 169.254.128.0/17 }\nsocks pass { from: 0/0 to: 169.254.0.0/16 }", ""},
		{"a rule for this machine", "client pass { from: 0/0 to: 0/0 }\nsocks pass { from: 127.0.0.0/8 to: 0/0 }\nsocks pass { from: ::1/128 to: 0/0 }", ""},
		{"replies alone", in + "socks pass { from: 0/0 to: 0/0\ncommand: bindreply udpreply }", ""},
		{"IPv6 is left", in + block4 + "socks pass { from: 0/0 to: 0/0 }", warns + "this machine at ::1, link-local addresses, a cloud's metadata at fd00:ec2::254; put"},
		{"IPv6 does not leave", "external: 192.0.2.7\n" + in + block4 + "socks pass { from: 0/0 to: 0/0 }", ""},
		{"IPv6 of an interface does not leave", "external.protocol: ipv4\nexternal: lo\n" + in + block4 + "socks pass { from: 0/0 to: 0/0 }", ""},
		{"IPv6 of an interface leaves", "external: lo\n" + in + block4 + "socks pass { from: 0/0 to: 0/0 }", warns + "this machine at ::1"},
		{"IPv4 alone leaves", "external: 192.0.2.7\n" + in + "socks pass { from: 0/0 to: 0/0 }",
			warns + "this machine at 127.0.0.0/8, link-local addresses, a cloud's metadata at 169.254.169.254; put"},
		{"IPv6 alone leaves", "external: 2001:db8::7\n" + in + block4 + "socks pass { from: 0/0 to: 0/0 }", warns + "this machine at ::1, link-local"},
	} {
		got := lints(t, c.text)
		if (c.want == "") != (got == "") || !strings.Contains(got, c.want) || strings.Count(got, warns) > 1 {
			t.Errorf("%s: got %q, want %q", c.name, got, c.want)
		}
	}
}

// A client-rule that never matches lets nobody in.
func TestLintReachOfDeadClientRules(t *testing.T) {
	set := parse(t, "client block { from: 10.0.0.0/8 to: 0/0 }\nclient pass { from: 10.1.0.0/16 to: 0/0 }\n"+
		"client pass { from: 127.0.0.0/8 to: 0/0 }\nsocks pass { from: 0/0 to: 0/0 }")
	if found := set.lintReach(set.coverage(t.Context(), mostComparisons)); found != nil {
		t.Errorf("%v, although only clients of this machine get in", found)
	}
}

// A socks-rule is compared with client-rules even where they have no address in
// common, so that counts.
func TestLintReachCountsClientRules(t *testing.T) {
	var text strings.Builder
	for i := range 200 {
		fmt.Fprintf(&text, "client pass { from: 10.0.%d.0/24 to: 0/0 }\n", i)
	}
	text.WriteString("socks pass { from: 192.168.0.0/16 to: 0/0 }\n")
	set := parse(t, text.String())
	c := set.coverage(t.Context(), 100)
	if found := set.lintReach(c); found != nil || *c.left != 0 {
		t.Errorf("%v, %d comparisons are left of 100", found, *c.left)
	}
}

func TestLintInheritance(t *testing.T) {
	const limited = "client pass { from: 10.0.0.0/8 to: 0/0 session.max: 5 }\n"
	const with = "socks pass { from: 10.1.0.0/16 to: 192.0.2.0/24 session.max: 2 }\n"
	const without = "socks pass { from: 10.0.0.0/8 to: 192.0.3.0/24 }\n"
	const others = "client pass { from: 192.168.0.0/16 to: 0/0 }\n"
	const toThem = "socks pass { from: 192.168.0.0/16 to: 10.0.0.0/8 session.max: 2 }\n"
	const some = "test.conf:1:1: the limit of this rule counts sessions to their end, but not sessions by s1 (line 2)"
	const later = "test.conf:1:1: the limit of this rule counts sessions to their end, but not BIND sessions whose peer comes by s1 (line 2)"
	const none = "test.conf:1:1: the limit of this rule counts clients until Usher has read their request, and no session: " +
		"every socks-rule that passes these clients has a limit of its own, such as s1 (line 2)"
	change := func(text, old, new string) string {
		if !strings.Contains(text, old) {
			t.Fatalf("%q is not in %q", old, text)
		}
		return strings.Replace(text, old, new, 1)
	}
	for name, c := range map[string]struct{ text, want string }{
		"some inherit":         {limited + with + without, some},
		"by client":            {change(limited, "session.max: 5", "\nsession.state.key: from\nsession.state.max: 1") + with + without, strings.Replace(some, "line 2", "line 4", 1)},
		"none inherits":        {limited + with, none},
		"all inherit":          {limited + without, ""},
		"the older word":       {change(limited, "session.max", "maxsessions") + with + without, ""},
		"not inheritable":      {change(limited, " }", "\nsession.inheritable: no }") + with + without, ""},
		"a rate is never held": {change(limited, "session.max: 5", "session.throttle: 5/60") + with + without, ""},
		"other clients":        {limited + change(with, "10.1.0.0/16", "192.168.0.0/16") + without + others, ""},
		"others inherit":       {limited + with + change(without, "10.0.0.0/8", "192.168.0.0/16") + others, none},
		"limited replies":      {limited + change(with, "session.max: 2", "\ncommand: bindreply\nsession.max: 2") + without, ""},
		"limited replies to them": {change(limited, "10.0.0.0", "192.0.2.0") + change(with, "session.max: 2", "\ncommand: bindreply\nsession.max: 2") + change(without, "10.0.0.0", "192.0.2.0"),
			later},
		"limited replies to them of HTTP": {change(limited, "10.0.0.0", "192.0.2.0") + change(with, "session.max: 2", "\ncommand: bindreply\nproxyprotocol: http\nsession.max: 2") + change(without, "10.0.0.0", "192.0.2.0"), ""},
		"requests and replies to them":    {limited + toThem + without + others, later},
		"requests to a part of them":      {limited + change(toThem, "10.0.0.0/8", "10.1.0.0/16") + without + others, later},
		"requests alone to them":          {limited + change(toThem, " session", "\ncommand: connect bind\nsession") + without + others, ""},
		"replies that another rule takes": {limited + "socks block { from: 0/0 to: 0/0\ncommand: bindreply }\n" + toThem + without + others, ""},
		"requests to everywhere":          {limited + change(change(toThem, "10.0.0.0/8", "0/0"), " session", "\ncommand: bind bindreply\nsession") + without + others, ""},
		"requests to everywhere of IPv4":  {limited + change(change(toThem, "10.0.0.0/8", "0.0.0.0/0"), " session", "\ncommand: bind bindreply\nsession") + without + others, ""},
		"requests to a domain":            {limited + change(toThem, "10.0.0.0/8", ".one.test") + without + others, ""},
		"requests to a port":              {limited + change(toThem, "10.0.0.0/8", "10.0.0.0/8 port = 443") + without + others, ""},
		"and no BIND": {change(limited, "10.0.0.0", "192.0.2.0") + change(with, "session.max: 2", "\ncommand: bindreply\nsession.max: 2") +
			change(change(without, "10.0.0.0", "192.0.2.0"), " }", "\ncommand: connect }"), ""},
		"a client-rule that is dead": {change(limited, "session.max", "maxsessions") + change(limited, "10.0.0.0/8", "10.1.0.0/16") + with + without,
			"test.conf:2:1: this rule never matches"},
		"all in one pool": {change(limited, " }", "\nsession.pool: p }") + change(with, "session.max: 2", "\nsession.pool: p\nsession.max: 5"), ""},
		"in two pools": {change(limited, " }", "\nsession.pool: p }") + change(with, "session.max: 2", "\nsession.pool: q\nsession.max: 5") + without,
			strings.Replace(some, "line 2", "line 3", 1)},
		"one in the pool, one not": {change(limited, " }", "\nsession.pool: p }") + with + change(without, " }", "\nsession.pool: p\nsession.max: 5 }"),
			strings.Replace(some, "line 2", "line 3", 1)},
		"a rule that is dead":    {limited + without + change(with, "192.0.2.0/24", "192.0.3.0/24\nprotocol: tcp\n"), "test.conf:3:1: this rule never matches"},
		"blocks inherit nothing": {limited + with + change(without, "pass", "block"), none},
	} {
		if got := lints(t, c.text); (c.want == "") != (got == "") || !strings.HasPrefix(got, c.want) || strings.Contains(got, "\n") {
			t.Errorf("%s: got %q, want %q", name, got, c.want)
		}
	}
}

func TestLintStrangers(t *testing.T) {
	const in = "client pass { from: 10.0.0.0/8 to: 0/0 }\nclient block { from: 192.168.0.0/16 to: 0/0 }\n"
	const want = "test.conf:3:1: this rule matches no request, because no client-rule passes a client of its from:"
	for text, warns := range map[string]bool{
		in + "socks pass { from: 192.168.0.0/16 to: 192.0.2.0/24 }":                               true,
		in + "socks pass { from: ::/0 to: 192.0.2.0/24 }":                                         true,
		in + "socks block { from: 192.168.0.0/16 to: 192.0.2.0/24 }":                              false,
		in + "socks pass { from: 10.1.0.0/16 to: 192.0.2.0/24 }":                                  false,
		in + "socks pass { from: 0/0 to: 192.0.2.0/24 }":                                          false,
		in + "socks pass { from: 0.0.0.0/1 to: 192.0.2.0/24 }":                                    false,
		in + "socks pass { from: 9.0.0.0/8 to: 192.0.2.0/24 }":                                    true,
		in + "socks pass { from: 11.0.0.0/8 to: 192.0.2.0/24 }":                                   true,
		in + "client pass { from: lo to: 0/0 }\nsocks pass { from: 11.0.0.0/8 to: 192.0.2.0/24 }": false,
		in + "socks pass { from: one.test to: 192.0.2.0/24 }":                                     false,
		in + "socks pass { from: 192.168.0.0/16 to: 192.0.2.0/24\ncommand: bindreply udpreply }":  false,
		"socks pass { from: 192.168.0.0/16 to: 192.0.2.0/24 }":                                    false,
	} {
		if got := lints(t, text); !warns && got != "" || !strings.HasPrefix(got, want) && warns {
			t.Errorf("%s: got %q, want a warning: %v", text, got, warns)
		}
	}
}

func TestOpenToAll(t *testing.T) {
	const in, out = "client pass { from: 0/0 to: 0/0 }\n", "socks pass { from: 0/0 to: 0/0 }\n"
	const inHalves = "client pass { from: 128.0.0.0/1 to: 0/0 }\nclient pass { from: 0.0.0.0/2 to: 0/0 }\nclient pass { from: 64.0.0.0/2 to: 0/0 }\n"
	const outHalves = "socks pass { from: 0.0.0.0/1 to: 0/0 }\nsocks pass { from: 128.0.0.0/1 to: 0/0 }\n"
	for text, want := range map[string]string{
		in + out: "c1",
		"client pass { from: ::/0 to: 0/0 }\n" + out:                                                             "c1",
		"socksmethod: username none\n" + in + out:                                                                "c1",
		"socksmethod: username\n" + in + out:                                                                     "",
		"socksmethod: username none\n" + in + "socks block { from: 0/0 to: 0/0\nsocksmethod: none }\n" + out:     "",
		"socksmethod: username none\n" + in + "socks block { from: 0/0 to: 0/0\nsocksmethod: username }\n" + out: "c1",
		"client pass { from: 10.0.0.0/8 to: 0/0 }\n" + out:                                                       "",
		"client pass { from: 10.0.0.0/8 to: 0/0 }\n" + in + out:                                                  "c2",
		"client block { from: 0/0 to: 0/0 }\n" + in + out:                                                        "",
		inHalves + out:       "c3",
		inHalves + outHalves: "c3",
		in + outHalves:       "c1",
		"client pass { from: ::/1 to: 0/0 }\nclient pass { from: 8000::/1 to: 0/0 }\n" + out: "c2",
		"client pass { from: ::/0 to: 0/0 }\n" + outHalves:                                   "",
		strings.Replace(inHalves, "64.0.0.0/2", "64.0.0.0/3", 1) + out:                       "",
		in + strings.Replace(outHalves, "128.0.0.0/1", "128.0.0.0/2", 1):                     "",
		in + "socks pass { from: 10.0.0.0/8 to: 0/0 }":                                       "",
		in + "socks block { from: 0/0 to: 0/0 }\n" + out:                                     "",
		in + "socks pass { from: 0/0 to: 0/0\nuser: monica }":                                "",
		in + "socks pass { from: 0/0 to: 0/0\nuser: monica }\n" + out:                        "c1",
		in + "socks pass { from: 0/0 to: 0/0\nsocksmethod: username }":                       "",
		in + "socks pass { from: 0/0 to: 0/0\ncommand: bindreply udpreply }":                 "",
	} {
		set := parse(t, text)
		got := ""
		if r := set.OpenToAll(t.Context(), set.MethodsFor); r != nil {
			got = r.ID()
		}
		if got != want {
			t.Errorf("%s: got %q, want %q", text, got, want)
		}
	}
}
