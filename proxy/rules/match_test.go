package rules

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
)

func parse(tb testing.TB, text string) *Set {
	tb.Helper()
	set, diags := Parse("test.conf", []byte(text), testEnv)
	if set == nil {
		tb.Fatalf("refused:\n%s", findings(diags))
	}
	return set
}

func addrs(words string) []netip.Addr {
	var all []netip.Addr
	for _, w := range strings.Fields(words) {
		all = append(all, netip.MustParseAddr(w))
	}
	return all
}

// dns is the resolver of these tests.
func dns(name string) []netip.Addr {
	return addrs(map[string]string{
		"one.test":    "10.0.0.1",
		"two.test":    "10.0.0.1 192.0.2.2",
		"six.test":    "2001:db8::6",
		"both.test":   "2001:db8::7 192.0.2.7 ::ffff:10.0.0.7",
		"client.test": "127.0.0.5",
		"sub.one.net": "198.51.100.1",
		"mapped.test": "::ffff:10.0.0.9",
	}[name])
}

// request is a CONNECT over SOCKS5 without a user, from 127.0.0.1 port 4000.
func request(target string, port uint16) Query {
	q := Query{
		From:    netip.MustParseAddrPort("127.0.0.1:4000"),
		To:      Target{Port: port},
		Version: SOCKS5,
		Lookup:  dns,
	}
	if addr, err := netip.ParseAddr(target); err == nil {
		q.To.Addr = addr
	} else {
		q.To.Name, q.Addrs = target, dns(strings.ToLower(target))
	}
	return q
}

// as makes the query that of an authenticated user, in the given groups.
func (q Query) as(user string, groups ...string) Query {
	q.Method, q.User = Username, user
	q.InGroup = func(g string) bool { return slices.Contains(groups, g) }
	return q
}

func (q Query) from(client string) Query {
	q.From = netip.MustParseAddrPort(client)
	return q
}

func (q Query) command(c Command) Query {
	q.Command = c
	return q
}

// decision writes a verdict as the rule's id and the addresses to dial.
func decision(v Verdict) string {
	if v.Rule == nil {
		return "no rule"
	}
	words := []string{v.Rule.ID()}
	for _, a := range v.Addrs {
		words = append(words, a.String())
	}
	return strings.Join(words, " ")
}

type matchCase struct {
	name  string
	query Query
	want  string
}

func checkSocks(t *testing.T, set *Set, cases []matchCase) {
	t.Helper()
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			if got := decision(set.MatchSocks(c.query)); got != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}

func TestTargetAddresses(t *testing.T) {
	set := parse(t, `
socks block { from: 0/0 to: lo }
socks pass { from: 0/0 to: 10.0.0.0/8 }
socks pass { from: 0/0 to: ::/0 port = 66 }
socks pass { from: 0/0 to: 0.0.0.0/0 port = 44 }
socks pass { from: 0/0 to: eth0 port = 7 }
socks pass { from: 0/0 to: 0/0 port = 1 }
`)
	checkSocks(t, set, []matchCase{
		{"inside a prefix", request("10.9.9.9", 80), "s2 10.9.9.9"},
		{"outside every prefix", request("192.0.2.1", 80), "no rule"},
		{"mapped address", request("::ffff:10.9.9.9", 80), "s2 10.9.9.9"},
		{"mapped address is not IPv6", request("::ffff:192.0.2.1", 66), "no rule"},
		{"IPv6", request("2001:db8::1", 66), "s3 2001:db8::1"},
		{"IPv4 of all IPv4", request("192.0.2.1", 44), "s4 192.0.2.1"},
		{"IPv6 is not IPv4", request("2001:db8::1", 44), "no rule"},
		{"an interface's address", request("127.0.0.1", 1), "s1"},
		{"not its network", request("127.0.0.2", 1), "s6 127.0.0.2"},
		{"IPv6 of an interface", request("::1", 1), "s1"},
		{"link-local of an interface", request("fe80::1", 7), "s5 fe80::1"},
		{"zone of a target", request("fe80::1%eth0", 7), "s5 fe80::1"},
		{"0/0 takes names", request("six.test", 1), "s6 2001:db8::6"},
		{"0/0 takes names without addresses", request("none.test", 1), "s6"},
		{"name with one address inside", request("two.test", 80), "s2 10.0.0.1"},
		{"only addresses of the family", request("both.test", 66), "s2 10.0.0.7"},
		{"name with no address inside", request("six.test", 80), "no rule"},
	})
}

