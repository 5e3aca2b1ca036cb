package rules

import (
	"regexp"
	"slices"
	"testing"
)

// labels returns the labels of all rules, client-rules first.
func labels(t *testing.T, text string) (list []string) {
	t.Helper()
	set := parse(t, text)
	for _, r := range slices.Concat(set.Client, set.Socks) {
		list = append(list, r.Label())
	}
	return list
}

const (
	insider = "client pass { from: 10.0.0.0/8 to: 0/0 }\n"
	web     = "socks pass { from: 0/0 to: .example.com port = https }\n"
	rest    = "socks pass { from: 0/0 to: 0/0 }\n"
)

// A rule keeps its label wherever it stands, and whatever its limit is.
func TestLabelStays(t *testing.T) {
	before := labels(t, insider+web+rest)
	for name, text := range map[string]string{
		"a rule is inserted":  insider + "socks block { from: 0/0 to: 127.0.0.0/8 }\n" + web + rest,
		"rules are swapped":   rest + web + insider,
		"a limit comes":       "client pass { from: 10.0.0.0/8 to: 0/0 session.max: 5 }\n" + web + rest,
		"another spelling":    insider + "pass { to: .EXAMPLE.com port = 443\n from: 0/0 }\n" + rest,
		"log and timeouts":    insider + "socks pass { from: 0/0 to: .example.com port = https\n log: error\n timeout.io: 5 }\n" + rest,
		"server settings":     "socksmethod: none\ntimeout.io: 9\n" + insider + web + rest,
		"another rule's name": insider + web + "socks pass { from: 0/0 to: 1.2.3.4/32\n rule.name: " + "web }\n" + rest,
	} {
		after := labels(t, text)
		for _, label := range before {
			if !slices.Contains(after, label) {
				t.Errorf("%s: %q became %q", name, before, after)
			}
		}
	}
	if label := labels(t, "socks pass { from: 127.0.0.0/8 to: 0/0 }\n")[0]; label != "s:d7f21de3" {
		t.Errorf("the derived label is %s; dashboards have s:d7f21de3 from earlier versions", label)
	}
	for _, label := range before {
		if !regexp.MustCompile(`^[cs]:[0-9a-f]{8}$`).MatchString(label) {
			t.Errorf("derived label %q", label)
		}
	}
}

// Labels are unique, also those of rules that match the same.
func TestLabelsAreUnique(t *testing.T) {
	all := labels(t, insider+insider+web+web+web+"socks pass { from: 0/0 to: 0/0\n rule.name: web }\n")
	if slices.Sort(all); len(slices.Compact(all)) != 6 {
		t.Errorf("labels %q", all)
	}
}

func TestNamedRule(t *testing.T) {
	set := parse(t, "client pass { from: 0/0 to: 0/0 }\nsocks pass { from: 0/0 to: 0/0\n rule.name: web }\n")
	if r := set.Socks[0]; r.Label() != "web" || r.String() != "s1 (web)" || set.Client[0].String() != "c1" {
		t.Errorf("label %q, called %q and %q", r.Label(), r, set.Client[0])
	}
	bare := parse(t, "client pass { from: 0/0 to: 0/0 }\nsocks pass { from: 0/0 to: 0/0 }\n")
	if set.Digest() != bare.Digest() {
		t.Error("a name changes the digest")
	}
}
