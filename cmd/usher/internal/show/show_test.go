package show

import (
	"flag"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unicode"

	"usher/cmd/usher/internal/screen"
	"usher/proxy/admin/api"
	"usher/proxy/record"
)

var update = flag.Bool("update", false, "write the files in testdata anew")

// now is when the answers of the tests were given.
var now = time.Date(2026, 11, 29, 3, 13, 0, 0, time.UTC)

func ago(d time.Duration) time.Time { return now.Add(-d) }

var client = netip.MustParseAddrPort

// session is a running session of rule s1 in the generation with this label.
func session(id, from, user, target, replica, generation string, age, idle float64) record.Running {
	return record.Running{
		Session: record.Session{
			ID: id, Replica: replica, Generation: generation, Client: client(from), User: user,
			ClientRule: "c1", ClientRuleAt: "/etc/usher/sockd.conf:12",
			Rule: "s1", RuleName: "web", RuleAt: "/etc/usher/sockd.conf:22", SOCKS: 5, Command: "connect", Target: target,
			Began: now.Add(-time.Duration(age) * time.Second), Seconds: age, BytesUp: int64(age) * 40, BytesDown: int64(age) * 9001,
		},
		State: record.Relaying, IdleSeconds: idle,
	}
}

func sessions() api.Sessions {
	negotiating := session("5c77e1d0-9", "192.0.2.7:40001", "", "", "usher-2", "g2-0833acf5", 1, 1)
	negotiating.Rule, negotiating.RuleName, negotiating.RuleAt = "", "", ""
	negotiating.State = record.Negotiating
	udp := session("8f1b0c2a-31", "[2001:db8:1:2:3:4:5:6]:51234", "kim", "", "usher-1", "g1-08731f73", 300000, 2)
	udp.Command, udp.State = "udpassociate", record.Associated
	return api.Sessions{Total: 812, Sessions: []record.Running{
		session("8f1b0c2a-7", "192.0.2.9:51234", "kim", "www.example.com:443", "usher-1", "g2-0833acf5", 11520, 11400),
		session("5c77e1d0-4", "192.0.2.9:51236", "kim", "api.eu-central-1.example.com:443", "usher-2", "g2-0833acf5", 720, 3),
		session("b90d2f44-1", "192.0.2.11:33001", "", "198.51.100.17:5432", "3f1b0c2a9d4e-1", "g1-0833acf5", 59, 0),
		udp, negotiating,
	}}
}

func limits() api.Limits {
	return api.Limits{Limits: []api.Limit{
		{
			Rule: "s1", Name: "web", Location: "/etc/usher/sockd.conf:22", Generation: "g2-0833acf5", Current: true, Mode: "enforce",
			Max: 5, Sessions: 5, Shares: []api.Share{{Replica: "usher-1", Sessions: 2}, {Replica: "usher-2", Sessions: 2}, {Replica: "usher-3", Sessions: 1}},
			Refused: 12, Highest: 5, HighestAt: ago(51 * time.Second),
			Holders: []record.Holder{{Client: netip.MustParseAddr("192.0.2.9"), User: "kim", Sessions: 4}, {Client: netip.MustParseAddr("192.0.2.11"), Sessions: 1}},
		},
		{
			Rule: "s2", Name: "per-user", Location: "/etc/usher/sockd.conf:32", Generation: "g2-0833acf5", Current: true, Mode: "report",
			Max: -1, KeyMax: 3, Sessions: 4, WouldRefuse: 7, Highest: 9, HighestAt: ago(26 * time.Hour),
			Keys: []api.Key{{Key: "user=kim", Sessions: 3, Max: 3, Shares: []api.Share{{Replica: "usher-1", Sessions: 3}}}, {Key: "user=lee", Sessions: 1, Max: 3}},
		},
		{Rule: "s1", Name: "web", Location: "/etc/usher/sockd.conf:22", Generation: "g1-08731f73", Mode: "enforce", Max: 50, Sessions: 3, Highest: 3},
	}}
}

// Holders and keys may have more sessions than the answer knows: some replica does not
// tell all of them, or has not answered.
func TestLimitsSayAtLeast(t *testing.T) {
	partial, silent := limits(), limits()
	partial.Limits[0].Partial = true
	silent.Missing = []api.Missing{{Replica: "usher-3", Error: "no answer within 1s"}}
	const known, least = "192.0.2.9 as kim (4)", "192.0.2.9 as kim (at least 4), 192.0.2.11 (at least 1)"
	const knownKey, leastKey = "user=kim 3/3", "user=kim at least 3/3"
	for name, c := range map[string]struct {
		answer api.Limits
		want   []string
	}{
		"complete": {limits(), []string{known, knownKey}},
		"partial":  {partial, []string{least, knownKey}},
		"silent":   {silent, []string{least, leastKey}},
	} {
		text := Limits(screen.Screen{}, c.answer, now)
		for _, want := range c.want {
			if !strings.Contains(text, want) {
				t.Errorf("%s: %q is missing:\n%s", name, want, text)
			}
		}
	}
}