func TestCandidatesKeepTheResolversOrder(t *testing.T) {
	set := parse(t, "socks pass { from: 0/0 to: 0.0.0.0/0 }\nsocks pass { from: 0/0 to: 0/0 }")
	checkSocks(t, set, []matchCase{
		{"inside", request("both.test", 80), "s1 192.0.2.7 10.0.0.7"},
		{"all", request("six.test", 80), "s2 2001:db8::6"},
	})
	q := request("both.test", 80)
	before := slices.Clone(q.Addrs)
	set.MatchSocks(q)
	if !slices.Equal(q.Addrs, before) {
		t.Error("the query's addresses were changed")
	}
}

func TestTargetNames(t *testing.T) {
	set := parse(t, `
socks pass { from: 0/0 to: one.test port = 80 }
socks pass { from: 0/0 to: .one.net }
socks block { from: 0/0 to: six.test port = 22 }
socks pass { from: 0/0 to: unknown.test port = 9 }
socks pass { from: 0/0 to: mapped.test port = 10 }
`)
	checkSocks(t, set, []matchCase{
		{"same name", request("one.test", 80), "s1 10.0.0.1"},
		{"same name in capitals", request("ONE.Test", 80), "s1 10.0.0.1"},
		{"final dot", Query{From: netip.MustParseAddrPort("127.0.0.1:1"), Version: SOCKS5,
			To: Target{Name: "one.test.", Port: 80}, Addrs: addrs("10.0.0.1")}, "s1 10.0.0.1"},
		{"other name, shared address only", request("two.test", 80), "s1 10.0.0.1"},
		{"other name, no shared address", request("six.test", 80), "no rule"},
		{"address of the name", request("10.0.0.1", 80), "s1 10.0.0.1"},
		{"other address", request("10.0.0.2", 80), "no rule"},
		{"below a domain", request("sub.one.net", 80), "s2 198.51.100.1"},
		{"the domain itself", request("one.net", 80), "s2"},
		{"longer label", request("someone.net", 80), "no rule"},
		{"domain in capitals", request("Sub.ONE.net", 80), "s2 198.51.100.1"},
		{"domain and address", request("198.51.100.1", 80), "no rule"},
		{"blocked by name", request("six.test", 22), "s3"},
		{"blocked by its address", request("2001:db8::6", 22), "s3"},
		{"rule's name resolves to a mapped address", request("10.0.0.9", 10), "s5 10.0.0.9"},
		{"rule's name does not resolve", request("10.0.0.1", 9), "no rule"},
	})
	q := request("10.0.0.1", 80)
	q.Lookup = nil
	if v := set.MatchSocks(q); v.Rule != nil {
		t.Errorf("without a resolver %s matched", v.Rule.ID())
	}
}

// A .domain matches at dots only, both if the index finds its rule and without an
// index.
func TestDomainsBeginAtALabel(t *testing.T) {
	for _, from := range []string{"0/0", "127.0.0.1/32"} { // found by the domain, or by the client
		set := parse(t, "socks pass { from: "+from+" to: .one.test }")
		for name, inside := range map[string]bool{
			"one.test": true, "sub.one.test": true, "a.sub.one.test": true, "One.TEST": true, "evil.one.test.": true,
			"evilone.test": false, "sub.evilone.test": false, "evil-one.test": false, "test": false, "one.test.evil": false, "ne.test": false,
		} {
			q := request(name, 80)
			told, _ := set.ExplainSocks(q)
			for by, v := range map[string]Verdict{"index": set.MatchSocks(q), "linear walk": set.linear(false, q), "explain": told} {
				if v.Pass() != inside {
					t.Errorf("from %s, %s by the %s: passes %v", from, name, by, v.Pass())
				}
			}
		}
	}
}

func TestNamesAreLookedUpOnlyIfReached(t *testing.T) {
	set := parse(t, `
socks pass { from: 0/0 to: 10.0.0.0/8 }
socks pass { from: 0/0 to: one.test port = 80 }
`)
	asked := 0
	q := request("10.0.0.1", 80)
	q.Lookup = func(string) []netip.Addr { asked++; return nil }
	set.MatchSocks(q)
	q.To = Target{Addr: netip.MustParseAddr("192.0.2.1"), Port: 81}
	set.MatchSocks(q)
	if asked != 0 {
		t.Errorf("%d lookups for rules that an earlier rule or the port decides", asked)
	}
	q.To.Port = 80
	if set.MatchSocks(q); asked != 1 {
		t.Errorf("%d lookups, want 1", asked)
	}
}

