package rules

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// linear asks every rule in order. An index must give the same answers.
func (s *Set) linear(client bool, q Query) Verdict {
	q = q.plain()
	if client {
		for _, r := range s.Client {
			if r.clientMismatch(&q) == NoMismatch {
				return Verdict{Rule: r}
			}
		}
		return Verdict{}
	}
	for _, r := range s.Socks {
		if addrs, why := r.mismatch(&q); why == NoMismatch {
			return r.verdict(addrs)
		}
	}
	return Verdict{}
}

// The choices are few, so that queries often match rules.
var (
	someAddresses = []string{"0/0", "0/0", "0/0", "0/0", "0/0", "0/0", "0.0.0.0/0", "::/0", "10.0.0.0/8", "10.0.0.0/16", "10.0.0.1/32", "10.0.0.0/31", "192.0.2.0/24",
		"128.0.0.0/1", "2001:db8::/32", "2001:db8::6/128", "lo", "eth0", "eth9", "@special", "one.test", "two.test", "six.test", "none.test"}
	someDomains = []string{".test", ".one.test", ".sub.one.test"}
	somePorts   = []string{"", "", "port = 80", "port = 443", "port 80-443", "port != 80", "port >= 443", "port = 4000", "port 79-4001", "port != 443",
		"port > 4001", "port 32767-32769", "port < 40000", "port >= 65535", "port != 65535"}
	someIPs     = []string{"10.0.0.0", "10.0.0.1", "10.0.0.2", "10.0.7.1", "127.0.0.1", "192.0.2.2", "198.51.100.1", "2001:db8::6", "2001:db8::7", "::1", "::ffff:10.0.0.1"}
	someNames   = []string{"one.test", "TWO.test.", "six.test", "sub.one.test", "a.Sub.one.test", "xone.test", "test", "none.test", "other.example"}
	someOptions = []string{"", "", "user: monica", "user: erik ada", "group: staff", "user: ada\ngroup: staff", "socksmethod: none",
		"socksmethod: username", "command: connect", "command: bindreply udpreply", "protocol: udp", "proxyprotocol: socks_v4"}
)

// anyRules writes a file that is accepted. It avoids .domain and group: in rules that
// block, where they would block nothing and are errors.
func anyRules(t *rapid.T) string {
	pick := func(label string, from ...string) string { return rapid.SampledFrom(from).Draw(t, label) }
	var b strings.Builder
	for range rapid.IntRange(1, 12).Draw(t, "rules") {
		kind, verdict := pick("kind", "client", "socks", "socks"), pick("verdict", "pass", "block")
		from, to, option := someAddresses, slices.Concat(someAddresses, someDomains), ""
		if kind == "socks" {
			option = pick("option", someOptions...)
		}
		switch {
		case verdict == "pass":
			from = to
		case kind == "client":
			to = from
			fallthrough
		case strings.Contains(option, "group"):
			option = ""
		}
		fmt.Fprintf(&b, "%s %s { from: %s %s to: %s %s\n%s }\n", kind, verdict,
			pick("from", from...), pick("port", somePorts...), pick("to", to...), pick("port", somePorts...), option)
	}
	return b.String()
}

func anyQuery(t *rapid.T) Query {
	ip := rapid.Map(rapid.SampledFrom(someIPs), netip.MustParseAddr)
	port := rapid.SampledFrom([]uint16{80, 443, 4000, 7, 4001, 4002, 32768, 40000, 65534, 65535})
	q := Query{
		From:    netip.AddrPortFrom(ip.Draw(t, "from"), port.Draw(t, "port")),
		To:      Target{Port: port.Draw(t, "port")},
		Command: rapid.SampledFrom([]Command{Connect, Connect, Bind, UDPAssociate, BindReply, UDPReply}).Draw(t, "command"),
		Version: rapid.SampledFrom([]Version{SOCKS4, SOCKS5}).Draw(t, "version"),
	}
	switch what := rapid.IntRange(0, 4).Draw(t, "target"); {
	case what < 2 && q.Command != UDPAssociate:
		q.To.Addr = ip.Draw(t, "to")
	case what < 4:
		q.To.Name = rapid.SampledFrom(someNames).Draw(t, "name")
		q.Addrs = rapid.SliceOfN(ip, 0, 4).Draw(t, "addresses")
	default:
		q.To = Target{}
	}
	if rapid.Bool().Draw(t, "login") {
		q = q.as(rapid.SampledFrom([]string{"monica", "erik", "ada", "bob"}).Draw(t, "user"),
			rapid.SampledFrom([]string{"staff", "guests"}).Draw(t, "group"))
	}
	return q
}

