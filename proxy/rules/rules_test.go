package rules

import (
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"usher/store/limit"
)

// A digest is a promise between replicas of different versions: a change here
// splits every limit in a rolling upgrade and needs a new prefix.
func TestGoldenDigests(t *testing.T) {
	for text, want := range map[string]string{
		"client pass { from: 0/0 to: 0/0 }":                                                         "c1105228955ba22124d3ac",
		"socksmethod: username none\nclient pass { from: 10.0.0.0/8 to: lo\nmaxsessions: 10 }":      "c1ea67eecff480c4117e55",
		"socks pass { from: 0/0 to: .example.com port = http\nsession.max: 10\nuser: monica erik }": "c12925bf34eff4bfa6e147",
		"socks block { from: ::/0 to: 0/0 port != 25\ncommand: bind\nproxyprotocol: socks_v5 }":     "c11ef4181b9449ef051c77",
		"socks pass { from: 0/0 to: 0/0\ngroup: staff\nsocksmethod: username\nprotocol: udp }":      "c186456c0545207d8adc3a",
		"client pass { from: 0/0 to: 0/0\nmaxsessions: 0\nsocksmethod: none }":                      "c16b2197a6d4c0cd0afbeb",
		"client pass { from: 0/0 to: 0/0\nsession.max: 9 }":                                         "c17583303deeaed79869a0",
		"client pass { from: 0/0 to: 0/0\nsession.max: 9\nsession.throttle: 6/60 }":                 "c1b63e12754126f11d36cb",
		"socks pass { from: 0/0 to: 0/0\nsession.state.key: user\nsession.state.max: 2 }":           "c124240e67cefd66ea38cd",
		"socks pass { from: 0/0 to: 0/0\nsession.state.key: from\nsession.state.throttle: 2/1 }":    "c12dffa80e2e761ddcc96d",
		// the default is that of files without the line, which keep their digest
		"session.state.key.ipv6: 64\nsocks pass { from: 0/0 to: 0/0\nsession.state.key: from\nsession.state.throttle: 2/1 }":  "c12dffa80e2e761ddcc96d",
		"session.state.key.ipv6: 128\nsocks pass { from: 0/0 to: 0/0\nsession.state.key: from\nsession.state.throttle: 2/1 }": "c173ace7aaffdcde0e6036",
	} {
		if got := parse(t, text).Digest(); got != want {
			t.Errorf("%q: got %s, want %s", text, got, want)
		}
	}
}

