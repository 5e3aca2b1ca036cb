package policyfile

import (
	"context"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"usher/cmd/usher/internal/explain"
	"usher/cmd/usher/internal/listen"
	"usher/cmd/usher/internal/logging"
	"usher/cmd/usher/internal/settings"
	"usher/proxy"
	"usher/proxy/decide"
	"usher/proxy/rules"
)

// remedy is a case of testdata/remedies: what is found in a set of files, and the
// files after somebody has done literally what the finding advises.
//
//	== title
//	finds: a part of "message; remedy"
//	wider: why the remedy says that more clients get in, if it does
//	stays: why the finding is there after the remedy, if it is
//	passes: FROM [USER] TO:PORT [COMMAND], after the remedy; as for usher explain
//	refuses: the same
//	-- env | -- users | -- groups
//	lines of the file, or NAME=VALUE
//	-- rules
//	the rule file
//	-- then rules (or env, users, groups)
//	what it is after the remedy; files that are not named stay the same
//	-- or rules (or env, users, groups)
//	the same for another way to obey, which begins with what was before
type remedy struct {
	place, title, finds string
	wider, stays        string
	passes, refuses     []string
	before              map[string]string   // texts by kind
	after               []map[string]string // for each way to obey
}

// Every remedy is obeyed, in each of its ways. The finding disappears, the files load,
// there are no other findings, and nobody gets in who was refused before.
func TestRemediesAreObeyed(t *testing.T) {
	for _, c := range remedies(t) {
		t.Run(c.title, func(t *testing.T) {
			before := c.load(t, c.before)
			if !slices.ContainsFunc(before.texts(), c.is) {
				t.Fatalf("%s: not found: %q\n%s", c.place, c.finds, strings.Join(before.texts(), "\n"))
			}
			if len(c.after) == 0 {
				t.Fatalf("%s: it is not obeyed", c.place)
			}
			for _, files := range c.after {
				c.obeyed(t, before, c.load(t, files))
			}
		})
	}
}

func (c remedy) is(text string) bool { return strings.Contains(text, c.finds) }

func (c remedy) obeyed(t *testing.T, before, after loaded) {
	t.Helper()
	for _, text := range after.texts() {
		if c.is(text) && c.stays == "" {
			t.Errorf("%s: the remedy does not help: %s", c.place, text)
		} else if !slices.Contains(before.texts(), text) {
			t.Errorf("%s: after the remedy there is also: %s", c.place, text)
		}
	}
	if after.policy == nil {
		t.Fatalf("%s: cannot be loaded: %v", c.place, after.err)
	}
	for _, q := range c.passes {
		after.expect(t, c.place, q, true)
	}
	for _, q := range c.refuses {
		after.expect(t, c.place, q, false)
	}
	if before.policy != nil && c.wider == "" && !t.Failed() {
		c.narrow(t, before, after)
	}
}

// narrow checks that after admits nobody whom before refuses.
func (c remedy) narrow(t *testing.T, before, after loaded) {
	t.Helper()
	rapid.Check(t, func(t *rapid.T) {
		q := drawQuestion(t)
		if !before.passes(t, q) && after.passes(t, q) {
			t.Fatalf("%s: after the remedy it passes, and before it did not: %s", c.place, strings.Join(q, " "))
		}
	})
}

// drawQuestion draws the arguments of usher explain from what the cases are about.
func drawQuestion(t *rapid.T) []string {
	of := func(what string, choices ...string) string { return rapid.SampledFrom(choices).Draw(t, what) }
	clients := []string{"10.0.0.1", "10.0.0.200", "10.1.0.1", "127.0.0.1", "192.0.2.7", "192.0.2.77", "203.0.113.9", "2001:db8::7", "::1"}
	client := of("client", clients...)
	peer := of("peer", "198.51.100.1", "198.51.100.2", "203.0.113.9", "127.0.0.1", "169.254.169.254", "2001:db8:1::1", "0.0.0.0")
	port := of("port", "80", "443", "53", "40000", "0")
	hostPort := func(host, port string) string {
		if strings.Contains(host, ":") {
			return "[" + host + "]:" + port
		}
		return host + ":" + port
	}
	var args []string
	switch command := of("command", "connect", "connect", "connect", "bind", "udpassociate", "bindreply", "udpreply"); command {
	case "bindreply", "udpreply":
		args = []string{hostPort(peer, "40000"), hostPort(client, "40000"), command}
	default:
		to := of("target", peer, peer, "one.test", "sub.one.test", "two.test")
		args = []string{client, hostPort(to, port), command}
	}
	if of("user", "", "", "monica", "mallory") != "" {
		args = slices.Insert(args, 1, of("user", "monica", "mallory"))
	}
	return args
}