// refusal is one by the limit of s1.
func refusal(d time.Duration, from, replica string) record.End {
	return record.End{
		Session: record.Session{
			ID: "5c77e1d0-99", Replica: replica, Generation: "g7-0833acf5", Client: client(from), User: "monica",
			ClientRule: "c1", ClientRuleAt: "/etc/usher/sockd.conf:12",
			Rule: "s1", RuleName: "web", RuleAt: "/etc/usher/sockd.conf:22", SOCKS: 5, Command: "connect", Target: "www.example.com:443",
		},
		Time: ago(d), Reason: "limit", Refused: true, Error: "maxsessions: 5",
		Held: &record.Held{Limit: "session.max", Max: 5, Sessions: 5, Here: 2, Holders: []record.Holder{{Client: netip.MustParseAddr("192.0.2.9"), User: "kim", Sessions: 2}}},
	}
}

func refusals() api.Refusals {
	blocked := refusal(40*time.Minute, "192.0.2.7:5000", "usher-3")
	blocked.Reason, blocked.Held, blocked.Error, blocked.Target = "blocked", nil, "", "10.0.0.5:25"
	blocked.Rule, blocked.RuleName, blocked.RuleAt = "s4", "", "/etc/usher/sockd.conf:41"
	client := refusal(30*time.Hour, "192.0.2.7:5001", "usher-1")
	client.Reason, client.Held, client.Error, client.User, client.Target, client.Command = "no_greeting", nil, "", "", "", ""
	client.Rule, client.RuleName, client.RuleAt = "", "", ""
	return api.Refusals{Total: 5, Refusals: []record.End{
		refusal(12*time.Second, "192.0.2.7:51234", "usher-2"), refusal(15*time.Second, "192.0.2.7:51230", "usher-1"),
		refusal(3*time.Minute, "192.0.2.7:51222", "usher-2"), blocked, client,
	}}
}

func cluster() api.Cluster {
	c := api.Cluster{Cluster: "default", Replicas: []api.Replica{
		{
			ID: "aa", Name: "usher-1", Address: "192.0.2.101:9090", Version: "v1.2.0", State: api.Alive, Ready: true, Started: ago(50 * time.Hour),
			Seen: ago(time.Second), Generation: "g2-0833acf5", Sessions: 12,
		},
		{
			ID: "bb", Name: "usher-2", Address: "192.0.2.102:9090", Version: "v1.2.0", State: api.Draining, Reason: "drained", Started: ago(3 * time.Hour),
			Seen: ago(0), Generation: "g2-0833acf5", Sessions: 3,
		},
		{ID: "cc", Name: "usher-3", Address: "192.0.2.103:9090", Version: "v1.1.9", State: api.Dead, Started: ago(time.Hour), Seen: ago(75 * time.Second), Error: "its lease has ended"},
	}}
	c.Store.Joined = true
	c.Judge()
	return c
}

// why returns the cases of the refusals.
func why() []Case {
	list := Cases(refusals().Refusals, 3)
	for i := range list {
		if list[i].ByLimit() {
			list[i].Find(limits().Limits)
			list[i].Hold(sessions().Sessions)
		}
	}
	return list
}

// Every view at three widths: a file, a wide terminal and one of 80 columns.
func TestViews(t *testing.T) {
	views := map[string]func(screen.Screen) string{
		"sessions":   func(s screen.Screen) string { return Sessions(s, sessions()) },
		"nosessions": func(s screen.Screen) string { return Sessions(s, api.Sessions{}) },
		"limits":     func(s screen.Screen) string { return Limits(s, limits(), now) },
		"nolimits":   func(s screen.Screen) string { return Limits(s, api.Limits{}, now) },
		"refusals":   func(s screen.Screen) string { return Refusals(s, refusals(), now) },
		"norefusals": func(s screen.Screen) string { return Refusals(s, api.Refusals{}, now) },
		"cluster":    func(s screen.Screen) string { return Cluster(s, cluster(), now) },
		"why":        func(s screen.Screen) string { return Why(s, "192.0.2.7", 5, why(), now) },
		"whynone":    func(s screen.Screen) string { return Why(s, "192.0.2.7", 0, nil, now) },
		"ended":      func(screen.Screen) string { return Ended(api.Ended{Ended: []string{"8f1b0c2a-7", "5c77e1d0-4"}}) },
	}
	for name, view := range views {
		t.Run(name, func(t *testing.T) {
			var b strings.Builder
			for _, width := range []int{0, 132, 80} {
				text := view(screen.Screen{Width: width})
				fmt.Fprintf(&b, "== %d columns ==\n%s", width, text)
				if width > 0 {
					fits(t, text, width)
				}
			}
			same(t, filepath.Join("testdata", name+".golden"), b.String())
		})
	}
}

