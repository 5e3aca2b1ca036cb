package explain

import (
	"cmp"
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"

	"usher/proxy"
	"usher/proxy/decide"
	"usher/proxy/rules"
	"usher/proxy/selfaddr"
	"usher/proxy/users"
)

// casebook has the answers of serve to clients. TestDifferential of package
// integration, which describes the format, holds a running server to them.
const casebook = "../../../../integration/testdata/differential/*.txt"

// What the case book's machine is like: its hosts, its targets, and the
// addresses that it listens at.
var (
	bookHosts = hosts{
		"localhost": {"127.0.0.1"}, "one.test": {"127.0.1.1"}, "one.alias.test": {"127.0.1.1"}, "two.test": {"127.0.1.2"},
		"sub.one.test": {"127.0.2.1"}, "other.example": {"127.0.2.1"}, "both.test": {"127.0.1.1", "127.0.1.2"}, "six.test": {"::1"},
		"client.test": {"127.1.0.1"}, "nobody.test": {"127.0.9.9"}, "far6.test": {"2001:db8::7"}, "far4.test": {"192.0.2.7"},
	}
	bookTargets   = []string{"127.0.1.1", "127.0.1.2", "127.0.2.1", "::1"}
	bookPorts     = []uint16{7, 21, 80, 8080}
	bookListeners = []string{"127.0.0.1", "127.0.0.2", "::1"}
)

// hosts is a resolver.
type hosts map[string][]string

func (h hosts) LookupNetIP(_ context.Context, _, host string) (addrs []netip.Addr, _ error) {
	for _, a := range h[strings.TrimSuffix(host, ".")] {
		addrs = append(addrs, netip.MustParseAddr(a))
	}
	if len(addrs) == 0 {
		return nil, &net.DNSError{Err: "no such host", Name: host, IsNotFound: true}
	}
	return addrs, nil
}

// bookToward is the case book's routing table: loopback alone.
func bookToward(to netip.Addr) (netip.Addr, error) {
	switch {
	case to.Is4() && to.IsLoopback():
		return netip.MustParseAddr("127.0.0.1"), nil
	case to.IsLoopback():
		return to, nil
	}
	return netip.Addr{}, syscall.ENETUNREACH
}

// bookCase asks explain the questions of one case.
type bookCase struct {
	t              *testing.T
	groups         *users.Groups
	rules          string
	bare           bool // nothing is added to the rules but where to listen and to leave from
	policy         *proxy.Policy
	machine        decide.Machine
	open           map[string]*bookSession
	compared, full *int                    // answers; of these, the ones that only a full limit explains
	asked          map[string]map[bool]int // replies, by their command and whether they pass
}

// bookSession is a session that stays open under a label.
type bookSession struct {
	bookCase // as it was at its request: a reload changes nothing for it
	question bookQuestion
}

// bookQuestion is a question, and the answer of a running server.
type bookQuestion struct {
	place, label, on string
	from, via        netip.AddrPort
	version          rules.Version
	offer            []rules.Method
	choice           bool // the client offers several, and says which was chosen
	user, password   string
	verb, target     string
	want             string
}