func TestPorts(t *testing.T) {
	set := parse(t, string(read(t, "testdata/good/ports.conf")))
	for target, accepted := range map[string]string{
		"10.0.0.1": "80", "10.0.0.2": "80", "10.0.0.3": "8080", "10.0.0.4": "443", "10.0.0.5": "80",
		"10.0.0.6": "1 24 26 65535", "10.0.0.7": "24 26", "10.0.0.8": "24 26",
		"10.0.0.9": "0 1 1023", "10.0.0.10": "0 1023", "10.0.0.11": "1023", "10.0.0.12": "1023",
		"10.0.0.13": "1024 65535", "10.0.0.14": "1024", "10.0.0.15": "1024 65535", "10.0.0.16": "1024",
		"10.0.0.17": "20 21", "10.0.0.18": "20 21", "10.0.0.19": "20 21", "10.0.0.20": "20 21",
		"10.0.0.21": "0 65535", "10.0.0.22": "8080", "10.0.0.23": "0 65535",
	} {
		for _, port := range strings.Fields(accepted) {
			n, _ := parseNumber(port)
			if v := set.MatchSocks(request(target, uint16(n))); !v.Pass() {
				t.Errorf("%s port %s is refused", target, port)
			}
		}
	}
	for target, refused := range map[string]string{
		"10.0.0.1": "0 79 81", "10.0.0.6": "25", "10.0.0.7": "25", "10.0.0.8": "25",
		"10.0.0.9": "1024", "10.0.0.10": "1024", "10.0.0.11": "1024", "10.0.0.12": "1024 65535",
		"10.0.0.13": "1023", "10.0.0.14": "1023", "10.0.0.15": "1023 0", "10.0.0.16": "1023",
		"10.0.0.17": "19 22", "10.0.0.20": "19 22", "10.0.0.22": "80",
	} {
		for _, port := range strings.Fields(refused) {
			n, _ := parseNumber(port)
			if v := set.MatchSocks(request(target, uint16(n))); v.Pass() {
				t.Errorf("%s port %s passes", target, port)
			}
		}
	}
}

func TestClientRules(t *testing.T) {
	set := parse(t, `
client block { from: 127.0.0.9/32 to: 0/0 }
client pass { from: 127.0.0.0/8 port > 1023 to: lo port = 1080 }
client pass { from: client.test to: 0/0 port = 1081 }
socks pass { from: 0/0 to: 0/0 }
`)
	for _, c := range []struct{ client, local, want string }{
		{"127.0.0.1:4000", "127.0.0.1:1080", "c2"},
		{"[::ffff:127.0.0.1]:4000", "127.0.0.1:1080", "c2"},
		{"127.0.0.1:4000", "[::ffff:127.0.0.1]:1080", "c2"},
		{"127.0.0.1:1023", "127.0.0.1:1080", "no rule"},
		{"127.0.0.1:4000", "127.0.0.1:1082", "no rule"},
		{"127.0.0.1:4000", "127.0.0.2:1080", "no rule"},
		{"127.0.0.9:4000", "127.0.0.1:1080", "c1"},
		{"127.0.0.5:1", "127.0.0.1:1081", "c3"},
		{"10.0.0.1:4000", "127.0.0.1:1080", "no rule"},
	} {
		local := netip.MustParseAddrPort(c.local)
		q := Query{To: Target{Addr: local.Addr(), Port: local.Port()}, Lookup: dns}.from(c.client)
		if got := decision(set.MatchClient(q)); got != c.want {
			t.Errorf("from %s to %s: got %q, want %q", c.client, c.local, got, c.want)
		}
	}
}