// fits demands that no line is longer than the terminal is wide. Ids and commands are
// not shortened, so that they can be copied.
func fits(t *testing.T, text string, width int) {
	t.Helper()
	for line := range strings.Lines(text) {
		if line = strings.TrimRight(line, "\n"); len([]rune(line)) > width && strings.Contains(line, "  ") {
			t.Errorf("%d columns: %d are wanted by %q", width, len([]rune(line)), line)
		}
	}
}

func same(t *testing.T, file, got string) {
	t.Helper()
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s differs; go test -update writes it anew. It is now:\n%s", file, got)
	}
}

// Clients choose their user names and targets, and an admin listener its answers: none
// of them writes to the terminal of who looks at them.
func TestViewsArePrintable(t *testing.T) {
	const evil = "\x1b[2J\u202e\u200b\u009b\x7f\n"
	r := session(evil, "192.0.2.9:51234", evil, evil, evil, evil, 1, 1)
	r.State, r.RuleName, r.RuleAt, r.LimitKey, r.Pool, r.Command = evil, evil, evil, evil, evil, evil
	e := record.End{Session: r.Session, Reason: evil, Error: evil, Held: &record.Held{Limit: evil, Holders: []record.Holder{{User: evil}}}}
	full := e
	full.Reason = "limit"
	l := api.Limit{Rule: evil, Name: evil, Location: evil, Generation: evil, Pool: evil, Mode: evil, Max: 1, Shares: []api.Share{{Replica: evil, Sessions: 1}},
		Keys: []api.Key{{Key: evil}}, Holders: []record.Holder{{User: evil}}}
	c := cluster()
	c.Cluster, c.Health, c.Reasons = evil, evil, []string{evil}
	c.Replicas = []api.Replica{{ID: evil, Name: evil, Address: evil, Version: evil, State: evil, Error: evil, Generation: evil}}
	for _, s := range []screen.Screen{{}, {Width: 40}} {
		list := Cases([]record.End{full, e}, 9)
		list[0].Find([]api.Limit{l})
		list[0].Hold([]record.Running{r})
		for _, text := range []string{
			Sessions(s, api.Sessions{Sessions: []record.Running{r}}), Refusals(s, api.Refusals{Refusals: []record.End{e}}, now),
			Limits(s, api.Limits{Limits: []api.Limit{l}}, now), Cluster(s, c, now), Why(s, evil, 2, list, now), Why(s, evil, 0, nil, now),
			Ended(api.Ended{Ended: []string{evil, evil}}), Missing(api.Missing{Replica: evil, Address: evil, Error: evil}),
		} {
			if i := strings.IndexFunc(text, func(r rune) bool { return r != '\n' && !unicode.IsPrint(r) }); i >= 0 {
				t.Errorf("%q in %q", text[i], text)
			}
		}
	}
}

func TestValues(t *testing.T) {
	for d, want := range map[time.Duration]string{
		-time.Second: "0s", 0: "0s", 59 * time.Second: "59s", time.Minute: "1m00s", 3599 * time.Second: "59m59s", time.Hour: "1h00m",
		23*time.Hour + 59*time.Minute: "23h59m", 24 * time.Hour: "1d00h", 1000 * time.Hour: "41d16h",
	} {
		if got := period(d); got != want {
			t.Errorf("%v: %s, want %s", d, got, want)
		}
	}
	for n, want := range map[int64]string{
		0: "0B", 999: "999B", 1000: "1.0kB", 9949: "9.9kB", 9950: "10kB", 12345: "12kB", 999_499: "999kB", 999_500: "1.0MB", 1e9: "1.0GB", 1 << 62: "4.6EB",
	} {
		if got := size(n); got != want {
			t.Errorf("%d: %s, want %s", n, got, want)
		}
	}
}

// Kinds of refusals that do not fit are counted, and a blocked one is explained once.
func TestWhyCountsWhatItLeavesOut(t *testing.T) {
	blocked := refusal(time.Minute, "192.0.2.7:5000", "usher-3")
	blocked.Reason, blocked.Error, blocked.Held = "blocked", "blocked by the rules", nil
	list := []record.End{blocked, refusal(time.Hour, "192.0.2.7:5001", "usher-1"), refusal(time.Hour, "192.0.2.7:5002", "usher-1")}
	text := Why(screen.Screen{}, "192.0.2.7", 3, Cases(list, 1), now)
	if !strings.HasSuffix(text, "\n2 of the 3 refusals are not shown; --limit shows more kinds of them\n") {
		t.Errorf("what is left out is not told:\n%s", text)
	}
	if strings.Contains(text, "blocked by the rules") {
		t.Errorf("the reason is said twice:\n%s", text)
	}
	if text = Why(screen.Screen{}, "192.0.2.7", 3, Cases(list, 2), now); strings.Contains(text, "not shown") {
		t.Errorf("nothing is left out:\n%s", text)
	}
}