// loaded is the result of loading a set of files.
type loaded struct {
	policy *proxy.Policy // nil: they cannot be served
	err    error
	found  []rules.Diagnostic
}

func (l loaded) texts() (all []string) {
	for _, d := range l.found {
		all = append(all, d.Message+"; "+d.Remedy)
	}
	return all
}

// remedyMachine has the interfaces of the cases.
var remedyMachine = rules.Env{Interface: func(name string) ([]netip.Addr, bool) {
	addrs := map[string][]netip.Addr{"eth0": {netip.MustParseAddr("10.0.0.1")}, "down0": {}}[name]
	if name == "lo" {
		return listen.InterfaceAddrs(name)
	}
	return addrs, addrs != nil
}}

// load returns the findings of usher validate.
func (c remedy) load(t *testing.T, files map[string]string) (l loaded) {
	t.Helper()
	dir := t.TempDir()
	environ := map[string]string{}
	for kind, variable := range map[string]string{"users": "USHER_USERS_FILE", "groups": "USHER_GROUPS_FILE"} {
		if text, given := files[kind]; given {
			environ[variable] = filepath.Join(dir, kind)
			if err := os.WriteFile(environ[variable], []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	for line := range strings.Lines(files["env"]) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), "=")
		environ[name] = value
		if mode, isMode := strings.CutPrefix(name, "chmod "); isMode {
			delete(environ, name)
			if err := os.Chmod(environ[mode], os.FileMode(mustOctal(t, value))); err != nil {
				t.Fatal(err)
			}
		}
	}
	cfg, _, err := settings.Load(environ)
	if err != nil {
		t.Fatal(err)
	}
	known, accountsErr := LoadAccounts(cfg)
	set, found := parse("sockd.conf", []byte(files["rules"]), known, remedyMachine)
	l.found = append(found, AccountFindings(accountsErr)...)
	if set == nil || accountsErr != nil {
		l.err = AsError(l.found)
		return l
	}
	l.found = append(l.found, Lint(t.Context(), cfg, &decide.Policy{Rules: set, Logins: known.UsersFile})...)
	machine := append(logging.Check(set.Settings), listen.Check(cfg, set.Settings)...)
	l.found = append(l.found, machine...)
	if l.err = AsError(machine); l.err == nil {
		l.policy = &proxy.Policy{Rules: set, Users: known.Users, Groups: known.Groups}
	}
	return l
}

func mustOctal(t *testing.T, text string) (mode uint32) {
	t.Helper()
	if _, err := fmt.Sscanf(text, "%o", &mode); err != nil {
		t.Fatal(err)
	}
	return mode
}

// passes reports whether a request passes. args are those of usher explain.
func (l loaded) passes(t interface{ Fatal(...any) }, args []string) bool {
	q, err := explain.Parse(args, rules.SOCKS5)
	if err != nil {
		t.Fatal(args, err)
	}
	q.Local = netip.MustParseAddrPort("10.0.0.1:1080")
	if q.From.Addr().Is6() {
		q.Local = netip.MustParseAddrPort("[2001:db8::1]:1080")
	}
	machine := decide.Machine{
		Own:    func(netip.AddrPort) bool { return false },
		Toward: func(to netip.Addr) (netip.Addr, error) { return to, nil },
	}
	a, err := explain.Ask(context.Background(), q, l.policy, machine, remedyNames{})
	if err != nil {
		t.Fatal(args, err)
	}
	return a.Pass
}