func TestUsersAndMethods(t *testing.T) {
	set := parse(t, `
socksmethod: username none
socks pass { from: 0/0 to: 0/0 port = 1
  user: monica erik }
socks pass { from: 0/0 to: 0/0 port = 2
  group: staff ops }
socks pass { from: 0/0 to: 0/0 port = 3
  user: monica
  group: staff }
socks pass { from: 0/0 to: 0/0 port = 4
  socksmethod: username }
socks pass { from: 0/0 to: 0/0 port = 5
  socksmethod: none }
socks pass { from: 0/0 to: 0/0 port = 6
  proxyprotocol: socks_v5 }
socks pass { from: 0/0 to: 0/0 port = 7
  proxyprotocol: http }
socks pass { from: 0/0 to: 0/0 port = 8 }
`)
	to := func(port uint16) Query { return request("10.0.0.1", port) }
	v4 := func(q Query) Query { q.Version = SOCKS4; return q }
	anonymous := to(1)
	anonymous.User = "monica" // a SOCKS4 user id proves nothing
	noGroups := to(2).as("monica")
	noGroups.InGroup = nil
	checkSocks(t, set, []matchCase{
		{"user", to(1).as("monica"), "s1 10.0.0.1"},
		{"second user", to(1).as("erik"), "s1 10.0.0.1"},
		{"other user", to(1).as("ada"), "no rule"},
		{"other case", to(1).as("Monica"), "no rule"},
		{"no user", to(1), "no rule"},
		{"name without method", anonymous, "no rule"},
		{"name without method, SOCKS4", v4(anonymous), "no rule"},
		{"group", to(2).as("monica", "ops"), "s2 10.0.0.1"},
		{"other group", to(2).as("monica", "guests"), "no rule"},
		{"no groups known", noGroups, "no rule"},
		{"group without method", to(2), "no rule"},
		{"user and group", to(3).as("monica", "staff"), "s3 10.0.0.1"},
		{"user without the group", to(3).as("monica"), "no rule"},
		{"group without the user", to(3).as("ada", "staff"), "no rule"},
		{"method", to(4).as("ada"), "s4 10.0.0.1"},
		{"method not used", to(4), "no rule"},
		{"method not used, SOCKS4", v4(to(4)), "no rule"},
		{"method none", to(5), "s5 10.0.0.1"},
		{"SOCKS4 is method none", v4(to(5)), "s5 10.0.0.1"},
		{"method none asked, other used", to(5).as("ada"), "no rule"},
		{"SOCKS5 only", to(6), "s6 10.0.0.1"},
		{"SOCKS5 only, by SOCKS4", v4(to(6)), "no rule"},
		{"HTTP only", to(7), "no rule"},
		{"anybody", to(8), "s8 10.0.0.1"},
		{"anybody named", to(8).as("ada"), "s8 10.0.0.1"},
		{"anybody by SOCKS4", v4(to(8)), "s8 10.0.0.1"},
	})
}

func TestCommands(t *testing.T) {
	set := parse(t, `
socks pass { from: 0/0 to: 0/0 port = 1
  command: connect bindreply }
socks pass { from: 0/0 to: 0/0 port = 2
  protocol: udp }
socks pass { from: 0/0 to: 0/0 port = 3
  command: connect udpassociate
  protocol: tcp }
socks pass { from: 10.0.0.0/8 to: 127.0.0.0/8 port = 4000
  command: bindreply udpreply }
socks pass { from: 0/0 to: 0/0 port = 5
  user: monica }
`)
	to := func(port uint16, c Command) Query { return request("10.0.0.1", port).command(c) }
	checkSocks(t, set, []matchCase{
		{"connect", to(1, Connect), "s1 10.0.0.1"},
		{"bind not named", to(1, Bind), "no rule"},
		{"bindreply", to(1, BindReply), "s1 10.0.0.1"},
		{"udp has no connect", to(2, Connect), "no rule"},
		{"udp packet", to(2, UDPAssociate), "s2 10.0.0.1"},
		{"udp reply", to(2, UDPReply), "s2 10.0.0.1"},
		{"both", to(3, Connect), "s3 10.0.0.1"},
		{"dropped by protocol", to(3, UDPAssociate), "no rule"},
		{"peer of a bind", request("127.0.0.1", 4000).command(BindReply).from("10.1.1.1:20"), "s4 127.0.0.1"},
		{"foreign peer of a bind", request("127.0.0.1", 4000).command(BindReply).from("192.0.2.1:20"), "no rule"},
		{"a reply has no user", to(5, UDPReply), "s5 10.0.0.1"},
		{"a packet has", to(5, UDPAssociate), "no rule"},
	})
}