func TestIndexDecidesAsALinearWalk(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		set, diags := Parse("random", []byte(anyRules(t)), testEnv)
		if set == nil {
			t.Fatalf("refused:\n%s", findings(diags))
		}
		for range 15 {
			q := anyQuery(t)
			client := rapid.Bool().Draw(t, "client-rules")
			var asked, needed []string
			noting := func(list *[]string) func(string) []netip.Addr {
				return func(name string) []netip.Addr { *list = append(*list, name); return dns(name) }
			}
			match, explain := set.MatchSocks, set.ExplainSocks
			if client {
				match, explain = set.MatchClient, set.ExplainClient
			}
			q.Lookup = noting(&asked)
			got := match(q)
			q.Lookup = noting(&needed)
			want := set.linear(client, q)
			if decision(got) != decision(want) {
				t.Fatalf("%+v: got %s, want %s", q, decision(got), decision(want))
			}
			if !subsequence(asked, needed) {
				t.Fatalf("looked up %q, a linear walk looks up %q", asked, needed)
			}
			if told, _ := explain(q); decision(told) != decision(want) {
				t.Fatalf("%+v: explained as %s, want %s", q, decision(told), decision(want))
			}
		}
	})
}

// A rule that is found by its ports is found by each of them and by no other.
func TestIndexKnowsEveryPort(t *testing.T) {
	for _, spec := range []string{"port = 0", "port = 80", "port = 65535", "port 1-65534", "port 80-443", "port 32767-32769", "port < 40000",
		"port >= 443", "port > 65533", "port != 0", "port != 4001", "port != 65535"} {
		to, from := parse(t, "socks pass { from: 0/0 to: 0/0 "+spec+" }"), parse(t, "socks pass { from: 0/0 "+spec+" to: 0/0 }")
		q := request("10.0.0.1", 0)
		for port := range 1 << 16 {
			q.To.Port = uint16(port)
			q.From = netip.AddrPortFrom(q.From.Addr(), q.To.Port)
			for _, set := range []*Set{to, from} {
				if got, want := set.MatchSocks(q).Rule, set.linear(false, q).Rule; got != want {
					t.Fatalf("%s: port %d: got %v, want %v", spec, port, got, want)
				}
			}
		}
	}
}

// subsequence reports whether part is whole without some of its elements.
func subsequence(part, whole []string) bool {
	for _, w := range whole {
		if len(part) > 0 && part[0] == w {
			part = part[1:]
		}
	}
	return len(part) == 0
}

// In a list of ten thousand rules, a query is compared with few rules, whatever the
// rules differ in. The test counts rules, because times vary.
func TestIndexLeavesOutMostRules(t *testing.T) {
	for _, l := range longLists {
		set := parse(t, l.text(10_000))
		q := l.query
		plain := q.plain()
		if asked := set.socks[q.kind()].asked(&plain); asked != 1 {
			t.Errorf("%s: %d rules asked", l.name, asked)
		}
		if got := set.MatchSocks(q).Rule; got != set.Socks[len(set.Socks)-1] {
			t.Errorf("%s: matched %v, want the last rule", l.name, got)
		}
	}
}

// The same for questions other than requests.
func TestEveryIndexLeavesOutMostRules(t *testing.T) {
	var text strings.Builder
	for _, kind := range []string{"client", "socks"} {
		for i := range 10_000 {
			fmt.Fprintf(&text, "%s block { from: %s/24 to: 0/0 }\n", kind, numbered(i))
		}
		fmt.Fprintf(&text, "%s pass { from: 0/0 to: 0/0 }\n", kind)
	}
	set := parse(t, text.String())
	q := request("192.0.2.7", 80).plain()
	for name, x := range map[string]*index{
		"client-rules": set.clients, "associations": set.socks[kindAssociation], "replies": set.socks[kindReply],
	} {
		if asked := x.asked(&q); asked != 1 {
			t.Errorf("%s: %d rules asked", name, asked)
		}
	}
}

// asked counts the rules that may match q.
func (x *index) asked(q *Query) (n int) {
	for r, left := x.next(x.candidates(nil, q)); r != nil; r, left = x.next(left) {
		n++
	}
	return n
}

// longList is a kind of long list that is used in practice, with a query that its last
// rule answers.
type longList struct {
	name  string
	rule  func(i int) string
	last  string
	query Query
}