func TestDigestCovers(t *testing.T) {
	const base = "socksmethod: none username\nsocks pass { from: 0/0 to: Example.COM port = http\nuser: b a\nsocksmethod: username\nsession.max: 5 }"
	same := []string{
		"# comment\n" + base,
		"internal: 127.0.0.1\nexternal: 127.0.0.1\nlogoutput: stderr\ntimeout.io: 5\n" + base,
		strings.Replace(base, "port = http", "port 80", 1),
		strings.Replace(base, "Example.COM", "example.com", 1),
		strings.Replace(base, "user: b a", "user: a\nuser: b", 1),
		strings.Replace(base, "session.max", "maxsessions", 1),
		strings.Replace(base, "user: b a", "user: b a\nlog: connect\ntimeout.connect: 1\nudp.portrange: 1-2", 1),
		"external: 127.0.0.1\nexternal.rotation: same-same\nudp.connectdst: no\n" + base,
		strings.Replace(base, "socks pass", "pass", 1),
		strings.Replace(base, "session.max: 5", "session.mode: enforce\nsession.max: 5", 1),
		"session.state.key.ipv6: 64\n" + base,
	}
	differs := []string{
		strings.Replace(base, "socksmethod: none username", "socksmethod: username none", 1),
		strings.Replace(base, "socksmethod: none username", "", 1),
		strings.Replace(base, "socksmethod: username", "", 1),
		"session.state.key.ipv6: 128\n" + base,
		"session.state.key.ipv6: 56\n" + base,
		strings.Replace(base, "0/0", "0.0.0.0/0", 1),
		strings.Replace(base, "from: 0/0", "from: 0/0 port = 80", 1),
		strings.Replace(base, "http", "81", 1),
		strings.Replace(base, "= http", "1-80", 1),
		strings.Replace(base, "Example", "Example2", 1),
		strings.Replace(base, "user: b a", "user: b", 1),
		strings.Replace(base, "user: b a", "group: b a", 1),
		strings.Replace(base, "user: b a", "user: b A", 1),
		strings.Replace(base, "user: b a", "user: b a\ncommand: connect", 1),
		strings.Replace(base, "user: b a", "user: b a\nproxyprotocol: socks_v5", 1),
		strings.Replace(base, "session.max: 5", "session.max: 6", 1),
		strings.Replace(base, "session.max: 5", "maxsessions: 0", 1),
		strings.Replace(base, "session.max: 5", "session.throttle: 5/1", 1),
		strings.Replace(base, "session.max: 5", "session.throttle: 5/2", 1),
		strings.Replace(base, "session.max: 5", "session.max: 5\nsession.throttle: 5/1", 1),
		strings.Replace(base, "session.max: 5", "session.state.key: from\nsession.state.max: 5", 1),
		strings.Replace(base, "session.max: 5", "session.state.key: user\nsession.state.max: 5", 1),
		strings.Replace(base, "session.max: 5", "session.state.key: user\nsession.state.max: 5\nsession.max: 5", 1),
		strings.Replace(base, "session.max: 5", "session.state.key: user\nsession.state.throttle: 5/1", 1),
		strings.Replace(base, "session.max: 5", "session.state.key: user\nsession.state.throttle: 5/1\nsession.throttle: 5/1", 1),
		strings.Replace(base, "session.max: 5", "", 1),
		strings.Replace(base, "session.max: 5", "session.pool: web\nsession.max: 5", 1),
		strings.Replace(base, "session.max: 5", "session.max: 5\nsession.pool: Web", 1),
		strings.Replace(base, "session.max: 5", "session.max: 5\nsession.mode: report", 1),
		strings.Replace(base, "session.max: 5", "}\nsocks block { from: 0/0 to: 0/0", 1),
		strings.Replace(base, "socks pass", "socks block", 1),
	}
	want := parse(t, base).Digest()
	for _, text := range same {
		if got := parse(t, text).Digest(); got != want {
			t.Errorf("the digest differs for\n%s", text)
		}
	}
	seen := map[string]string{want: base}
	for _, text := range differs {
		got := parse(t, text).Digest()
		if other, again := seen[got]; again {
			t.Errorf("the digest is the same for\n%s\nand\n%s", text, other)
		}
		seen[got] = text
	}
}

// A replica that lacks an interface must still share the counters.
func TestDigestWithoutInterface(t *testing.T) {
	const text = "client pass { from: lo to: Wan0 }\nsocks pass { from: Wan0 to: lo }"
	bare, _ := Parse("bare", []byte(text), Env{})
	if with := parse(t, text); bare.Digest() != with.Digest() {
		t.Error("the digest depends on the machine's interfaces")
	}
}