// The request for an association has no target yet.
func TestAssociationRequest(t *testing.T) {
	ask := Query{From: netip.MustParseAddrPort("127.0.0.1:4000"), Version: SOCKS5, Command: UDPAssociate}
	for _, c := range []struct{ name, rule, want string }{
		{"pass ignores to", "socks pass { from: 0/0 to: 10.0.0.1/32 port = 53 }", "s1"},
		{"pass asks from", "socks pass { from: 10.0.0.0/8 to: 0/0 }", "no rule"},
		{"block of some targets waits for packets", "socks block { from: 0/0 to: 10.0.0.0/8 }", "no rule"},
		{"block of some ports waits for packets", "socks block { from: 0/0 to: 0/0 port = 53 }", "no rule"},
		{"block of everything", "socks block { from: 0/0 to: 0/0 }", "s1"},
		{"block of every port", "socks block { from: 0/0 to: 0/0 port 0-65535 }", "s1"},
		{"block of every port there is", "socks block { from: 0/0 to: 0/0 port > 0 }", "s1"},
		{"block of every port but one", "socks block { from: 0/0 to: 0/0 port > 1 }", "no rule"},
		{"block of every port below one", "socks block { from: 0/0 to: 0/0 port < 65535 }", "no rule"},
		{"block of every port, said otherwise", "socks block { from: 0/0 to: 0/0 port != 0 }", "no rule"},
		{"block of a family", "socks block { from: 0/0 to: 0.0.0.0/0 }", "no rule"},
		{"block of the one family", "external: 127.0.0.1\nsocks block { from: 0/0 to: 0.0.0.0/0 }", "s1"},
		{"block of the one family and some ports", "external: 127.0.0.1\nsocks block { from: 0/0 to: 0.0.0.0/0 port = 53 }", "no rule"},
		{"block of half of the one family", "external: 127.0.0.1\nsocks block { from: 0/0 to: 0.0.0.0/1 }", "no rule"},
		{"block of the other family", "external: 127.0.0.1\nsocks block { from: 0/0 to: ::/0 }", "no rule"},
		{"block of the one family, IPv6", "external: ::1\nsocks block { from: 0/0 to: ::/0 }", "s1"},
		{"block of the other family, IPv4", "external: ::1\nsocks block { from: 0/0 to: 0.0.0.0/0 }", "no rule"},
		{"block of one family of two", "external: 127.0.0.1\nexternal: ::1\nsocks block { from: 0/0 to: 0.0.0.0/0 }", "no rule"},
		{"block of one family of an interface", "external: lo\nsocks block { from: 0/0 to: 0.0.0.0/0 }", "no rule"},
		{"block of the family that is meant of an interface", "external.protocol: ipv4\nexternal: lo\nsocks block { from: 0/0 to: 0.0.0.0/0 }", "s1"},
		{"block of the family of an interface that is not link-local", "external: eth0\nsocks block { from: 0/0 to: 0.0.0.0/0 }", "s1"},
		{"block of one family of an unknown interface", "external: eth9\nsocks block { from: 0/0 to: 0.0.0.0/0 }", "no rule"},
		{"block of everything over TCP", "socks block { from: 0/0 to: 0/0\nprotocol: tcp }", "no rule"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := decision(parse(t, c.rule).MatchSocks(ask)); got != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}

// The examples of Dante's documentation do what it says.
func TestSeedExamples(t *testing.T) {
	open := func(name string) *Set { return parse(t, string(read(t, "testdata/good/"+name))) }
	client := Query{To: Target{Addr: netip.MustParseAddr("192.0.2.1"), Port: 1080}}.from("10.1.1.1:4000")

	negotiating := open("seed-negotiating.conf").MatchClient(client)
	if want := (Session{Limited: true, Max: 10}); !negotiating.Pass() || negotiating.Rule.Session != want {
		t.Errorf("ten negotiating: %+v", negotiating.Rule)
	}
	web := open("seed-web.conf")
	if v := web.MatchSocks(request("192.0.2.80", 80).from("10.1.1.1:1")); !v.Pass() || v.Rule.Session != (Session{Limited: true, Max: 10}) {
		t.Errorf("ten on the web: %+v", v.Rule)
	}
	if v := web.MatchSocks(request("192.0.2.80", 443).from("10.1.1.1:1")); v.Pass() {
		t.Error("ten on the web: another port passes")
	}
	ftp := open("seed-monica.conf")
	to := request("192.0.2.21", 21).from("10.1.1.1:1")
	if v := ftp.MatchSocks(to.as("monica")); !v.Pass() || v.Rule.Session != (Session{Limited: true, Max: 1}) {
		t.Errorf("monica: %+v", v.Rule)
	}
	for _, q := range []Query{to, to.as("erik")} {
		if v := ftp.MatchSocks(q); !v.Pass() || v.Rule.Session.Limited {
			t.Errorf("everybody else (%q): %+v", q.User, v.Rule)
		}
	}
	minimal := open("seed-layer4.conf")
	passes := minimal.MatchClient(client).Pass() && minimal.MatchSocks(request("one.test", 80)).Pass()
	if methods := minimal.MethodsFor(minimal.Client[0]); !passes || !slices.Equal(methods, []Method{None}) {
		t.Errorf("minimal configuration: passes %v, methods %v", passes, methods)
	}
}

func TestMethodsFor(t *testing.T) {
	set := parse(t, `
socksmethod: username none
client pass { from: 10.0.0.0/8 to: 0/0
  socksmethod: username }
client pass { from: 0/0 to: 0/0 }
`)
	if got := set.MethodsFor(set.Client[0]); !slices.Equal(got, []Method{Username}) {
		t.Errorf("the rule's list: %v", got)
	}
	if got := set.MethodsFor(set.Client[1]); !slices.Equal(got, []Method{Username, None}) {
		t.Errorf("the server's list: %v", got)
	}
}
