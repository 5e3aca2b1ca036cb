// Package validate checks the text of a rule file as serve would load it, and
// prints the findings.
package validate

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"

	"usher/cmd/usher/internal/policyfile"
	"usher/cmd/usher/internal/settings"
	"usher/proxy/decide"
	"usher/proxy/rules"
)

// Report is the result of a check of a rule file. Its JSON form is for programs.
type Report struct {
	File        string    `json:"file"`
	Good        bool      `json:"good"` // it can be served
	Findings    []Finding `json:"findings"`
	Digest      string    `json:"digest,omitempty"`
	ClientRules int       `json:"client_rules"`
	SocksRules  int       `json:"socks_rules"`
	Limited     int       `json:"limited"`         // rules with a limit
	Pools       []string  `json:"pools,omitempty"` // that the rules name, sorted
	Rules       string    `json:"rules,omitempty"` // in one spelling, with their numbers

	found []rules.Diagnostic
}

// Finding is one mistake, danger, warning or note.
type Finding struct {
	Severity string `json:"severity"` // error, danger, warning or note
	File     string `json:"file"`     // the rule file, or the users or groups file
	Line     int    `json:"line"`
	Column   int    `json:"column"`
	Message  string `json:"message"`
	Remedy   string `json:"remedy"`
}

// Text checks the text of a rule file. cfg says where serve would listen, and
// known whether clients can log in and which groups exist, because the meaning of some
// rules depends on this. machine are findings about what serve would open on
// this machine; it may be nil.
func Text(ctx context.Context, name string, text []byte, cfg settings.Config, known policyfile.Accounts, machine func(*rules.Set) []rules.Diagnostic) *Report {
	set, found := policyfile.Parse(name, text, known)
	r := &Report{File: name, Good: set != nil, Findings: []Finding{}, found: found}
	if set != nil {
		r.found = append(r.found, policyfile.Lint(ctx, cfg, &decide.Policy{Rules: set, Logins: known.UsersFile})...)
		rules.Sort(r.found)
		r.Digest, r.Rules = set.Digest(), set.Numbered()
		r.ClientRules, r.SocksRules, r.Limited = len(set.Client), len(set.Socks), len(policyfile.Limited(set))
		r.Pools = set.Pools()
	}
	if machine != nil {
		r.add(machine(set))
	}
	for _, d := range r.found {
		r.Findings = append(r.Findings, Finding{d.Severity.String(), d.Pos.File, d.Pos.Line, d.Pos.Col, d.Message, d.Remedy})
	}
	return r
}

// add puts the findings about the machine before the others. A warning of the parser
// about the same location says less. One about a variable has no location.
func (r *Report) add(machine []rules.Diagnostic) {
	r.found = slices.DeleteFunc(r.found, func(d rules.Diagnostic) bool {
		return d.Severity == rules.Warning && d.Pos != rules.Pos{} && slices.ContainsFunc(machine, func(m rules.Diagnostic) bool { return m.Pos == d.Pos })
	})
	r.found = append(machine, r.found...)
	r.Good = r.Good && policyfile.AsError(machine) == nil
}

// Strict reports whether the file can be served and has no finding above a note.
func (r *Report) Strict() bool {
	return r.Good && !slices.ContainsFunc(r.found, func(d rules.Diagnostic) bool { return d.Severity != rules.Note })
}

// PrintFindings writes each finding as file:line:col: what; remedy.
func (r *Report) PrintFindings(w io.Writer) {
	for _, d := range rules.Fold(r.found) {
		kind := ""
		if d.Severity != rules.Error {
			kind = d.Severity.String() + ": "
		}
		location := d.Pos.String() + ": "
		if d.Pos.File == "" { // a file that cannot be read, which the message names
			location = ""
		}
		fmt.Fprintf(w, "%s%s%s; %s\n", location, kind, d.Message, d.Remedy)
	}
}

// Print writes a summary of a file that can be served, and nothing for any other file.
// With rules, the summary is a comment above them.
func (r *Report) Print(w io.Writer, withRules bool) error {
	if !r.Good {
		return nil
	}
	pools := ""
	if len(r.Pools) > 0 {
		pools = " (pools " + strings.Join(r.Pools, ", ") + ")"
	}
	summary := fmt.Sprintf("%s: good; client-rules %d, socks-rules %d, rules with a limit %d%s, digest %s\n",
		r.File, r.ClientRules, r.SocksRules, r.Limited, pools, r.Digest)
	if withRules {
		summary = "# " + summary + r.Rules
	}
	_, err := io.WriteString(w, summary)
	return err
}