func TestExplainAnswersAsTheCaseBook(t *testing.T) {
	files, err := filepath.Glob(casebook)
	if err != nil || len(files) == 0 {
		t.Fatalf("no cases: %v", err)
	}
	list := filepath.Join(t.TempDir(), "groups")
	if err := os.WriteFile(list, []byte("staff: alice\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	groups, err := users.LoadGroups(list)
	if err != nil {
		t.Fatal(err)
	}
	compared, full := 0, 0
	asked := map[string]map[bool]int{"udpreply": {}, "bindreply": {}}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		var c *bookCase
		asking := false
		for i, line := range strings.Split(string(text), "\n") {
			title, isTitle := strings.CutPrefix(line, "== ")
			switch {
			case strings.HasPrefix(line, "#") || strings.TrimSpace(line) == "":
			case isTitle:
				c = &bookCase{t: t, groups: groups, open: map[string]*bookSession{}, compared: &compared, full: &full, asked: asked}
				c.bare = strings.HasSuffix(title, " [bare]")
				asking = false
			case line == "--":
				asking = true
				c.load(c.rules)
			case asking:
				c.ask(fmt.Sprintf("%s:%d: %s", filepath.Base(file), i+1, line), line)
			default:
				c.rules += line + "\n"
			}
		}
	}
	t.Logf("%d answers compared, %d of them refused by limits that were full", compared, full)
	for command, passed := range asked {
		if passed[true] < 10 || passed[false] < 10 {
			t.Errorf("%s: %v; want 10 that pass and 10 that do not", command, passed)
		}
	}
	if compared < 870 || full > 70 {
		t.Errorf("%d answers compared, want at least 870; %d refused by full limits, want at most 70", compared, full)
	}
}

// load puts rules in force, with the lines that the case book leaves out. Rules
// that are refused change nothing.
func (c *bookCase) load(text string) {
	has := func(keyword string) bool {
		return strings.HasPrefix(text, keyword) || strings.Contains(text, "\n"+keyword)
	}
	settings := ""
	if !has("internal:") {
		for _, a := range bookListeners {
			settings += "internal: " + a + " port = 1080\n"
		}
	}
	if !has("external:") {
		settings += "external: 127.0.0.1\nexternal: ::1\n"
	}
	if !c.bare && !has("socksmethod:") {
		settings += "socksmethod: username none\n"
	}
	text = strings.NewReplacer(" | ", "\n", " }", "\n}").Replace(text)
	if !c.bare && !has("client ") {
		first := regexp.MustCompile(`(?m)^(socks |pass|block)`).FindStringIndex(text + "\npass")[0]
		text = text[:min(first, len(text))] + "client pass { from: 0/0 to: 0/0 }\n" + text[min(first, len(text)):]
	}
	lo := []netip.Addr{netip.MustParseAddr("127.0.0.1"), netip.IPv6Loopback()}
	set, _ := rules.Parse("book", []byte(settings+text), rules.Env{Interface: func(name string) ([]netip.Addr, bool) { return lo, name == "lo" }})
	if set == nil {
		return
	}
	c.policy = &proxy.Policy{Rules: set, Users: &users.Checker{}, Groups: c.groups}
	all := func(list []rules.Endpoint) (addrs []netip.AddrPort) {
		for _, e := range list {
			for _, a := range lo {
				if e.Interface != "" && e.Families.Has(a) {
					addrs = append(addrs, netip.AddrPortFrom(a, e.Port))
				}
			}
			if e.Interface == "" {
				addrs = append(addrs, netip.AddrPortFrom(e.Addr, e.Port))
			}
		}
		return addrs
	}
	for _, e := range all(set.Settings.External) {
		c.policy.External = append(c.policy.External, e.Addr())
	}
	own := all(set.Settings.Internal)
	c.machine = decide.Machine{Toward: bookToward, Own: func(to netip.AddrPort) bool { return selfaddr.Reaches(own, to) }}
}

// ask compares one line of a case.
func (c *bookCase) ask(place, line string) {
	q := c.parse(place, line)
	if text, isReload := strings.CutPrefix(q.verb, "reload "); isReload {
		if q.want == "reloaded" {
			c.load(text)
		}
		return
	}
	if c.policy == nil || q.want == "file refused" || q.want == "not open" || strings.HasPrefix(q.want, "dial ") {
		return
	}
	s := &bookSession{bookCase: *c, question: q}
	if q.on != "" {
		if s = c.open[q.on]; s == nil {
			return
		}
	}
	switch q.verb {
	case "close":
		delete(c.open, q.on)
	case "peer":
		s.peer(q)
	case "datagram":
		s.datagram(q)
	case "greet", "connect", "bind", "associate":
		if q.on != "" { // the rest of a session that has greeted
			greeted := s.question
			q.from, q.via, q.version, q.offer, q.user, q.password = greeted.from, greeted.via, greeted.version, greeted.offer, greeted.user, greeted.password
			s = &bookSession{bookCase: *c, question: q} // judged by the rules in force now
		}
		s.request()
		if q.label != "" {
			c.open[q.label] = s
		}
	}
}

func (c *bookCase) parse(place, line string) bookQuestion {
	text, verdict, _ := strings.Cut(line, "=>")
	verdict, _, _ = strings.Cut(verdict, " : ")
	if _, usher, differ := strings.Cut(verdict, "!="); differ {
		verdict = usher
	}
	q := bookQuestion{place: place, version: rules.SOCKS5, want: strings.TrimSpace(verdict)}
	offered := false
	words := strings.Fields(text)
	for ; len(words) > 0; words = words[1:] {
		key, value, _ := strings.Cut(words[0], "=")
		switch {
		case key == "soon":
		case strings.HasSuffix(key, ":"):
			q.label = strings.TrimSuffix(key, ":")
		case key == "from":
			q.from = addressOf(value, 0)
		case key == "via":
			q.via = addressOf(value, 1080)
		case key == "v4":
			q.version = rules.SOCKS4
		case key == "offer":
			offered = true
			q.choice = strings.Contains(value, ",")
			for m := range strings.SplitSeq(value, ",") {
				if n, known := map[string]rules.Method{"none": rules.None, "username": rules.Username}[m]; known {
					q.offer = append(q.offer, n)
				}
			}
		case key == "user":
			var given bool
			if q.user, q.password, given = strings.Cut(value, ":"); !given {
				q.password = "pw-" + q.user
			}
		default:
			q.verb = key
			rest := words[1:]
			if key == "reload" {
				q.verb = "reload " + strings.Join(rest, " ")
			}
			if slices.Contains([]string{"request", "close", "peer", "datagram", "speak"}, key) {
				q.on, rest = rest[0], rest[1:]
			}
			if key == "request" && len(rest) > 0 {
				q.verb, rest = rest[0], rest[1:]
			}
			if len(rest) > 0 {
				q.target = rest[0]
			}
			words = words[:1]
		}
	}
	if !q.from.IsValid() {
		q.from = addressOf("127.0.0.1", 0)
	}
	if !q.via.IsValid() {
		q.via = addressOf("127.0.0.1", 1080)
		if q.from.Addr().Is6() {
			q.via = addressOf("::1", 1080)
		}
	}
	if !offered {
		q.offer = []rules.Method{rules.None}
		if q.user != "" {
			q.offer = []rules.Method{rules.Username}
		}
	}
	return q
}

// addressOf reads ADDR or ADDR:PORT; port is that of the former.
func addressOf(text string, port uint16) netip.AddrPort {
	if addr, err := netip.ParseAddr(text); err == nil {
		return netip.AddrPortFrom(addr, port)
	}
	return netip.MustParseAddrPort(text)
}

// explain asks. Where the port of from is the system's to choose, it is not
// known.
func (c *bookCase) explain(from, via netip.AddrPort, version rules.Version, user, to, command string) *Answer {
	c.t.Helper()
	args := []string{netip.AddrPortFrom(from.Addr(), cmp.Or(from.Port(), Ephemeral)).String(), user, to, command}
	if user == "" {
		args = slices.Delete(args, 1, 2)
	}
	q, err := Parse(args, version)
	if err != nil {
		c.t.Fatalf("%v: %v", args, err)
	}
	q.Local = via
	a, err := Ask(c.t.Context(), q, c.policy, c.machine, bookHosts)
	if err != nil {
		c.t.Fatalf("%v: %v", args, err)
	}
	if a.Reply != nil {
		c.replies(a, version)
	}
	return a
}

// replies checks that what is said about a reply is the answer to a question about it.
func (c *bookCase) replies(a *Answer, version rules.Version) {
	c.t.Helper()
	q, err := Parse([]string{a.Reply.From, a.From, a.Reply.Command}, version)
	if err != nil {
		c.t.Fatal(err)
	}
	alone, err := Ask(c.t.Context(), q, c.policy, c.machine, bookHosts)
	if err != nil || alone.Pass != a.Reply.Pass {
		c.t.Errorf("%s %s from %s: its reply passes: %v (%s); asked about alone: %+v, %v",
			a.Command, a.Target, a.From, a.Reply.Pass, a.Reply.Reason, alone, err)
	}
	c.asked[a.Reply.Command][a.Reply.Pass]++
}
