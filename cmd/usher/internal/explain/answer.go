package explain

import (
	"cmp"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"text/tabwriter"

	"usher/proxy/rules"
)

// Answer is what serve would do. Its JSON form is for programs.
type Answer struct {
	File         string   `json:"file"`
	Digest       string   `json:"digest"`
	From         string   `json:"from"`
	Local        string   `json:"local,omitempty"` // not for replies: a peer connects elsewhere
	User         string   `json:"user,omitempty"`
	Target       string   `json:"target"`
	Command      string   `json:"command"`
	ClientRules  []Step   `json:"client_rules,omitempty"`
	Methods      []string `json:"methods,omitempty"` // that the client may use, in the server's order
	Bound        string   `json:"bound,omitempty"`   // where BIND would await its peer
	Note         string   `json:"note,omitempty"`
	RequestRules []Step   `json:"request_rules,omitempty"` // the socks-rules about the request for an association
	SocksRules   []Step   `json:"socks_rules,omitempty"`
	Names        []Name   `json:"names"`               // each name that was looked up, in that order
	Addresses    []string `json:"addresses,omitempty"` // of the target, that would be connected or sent to
	Limits       []Limit  `json:"limits,omitempty"`
	Reply        *Reply   `json:"reply,omitempty"` // to a datagram or BIND that passes
	Pass         bool     `json:"pass"`
	Reason       string   `json:"reason"`
}

// Step is one rule that was asked.
type Step struct {
	Rule     string `json:"rule"`
	Name     string `json:"name,omitempty"` // rule.name
	Location string `json:"location"`       // file:line
	Pass     bool   `json:"rule_passes"`
	Decides  bool   `json:"decides"`
	Mismatch string `json:"mismatch,omitempty"` // the keyword that does not match
	Why      string `json:"why,omitempty"`
}

// Name is a name with the addresses that it resolved to.
type Name struct {
	Name      string   `json:"name"`
	Addresses []string `json:"addresses"`
}

// Limit is a limit that the session counts in.
type Limit struct {
	Rule     string   `json:"rule"`
	Name     string   `json:"name,omitempty"` // rule.name
	Keywords []string `json:"keywords"`
	Key      string   `json:"key,omitempty"` // what the session is counted by, as in the log
	Held     string   `json:"held"`          // for how long
}

// Print writes the answer for people. Of the rules that were asked it names those
// that decide, with all also the others.
func (a *Answer) Print(w io.Writer, all bool) error {
	t := table{tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)}
	a.printClient(t)
	others := printSteps(t, a.ClientRules, all)
	a.printRequest(t)
	others += printSteps(t, a.RequestRules, all)
	if a.RequestRules != nil {
		t.row("datagram", "to %s", a.Target)
	}
	others += printSteps(t, a.SocksRules, all)
	if others > 0 {
		t.row("others", "%s, --all shows why", notMatching(others))
	}
	a.printAddresses(t)
	a.printLimits(t)
	if a.Reply != nil {
		t.row("answers", "%s", a.Reply)
		if all {
			printSteps(t, a.Reply.Rules, all)
		}
	}
	verdict := map[bool]string{true: "pass", false: "refused"}[a.Pass]
	t.row("verdict", "%s: %s", verdict, a.Reason)
	return t.Flush()
}

// table has rows of a name and a text.
type table struct{ *tabwriter.Writer }

func (t table) row(name, format string, args ...any) {
	fmt.Fprintf(t, "%s\t%s\n", name, fmt.Sprintf(format, args...))
}

func (a *Answer) printClient(t table) {
	t.row("rules", "%s, digest %s", a.File, a.Digest)
	if a.Local == "" {
		t.row("peer", "%s", a.From)
	} else {
		t.row("client", "%s, connected to %s", a.From, a.Local)
	}
}

func (a *Answer) printRequest(t table) {
	if a.Methods != nil {
		t.row("methods", "%s", strings.Join(a.Methods, " "))
	}
	if a.Note != "" {
		t.row("", "%s", a.Note)
	}
	as := ""
	if a.User != "" {
		as = " as " + a.User
	}
	t.row("request", "%s %s%s", a.Command, a.Target, as)
	if a.Bound != "" {
		t.row("bound", "%s", a.Bound)
	}
}

func (a *Answer) printAddresses(t table) {
	for _, n := range a.Names {
		if len(n.Addresses) == 0 {
			t.row("name", "%s has no address", n.Name)
		} else {
			t.row("name", "%s is %s", n.Name, strings.Join(n.Addresses, " "))
		}
	}
	if len(a.Addresses) > 0 {
		t.row("dialled", "%s", strings.Join(a.Addresses, " "))
	}
}

func (a *Answer) printLimits(t table) {
	for _, l := range a.Limits {
		by := ""
		if l.Key != "" {
			by = ", counted by " + l.Key
		}
		t.row("limit", "%s, %s%s: held %s", named(l.Rule, l.Name), strings.Join(l.Keywords, ", "), by, l.Held)
	}
}

// printSteps writes the step that decides, or all of them, and returns how many are
// left out.
func printSteps(w io.Writer, steps []Step, all bool) (others int) {
	for _, s := range steps {
		if !all && !s.Decides {
			others++
			continue
		}
		verdict := map[bool]string{true: "pass", false: "block"}[s.Pass]
		fmt.Fprintf(w, "  %s\t%s %s: %s\n", named(s.Rule, s.Name), s.Location, verdict, cmp.Or(s.Why, "DECIDES"))
	}
	return others
}

// named names a rule by its position, and by its name if it has one.
func named(position, name string) string {
	if name == "" {
		return position
	}
	return position + " (" + name + ")"
}

func stepsOf(steps []rules.Step) []Step {
	list := []Step{}
	for _, s := range steps {
		list = append(list, Step{Rule: s.Rule.ID(), Name: s.Rule.Name, Location: s.Rule.At(), Pass: s.Rule.Pass,
			Decides: s.Mismatch == rules.NoMismatch, Mismatch: s.Mismatch.String(), Why: s.Why})
	}
	return list
}

func targetText(t rules.Target) string {
	if t.Name == "" {
		return netip.AddrPortFrom(t.Addr, t.Port).String()
	}
	return net.JoinHostPort(t.Name, strconv.Itoa(int(t.Port)))
}

func texts(addrs []netip.Addr) []string {
	list := []string{}
	for _, a := range addrs {
		list = append(list, a.String())
	}
	return list
}

func notMatching(rules int) string {
	if rules == 1 {
		return "1 rule does not match"
	}
	return fmt.Sprintf("%d rules do not match", rules)
}