func (l loaded) expect(t *testing.T, place, question string, pass bool) {
	t.Helper()
	if got := l.passes(t, strings.Fields(question)); got != pass {
		t.Errorf("%s: after the remedy, does %s pass: %v, want %v", place, question, got, pass)
	}
}

// remedyNames are the names of the cases.
type remedyNames struct{}

func (remedyNames) LookupNetIP(_ context.Context, _, host string) ([]netip.Addr, error) {
	addr, known := map[string]string{"one.test": "198.51.100.1", "sub.one.test": "198.51.100.2", "two.test": "203.0.113.9"}[strings.TrimSuffix(host, ".")]
	if !known {
		return nil, &net.DNSError{Err: "no such host", Name: host, IsNotFound: true}
	}
	return []netip.Addr{netip.MustParseAddr(addr)}, nil
}

// remedies reads the cases.
func remedies(t *testing.T) (all []remedy) {
	t.Helper()
	files, err := filepath.Glob("testdata/remedies/*.txt")
	if err != nil || len(files) < 3 {
		t.Fatalf("no cases: %q, %v", files, err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, readRemedies(t, file, string(text))...)
	}
	return all
}

// words stand in the cases for what many of them have, or what no editor shows.
var words = strings.NewReplacer(
	"$none", "socksmethod: none",
	"$in", "client pass { from: 10.0.0.0/8 to: 0/0 }",
	"$out443", "socks pass { from: 10.0.0.0/8 to: 198.51.100.0/24 port = 443\ncommand: connect }",
	"$out", "socks pass { from: 10.0.0.0/8 to: 198.51.100.0/24 command: connect }",
	"$replies", "socks pass { from: 0/0 to: 10.0.0.0/8 command: udpreply }",
	"$monica", "monica:"+remedyHash,
	"$mallory", "mallory:"+remedyHash,
	"$hash", remedyHash,
	"$longname", strings.Repeat("long.", 60),
	"$101names", manyNames(),
	"$blank", " ",
	"$zerowidth", "\u200b",
	"$zero", "\x00",
)

// remedyHash is the hash of some password.
const remedyHash = "$2y$05$abcdefghijklmnopqrstuuOZCxXs/8NZ3TOUfTJMiJ8tYV/4Ph1uq"

func manyNames() string {
	var b strings.Builder
	for i := range 101 {
		fmt.Fprintf(&b, "socks pass { from: 10.0.0.0/8 to: host%d.names.test command: connect }\n", i)
	}
	return b.String()
}

func readRemedies(t *testing.T, file, text string) (all []remedy) {
	t.Helper()
	var c *remedy
	var into map[string]string // the files that lines belong to
	kind := ""
	for i, line := range strings.Split(strings.ReplaceAll(text, "\n\n== ", "\n== "), "\n") {
		place := fmt.Sprintf("%s, about line %d", filepath.Base(file), i+1)
		if title, isTitle := strings.CutPrefix(line, "== "); isTitle {
			all = append(all, remedy{place: place, title: title, before: map[string]string{}})
			c, kind = &all[len(all)-1], ""
			continue
		}
		section, isSection := strings.CutPrefix(line, "-- ")
		key, value, _ := strings.Cut(line, ": ")
		switch {
		case c == nil: // the head of the file
		case isSection:
			into, kind = c.section(section)
			into[kind] = ""
		case kind != "":
			into[kind] += words.Replace(line) + "\n"
		case key == "finds":
			c.finds = value
		case key == "wider":
			c.wider = value
		case key == "stays":
			c.stays = value
		case key == "passes":
			c.passes = append(c.passes, value)
		case key == "refuses":
			c.refuses = append(c.refuses, value)
		default:
			t.Fatalf("%s: %q", place, line)
		}
	}
	return all
}

// section returns what the lines after "-- name" belong to.
func (c *remedy) section(name string) (files map[string]string, kind string) {
	way, kind, found := strings.Cut(name, " ")
	if !found {
		return c.before, name
	}
	if way == "or" || len(c.after) == 0 {
		c.after = append(c.after, maps.Clone(c.before))
	}
	return c.after[len(c.after)-1], kind
}