func TestSessions(t *testing.T) {
	rate := func(n, s int64) limit.Rate { return limit.Rate{N: n, Per: time.Duration(s) * time.Second} }
	for text, want := range map[string]Session{
		"client pass { from: 0/0 to: 0/0 }":                                                {},
		"client pass { from: 0/0 to: 0/0 maxsessions: 5 }":                                 {Limited: true, Max: 5},
		"client pass { from: 0/0 to: 0/0 maxsessions: 0 }":                                 {Limited: true, Max: 0},
		"client pass { from: 0/0 to: 0/0 maxsessions: 5 session.inheritable: no }":         {Limited: true, Max: 5},
		"client pass { from: 0/0 to: 0/0 session.max: 0x10 }":                              {Limited: true, Max: 16, Inheritable: true},
		"client pass { from: 0/0 to: 0/0 session.max: 5 session.inheritable: yes }":        {Limited: true, Max: 5, Inheritable: true},
		"client pass { from: 0/0 to: 0/0 session.inheritable: no session.max: 2147483647}": {Limited: true, Max: 1<<31 - 1},
		"client block { from: 0/0 to: 0/0 session.max: 5 }":                                {},
		"client block { from: 0/0 to: 0/0 maxsessions: 0 }":                                {},
		"socks pass { from: 0/0 to: 0/0 maxsessions: 5 }":                                  {Limited: true, Max: 5},
		"socks pass { from: 0/0 to: 0/0 session.max: 5 }":                                  {Limited: true, Max: 5},
		"client pass { from: 0/0 to: 0/0 session.inheritable: no }":                        {},
		"client pass { from: 0/0 to: 0/0 session.throttle: 5/60 }": {
			Limited: true, Max: limit.None, Throttle: rate(5, 60), Inheritable: true},
		"client pass { from: 0/0 to: 0/0 session.throttle: 5 / 60 session.inheritable: no }": {
			Limited: true, Max: limit.None, Throttle: rate(5, 60)},
		"client pass { from: 0/0 to: 0/0 session.state.key: from session.state.max: 3 }": {
			Limited: true, Max: limit.None, Key: KeyFrom, KeyMax: 3, Inheritable: true},
		"client pass { from: 0/0 to: 0/0 maxsessions: 5 session.state.key: from session.state.throttle: 2147483647/2147483647 }": {
			Limited: true, Max: 5, Key: KeyFrom, KeyThrottle: rate(1<<31-1, 1<<31-1)},
		"client block { from: 0/0 to: 0/0 session.throttle: 5/1 session.state.key: from session.state.max: 3 }": {},
		"socks pass { from: 0/0 to: 0/0 session.max: 5 session.throttle: 6/1 session.state.key: user session.state.max: 5 session.state.throttle: 6/1 }": {
			Limited: true, Max: 5, Throttle: rate(6, 1), Key: KeyUser, KeyMax: 5, KeyThrottle: rate(6, 1)},
	} {
		set := parse(t, text)
		if got := slices.Concat(set.Client, set.Socks)[0].Session; got != want {
			t.Errorf("%q: got %+v, want %+v", text, got, want)
		}
	}
}

func TestTimeouts(t *testing.T) {
	set := parse(t, `
timeout.connect: 5
timeout.io: 60
timeout.io.udp: 7
client pass { from: 0/0 to: 0/0
  timeout.negotiate: 0 }
socks pass { from: 0/0 to: 0/0
  timeout.io: 1
  timeout.connect: 2 }
socks pass { from: 0/0 to: 0/0
  timeout.io.tcp: 0 }
`)
	const s = time.Second
	for _, c := range []struct {
		name      string
		got, want Timeouts
	}{
		{"settings", set.Settings.Timeouts, Timeouts{30 * s, 5 * s, 60 * s, 7 * s, 30 * s}},
		{"client-rule", set.Client[0].Timeouts, Timeouts{0, 5 * s, 60 * s, 7 * s, 30 * s}},
		{"own", set.Socks[0].Timeouts, Timeouts{30 * s, 2 * s, s, s, 30 * s}},
		{"never", set.Socks[1].Timeouts, Timeouts{30 * s, 5 * s, 0, 7 * s, 30 * s}},
		{"defaults", parse(t, "internal: lo").Settings.Timeouts, Timeouts{30 * s, 30 * s, 0, 24 * time.Hour, 30 * s}},
	} {
		if c.got != c.want {
			t.Errorf("%s: got %+v, want %+v", c.name, c.got, c.want)
		}
	}
}

