package main

import (
	"cmp"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"

	"usher/proxy"
	"usher/proxy/rules"
)

// explanation is what usher explain answers; its JSON form is for programs.
type explanation struct {
	File         string     `json:"file"`
	Digest       string     `json:"digest"`
	From         string     `json:"from"`
	Local        string     `json:"local,omitempty"` // a peer connects elsewhere
	User         string     `json:"user,omitempty"`
	Target       string     `json:"target"`
	Command      string     `json:"command"`
	ClientRules  []ruleStep `json:"client_rules,omitempty"`
	Methods      []string   `json:"methods,omitempty"` // that the client may negotiate, in the server's order
	Bound        string     `json:"bound,omitempty"`   // where BIND would await its peer
	Note         string     `json:"note,omitempty"`
	RequestRules []ruleStep `json:"request_rules,omitempty"` // the socks-rules about the request for an association
	SocksRules   []ruleStep `json:"socks_rules,omitempty"`
	Names        []resolved `json:"names"`               // every name that was looked up, in that order
	Addresses    []string   `json:"addresses,omitempty"` // of the target, that would be dialled
	Limits       []limited  `json:"limits,omitempty"`
	Pass         bool       `json:"pass"`
	Reason       string     `json:"reason"`

	unsure string // what depends on an address that the question does not tell; "": nothing
}

// ruleStep is one rule that was asked.
type ruleStep struct {
	Rule     string `json:"rule"`
	Place    string `json:"place"`
	Pass     bool   `json:"rule_passes"`
	Decides  bool   `json:"decides"`
	Mismatch string `json:"mismatch,omitempty"` // the keyword that was not fulfilled
	Why      string `json:"why,omitempty"`
}

type resolved struct {
	Name      string   `json:"name"`
	Addresses []string `json:"addresses"`
}

// limited is a limit that the session counts in.
type limited struct {
	Rule     string   `json:"rule"`
	Keywords []string `json:"keywords"`
	Held     string   `json:"held"`
}

func stepsOf(steps []rules.Step) []ruleStep {
	list := []ruleStep{}
	for _, s := range steps {
		list = append(list, ruleStep{Rule: s.Rule.ID(), Place: s.Rule.Pos.String(), Pass: s.Rule.Pass,
			Decides: s.Mismatch == rules.NoMismatch, Mismatch: s.Mismatch.String(), Why: s.Why})
	}
	return list
}

// doubt notes that steps were taken with an address that stands for every one
// of its family, if that mattered.
func (e *explanation) doubt(steps []rules.Step, every netip.Addr) {
	i := slices.IndexFunc(steps, func(s rules.Step) bool { return s.Splits(every) })
	if i >= 0 {
		e.unsure = cmp.Or(e.unsure, fmt.Sprintf("%s (%s)", steps[i].Rule.ID(), steps[i].Rule.Pos))
	}
}

// refuse notes that a rule blocks, or that none matched.
func (e *explanation) refuse(r *rules.Rule, kind, outcome string) {
	e.Reason = "no " + kind + " matches: " + outcome
	if r != nil {
		e.Reason = r.ID() + " blocks it: " + outcome
	}
}

// refuseFor notes that serve refuses what the rules may pass.
func (e *explanation) refuseFor(err error) {
	reply, reason := proxy.Refusal(err)
	outcome := fmt.Sprintf("reply %d", reply)
	if e.RequestRules != nil { // the association was granted; this is its datagram
		outcome = "it is dropped"
	}
	e.Reason = fmt.Sprintf("%v: %s, reason %s", err, outcome, reason)
}

func (e *explanation) limit(r *rules.Rule, held string) {
	if words := r.LimitWords(); len(words) > 0 {
		e.Limits = append(e.Limits, limited{r.ID(), words, held})
	}
}

// inherit settles how long the slots of a session that passed are held. That of
// BIND may move when its peer comes, and who that will be is not known.
func (e *explanation) inherit(client, socks *rules.Rule, bind bool) {
	end := ""
	if bind {
		end = "; but if the bindreply rule for its peer has another limit, until that peer comes"
	}
	if len(e.Limits) > 0 {
		held := &e.Limits[0].Held
		switch {
		case proxy.Inherits(client, socks):
			*held = "to the end of the session, as " + socks.ID() + " has no limit of its own" + end
		case client.Session.Inheritable:
			*held += "; then given back, as " + socks.ID() + " has a limit of its own"
		default:
			*held += "; then given back, as it is not inheritable"
		}
	}
	e.limit(socks, "to the end of the session"+end)
}

// print writes the explanation for people.
func (e *explanation) print(w io.Writer) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	row := func(name, format string, args ...any) { fmt.Fprintf(t, "%s\t%s\n", name, fmt.Sprintf(format, args...)) }
	row("rules", "%s, digest %s", e.File, e.Digest)
	if e.Local == "" {
		row("peer", "%s", e.From)
	} else {
		row("client", "%s, connected to %s", e.From, e.Local)
	}
	printSteps(t, e.ClientRules)
	if e.Methods != nil {
		row("methods", "%s", strings.Join(e.Methods, " "))
	}
	if e.Note != "" {
		row("", "%s", e.Note)
	}
	row("request", "%s %s%s", e.Command, e.Target, prefixed(" as ", e.User))
	if e.Bound != "" {
		row("bound", "%s", e.Bound)
	}
	printSteps(t, e.RequestRules)
	if e.RequestRules != nil {
		row("datagram", "to %s", e.Target)
	}
	printSteps(t, e.SocksRules)
	for _, n := range e.Names {
		row("name", "%s is %s", n.Name, orNothing(n.Addresses))
	}
	if len(e.Addresses) > 0 {
		row("dialled", "%s", strings.Join(e.Addresses, " "))
	}
	for _, l := range e.Limits {
		row("limit", "%s, %s: held %s", l.Rule, strings.Join(l.Keywords, ", "), l.Held)
	}
	verdict := map[bool]string{true: "pass", false: "refused"}[e.Pass]
	row("verdict", "%s: %s", verdict, e.Reason)
	return t.Flush()
}

func printSteps(w io.Writer, steps []ruleStep) {
	for _, s := range steps {
		verdict := map[bool]string{true: "pass", false: "block"}[s.Pass]
		fmt.Fprintf(w, "  %s\t%s %s: %s\n", s.Rule, s.Place, verdict, cmp.Or(s.Why, "DECIDES"))
	}
}

// prefixed returns text after prefix, "" if there is no text.
func prefixed(prefix, text string) string {
	if text == "" {
		return ""
	}
	return prefix + text
}

func orNothing(words []string) string { return cmp.Or(strings.Join(words, " "), "nothing") }

func target(t rules.Target) string {
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
