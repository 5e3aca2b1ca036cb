package rules

import (
	"reflect"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// Any accepted file prints to a text with the same meaning.
func TestCanonicalText(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		text := drawFile(rt)
		set, _ := Parse("drawn", []byte(text), testEnv)
		if set == nil {
			rt.Skip("the keywords that were drawn contradict each other")
		}
		checkCanonical(rt, set)
	})
}

// checkCanonical checks that the canonical text of a set reads back as an equal set.
func checkCanonical(t rapid.TB, set *Set) {
	t.Helper()
	printed := set.String()
	again, diags := Parse("printed", []byte(printed), testEnv)
	if again == nil {
		t.Fatalf("printed as\n%s\nwhich is refused:\n%s", printed, findings(diags))
	}
	if again.String() != printed || again.Digest() != set.Digest() {
		t.Errorf("printed as\n%s\nwhich parses to\n%s", printed, again)
	}
	if !reflect.DeepEqual(withoutPlaces(again), withoutPlaces(set)) {
		t.Errorf("printed as\n%s\nwhich is\n%+v\nand not\n%+v", printed, withoutPlaces(again), withoutPlaces(set))
	}
}

// meaning is the part of a set that does not depend on the lines of the file.
type meaning struct {
	Settings Settings
	Rules    []Rule
}

func withoutPlaces(s *Set) (m meaning) {
	m.Settings = s.Settings
	m.Settings.MethodsAt, m.Settings.LogOutputAt, m.Settings.ErrorLogAt = Pos{}, Pos{}, Pos{}
	for _, list := range []*[]Endpoint{&m.Settings.Internal, &m.Settings.External} {
		*list = slices.Clone(*list)
		for i := range *list {
			(*list)[i].Pos = Pos{}
		}
	}
	for _, r := range slices.Concat(s.Client, s.Socks) {
		bare := *r
		bare.Pos, bare.MethodsAt, bare.UserAt, bare.GroupAt, bare.KeyAt = Pos{}, Pos{}, Pos{}, Pos{}, Pos{}
		bare.maxKeyword = "" // two spellings of one limit
		m.Rules = append(m.Rules, bare)
	}
	return m
}

// drawn are lines that may stand in each place. Not all go together.
var (
	drawnSettings = []string{
		"internal: 127.0.0.1", "internal: eth0 port = 0", "external: 127.0.0.1", "external: lo", "external: ::1",
		"internal.protocol: ipv4", "internal.protocol: ipv4 ipv6", "external.protocol: ipv6", "external.rotation: same-same", "external.rotation: none", "external.rotation: route",
		"udp.connectdst: no", "udp.connectdst: yes", "socksmethod: username none", "socksmethod: none", "socksmethod: username",
		"session.state.key.ipv6: 56", "session.state.key.ipv6: 64", "session.state.key.ipv6: 128",
		"timeout.io: 5", "timeout.io.tcp: 7", "timeout.io.udp: 0", "timeout.connect: 0", "timeout.negotiate: 99", "iotimeout: 3",
		"internal.tcp.tcp_keepidle: 60", "internal.socket.so_keepalive: 0", "external.tcp.tcp_keepcnt: 9",
		"logoutput: stderr /tmp/a=b", "errorlog: syslog",
	}
	drawnSession = []string{
		"maxsessions: 0", "maxsessions: 7", "session.max: 7", "session.max: 070", "session.throttle: 5 / 2", "session.throttle: 0xf/1",
		"session.state.key: from\nsession.state.max: 3", "session.state.key: from\nsession.state.throttle: 5/2", "session.state.max: 1\nsession.state.key: from\nsession.state.throttle: 9/9",
		"session.mode: report", "session.mode: enforce\nsession.max: 7", "session.pool: web", "session.pool: web\nsession.max: 7", "session.pool: each\nsession.state.key: from\nsession.state.max: 3",
	}
	drawnRule = []string{
		"socksmethod: none", "socksmethod: username", "socksmethod: username none", "log: connect error", "log: ioop data tcpinfo disconnect",
		"internal.tcp.tcp_keepidle: 60", "internal.tcp.tcp_keepintvl: 9", "internal.socket.so_keepalive: 1", "rule.name: web-1.a_B",
	}
	drawnClient = []string{"session.inheritable: no", "timeout.negotiate: 1"}
	drawnSocks  = []string{
		"timeout.io: 1", "timeout.connect: 30", "timeout.io.udp: 86400", "timeout.io.tcp: 6",
		"external.tcp.tcp_keepcnt: 9", "external.socket.so_keepalive: 0",
		"command: connect", "command: bind bindreply", "command: udpreply", "command: udpassociate", "protocol: tcp", "protocol: udp", "protocol: udp tcp",
		"proxyprotocol: socks_v4", "proxyprotocol: socks_v5 socks_v4", "proxyprotocol: http", "proxyprotocol: upnp socks_v5",
		"user: b a", "user: Ada a", "group: staff", "udp.portrange: 1-65535", "udp.portrange: 5 - 5",
		"session.state.key: user\nsession.state.max: 2",
	}
	drawnAddresses = []string{
		"0/0", "@special", "0.0.0.0/0", "::/0", "10.1.2.3/8", "10.0.0.0/255.255.0.0", "fd00::1/64", "::ffff:0:0/95", "lo", "eth0", "eth0.", "ETH0", "Wan0", "nowhere", "WWW.example.com.", ".Example.com",
	}
	drawnPorts = []string{"", " port = http", " port 80", " port != 5", " port 1-65535", " port 0 - 9", " port < 9", " port >= 0", " port gt 9", " port le 65535"}
)

func drawFile(t *rapid.T) string {
	var b strings.Builder
	lines := func(choices []string, most int) {
		for _, s := range rapid.SliceOfN(rapid.SampledFrom(choices), 0, most).Draw(t, "lines") {
			b.WriteString(s + "\n")
		}
	}
	lines(drawnSettings, 6)
	for range rapid.IntRange(1, 4).Draw(t, "rules") {
		header := rapid.SampledFrom([]string{"client pass", "client-block", "socks pass", "socks pass", "pass", "socks-block"}).Draw(t, "header")
		address := func() string {
			return rapid.SampledFrom(drawnAddresses).Draw(t, "address") + rapid.SampledFrom(drawnPorts).Draw(t, "port")
		}
		b.WriteString(header + " { from: " + address() + " to: " + address() + "\n")
		lines(drawnSession, 2)
		lines(drawnRule, 2)
		if !strings.HasPrefix(header, "client") {
			lines(drawnSocks, 3)
		} else {
			lines(drawnClient, 2)
		}
		b.WriteString("}\n")
	}
	return b.String()
}

// A name with a final dot is never an interface, and one without may be one on another
// replica: the two have different texts and digests, also where there is no interface.
func TestFinalDotIsKept(t *testing.T) {
	read := func(to string) *Set {
		t.Helper()
		set, diags := Parse("sockd.conf", []byte("socksmethod: none\nsocks block { from: 0/0 to: "+to+" }\n"), Env{})
		if set == nil {
			t.Fatal(diags)
		}
		return set
	}
	name, either := read("eth9."), read("eth9")
	if !strings.Contains(name.String(), "to: eth9.") || strings.Contains(either.String(), "eth9.") {
		t.Errorf("texts:\n%s\n%s", name, either)
	}
	if name.Digest() == either.Digest() {
		t.Error("both have one digest")
	}
}