var longLists = []longList{
	{"blocked networks",
		func(i int) string { return fmt.Sprintf("socks block { from: 0/0 to: %s/%d }", numbered(i), 24+i%9) },
		"socks pass { from: 0/0 to: 0/0 }", request("192.0.2.7", 80)},
	{"blocked domains",
		func(i int) string { return fmt.Sprintf("socks block { from: 0/0 to: .site%d.example }", i) },
		"socks pass { from: 0/0 to: 0/0 }", request("www.one.test", 80)},
	{"clients",
		func(i int) string {
			return fmt.Sprintf("socks pass { from: %s/32 to: 10.0.0.0/8 session.max: 2 }", numbered(i))
		},
		"socks pass { from: 0/0 to: 0.0.0.0/0 }", request("10.2.3.4", 80)},
	{"users",
		func(i int) string { return fmt.Sprintf("socks pass { from: 0/0 to: 0/0\nuser: user%d }", i) },
		"socks pass { from: 0/0 to: 0/0\nuser: monica }", request("10.2.3.4", 80).as("monica")},
	{"ports",
		func(i int) string { return fmt.Sprintf("socks pass { from: 0/0 to: 0/0 port = %d }", 1000+i) },
		"socks pass { from: 0/0 to: 0/0 port = 80 }", request("10.2.3.4", 80)},
	{"ranges of ports",
		func(i int) string {
			return fmt.Sprintf("socks pass { from: 0/0 to: 0/0 port %d-%d }", 1000+6*i, 1004+6*i)
		},
		"socks pass { from: 0/0 to: 0/0 port < 1000 }", request("10.2.3.4", 80)},
	{"ports of clients",
		func(i int) string { return fmt.Sprintf("socks block { from: 0/0 port = %d to: 0/0 }", 5000+i) },
		"socks pass { from: 0/0 port = 4000 to: 0/0 }", request("10.2.3.4", 80)},
	{"users and networks",
		func(i int) string {
			if i%2 == 0 {
				return fmt.Sprintf("socks pass { from: 0/0 to: 0/0\nuser: user%d }", i)
			}
			return fmt.Sprintf("socks block { from: 0/0 to: %s/24 }", numbered(i))
		},
		"socks pass { from: 0/0 to: 0/0 }", request("10.2.3.4", 80).as("monica")},
}

// crowdedLists are lists in which several rules are compared: they have two conditions,
// each shared by many rules, or only conditions that the index does not cover.
var crowdedLists = []longList{
	{"users of networks",
		func(i int) string {
			return fmt.Sprintf("socks pass { from: 0/0 to: %s/24\nuser: user%d }", numbered(i/100), i%100)
		},
		"socks pass { from: 0/0 to: 20.0.99.0/24\nuser: user99 }", request("20.0.99.1", 80).as("user99")},
	{"groups",
		func(i int) string { return fmt.Sprintf("socks pass { from: 0/0 to: 0/0\ngroup: group%d }", i) },
		"socks pass { from: 0/0 to: 0/0\ngroup: staff }", request("10.2.3.4", 80).as("monica", "staff")},
	{"host names",
		func(i int) string { return fmt.Sprintf("socks pass { from: 0/0 to: host%d.example }", i) },
		"socks pass { from: 0/0 to: one.test }", request("one.test", 80)},
}

// numbered returns the i-th /24 from 20.0.0.0 on.
func numbered(i int) string { return fmt.Sprintf("%d.%d.%d.0", 20+i>>16, i>>8&255, i&255) }

func (l longList) text(n int) string {
	var b strings.Builder
	for i := range n - 1 {
		b.WriteString(l.rule(i) + "\n")
	}
	return b.String() + l.last
}

func BenchmarkMatch(b *testing.B) {
	for _, l := range slices.Concat(longLists, crowdedLists) {
		for _, n := range []int{10, 1000, 10_000} {
			set := parse(b, l.text(n))
			q := l.query
			for name, match := range map[string]func(Query) Verdict{
				"": set.MatchSocks, "/linear": func(q Query) Verdict { return set.linear(false, q) },
			} {
				b.Run(fmt.Sprintf("%s/%d%s", l.name, n, name), func(b *testing.B) {
					b.ReportAllocs()
					for b.Loop() {
						if match(q).Rule == nil {
							b.Fatal("no rule")
						}
					}
				})
			}
		}
	}
}

func BenchmarkParse(b *testing.B) {
	for _, l := range longLists {
		text := l.text(10_000)
		b.Run(l.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				parse(b, text)
			}
		})
	}
}