func TestSettings(t *testing.T) {
	s := parse(t, string(read(t, "testdata/good/keywords.conf"))).Settings
	if want := []string{"stderr", "/var/log/sockd.log", "syslog/daemon"}; !slices.Equal(s.LogOutput, want) {
		t.Errorf("logoutput: %q", s.LogOutput)
	}
	if want := []string{"syslog"}; !slices.Equal(s.ErrorLog, want) {
		t.Errorf("errorlog: %q", s.ErrorLog)
	}
	if want := []Method{Username, None}; !slices.Equal(s.Methods, want) {
		t.Errorf("socksmethod: %v", s.Methods)
	}
	if e := s.Internal[0]; e.Addr.String() != "127.0.0.1" || e.Port != 1080 || e.Pos.Line != 1 || e.Pos.Col != 11 {
		t.Errorf("internal: %+v", e)
	}
	if s.Rotation != RotationNone || !s.ConnectDst {
		t.Errorf("external.rotation: none and udp.connectdst: yes: %+v", s)
	}
	other := parse(t, string(read(t, "testdata/good/settings.conf")))
	if s := other.Settings; s.Rotation != RotationSameSame || s.ConnectDst || s.Internal[0].Families != IPv4 || s.External[0].Families != IPv6 {
		t.Errorf("external.rotation: same-same, udp.connectdst: no and families: %+v", s)
	}
	if got, want := other.Socks[0].UDPPorts, (PortRange{40000, 44999}); got != want {
		t.Errorf("udp.portrange: got %v, want %v", got, want)
	}
	if none := parse(t, "internal: eth0").Settings; none.Methods != nil || none.Internal[0].Port != 1080 || !none.ConnectDst || none.Internal[0].Families != 0 {
		t.Errorf("without socksmethod: %+v", none)
	}
}

func TestFamilies(t *testing.T) {
	four, mapped, six := netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("::ffff:10.0.0.1"), netip.MustParseAddr("fd00::1")
	for families, want := range map[Families][3]bool{
		0: {true, true, true}, IPv4: {true, true, false}, IPv6: {false, false, true}, IPv4 | IPv6: {true, true, true},
	} {
		if got := [3]bool{families.Has(four), families.Has(mapped), families.Has(six)}; got != want {
			t.Errorf("%d: got %v, want %v", families, got, want)
		}
	}
}

func TestLog(t *testing.T) {
	set := parse(t, "socks pass { from: 0/0 to: 0/0\nlog: error connect\nlog: tcpinfo }")
	if got, want := set.Socks[0].Log, (Log{Connect: true, Error: true, TCPInfo: true}); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

func TestInterfaces(t *testing.T) {
	set := parse(t, "internal: eth0\nexternal: eth3\nclient pass { from: lo to: eth0 }\nsocks block { from: 0/0 to: lo }")
	if got := set.Interfaces(); !slices.Equal(got, []string{"eth0", "eth3", "lo"}) {
		t.Errorf("got %q", got)
	}
}

func TestNumbersCountByKind(t *testing.T) {
	set := parse(t, "client pass { from: 0/0 to: 0/0 }\nsocks pass { from: 0/0 to: 0/0 }\nclient block { from: 0/0 to: 0/0 }\n  block { from: 0/0 to: 0/0 }")
	var got []string
	for _, r := range slices.Concat(set.Client, set.Socks) {
		got = append(got, r.ID()+" "+r.Pos.String())
	}
	want := []string{"c1 test.conf:1:1", "c2 test.conf:3:1", "s1 test.conf:2:1", "s2 test.conf:4:3"}
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

// Deciding is pure: the package may know addresses, but nothing that dials or resolves.
func TestImportsNoNetwork(t *testing.T) {
	out, err := exec.Command("go", "list", "-deps", ".").Output()
	if err != nil {
		t.Fatal(err)
	}
	deps := strings.Fields(string(out))
	if !slices.Contains(deps, "net/netip") {
		t.Fatalf("this is not a list of dependencies: %q", deps)
	}
	for _, forbidden := range []string{"net", "log", "log/slog", "os/exec"} {
		if slices.Contains(deps, forbidden) {
			t.Errorf("the package depends on %s", forbidden)
		}
	}
}

// The table in docs/rules-reference.md and the one in the code name the same keywords, with the same fate.
func TestDocumentedKeywords(t *testing.T) {
	text, err := os.ReadFile(filepath.Join("..", "..", "docs", "rules-reference.md"))
	if err != nil {
		t.Fatal(err)
	}
	idle := map[string][]choice{"compatibility": compatibilityChoices, "resolveprotocol": resolveChoices}
	for name, choices := range idle {
		for _, c := range choices {
			if c.accept == "" && c.refuse == "" {
				t.Errorf("%s: %s has an effect", name, c.name)
			}
		}
	}
	documented := map[string]string{}
	for _, m := range regexp.MustCompile("(?m)^\\| `([a-z0-9_.*]+)` \\| ([^|]*) \\| (honoured|by value|warning|refused) \\|").FindAllStringSubmatch(string(text), -1) {
		documented[m[1]+" in "+m[2]] = m[3]
	}
	written := map[scope]string{
		inSettings: "settings", inClient: "client", inSocks: "socks", inRules: "client, socks",
		inSettings | inSocks: "settings, socks", inSettings | inClient: "settings, client", everywhere: "settings, client, socks",
	}
	for _, k := range keywords {
		fate := "honoured"
		switch {
		case idle[k.name] != nil:
			fate = "by value"
		case k.accept != "":
			fate = "warning"
		case k.refuse != "":
			fate = "refused"
		}
		key := k.name + " in " + written[k.in]
		if documented[key] != fate {
			t.Errorf("docs/rules-reference.md says of %q: %q, the code says %s", key, documented[key], fate)
		}
		delete(documented, key)
	}
	for key := range documented {
		t.Errorf("docs/rules-reference.md names %q, which the code does not know", key)
	}
}

// Every keyword is read by at least one case, and every one has a meaning and a remedy.
func TestKeywordTable(t *testing.T) {
	var all strings.Builder
	for _, file := range append(cases(t, "testdata/good/*.conf"), cases(t, "testdata/bad/*.conf")...) {
		all.Write(read(t, file))
	}
	for _, k := range keywords {
		if (k.read == nil) == (k.refuse == "") || k.refuse != "" && k.accept != "" || k.in == 0 {
			t.Errorf("%s: none, or more than one, of read and refused", k.name)
		}
		if k.refuse != "" && !strings.Contains(k.refuse, "; ") {
			t.Errorf("%s: no remedy in %q", k.name, k.refuse)
		}
		if !strings.Contains(all.String(), strings.TrimSuffix(k.name, "*")) {
			t.Errorf("no case in testdata has %s", k.name)
		}
	}
}

func TestNearest(t *testing.T) {
	names := newLanguage(keywords).names(everywhere)
	for word, want := range map[string]string{
		"sesion.max": "session.max", "comand": "command", "logoutptu": "logoutput", "form": "from",
		"xyzzy": "", "": "", strings.Repeat("a", 100): "",
	} {
		if got := nearest(word, names); got != want {
			t.Errorf("%q: got %q, want %q", word, got, want)
		}
	}
}

// A file of another kind has a mistake in each line or byte. The first hundred are
// reported, and that there are more.
func TestMistakesAreBounded(t *testing.T) {
	for name, text := range map[string]string{
		"parser":     strings.Repeat("{", 1<<20),
		"lines":      strings.Repeat("nonsense\n", 1<<16),
		"characters": strings.Repeat("\x00 ", 1<<20),
		"both":       strings.Repeat("{\x00\n", 1<<16),
	} {
		set, found := Parse("f", []byte(text), Env{})
		if set != nil || len(found) != maxMistakes+1 {
			t.Fatalf("%s: %d findings, want %d", name, len(found), maxMistakes+1)
		}
		if last := found[maxMistakes].Message; last != "there are more mistakes from here on" {
			t.Errorf("%s: the last finding is %q", name, last)
		}
	}
	if _, found := Parse("f", []byte(strings.Repeat("{", maxMistakes)), Env{}); len(found) != maxMistakes || found[maxMistakes-1].Message != `"{" is outside a rule` {
		t.Errorf("as many mistakes as are reported: %v", found)
	}
}
