package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"

	"usher/cmd/usher/internal/policyfile"
	"usher/cmd/usher/internal/settings"
	"usher/proxy/decide"
	"usher/proxy/rules"
	"usher/proxy/users"
)

type validateCmd struct {
	File  string `arg:"" help:"The rule file; - reads the standard input."`
	Print bool   `xor:"form" help:"Print the rules as they are understood, in one spelling and with their numbers."`
	JSON  bool   `name:"json" xor:"form" help:"Print findings and rules as JSON."`

	Strict bool `help:"Fail on dangers and warnings, too, as for CI. Notes never fail."`
}

// Help is shown under usher validate --help.
func (validateCmd) Help() string {
	return `Of the environment it asks whether there is a users file, what is in the groups file, and where serve would listen, on which the meaning of some rules depends: USHER_USERS_FILE, USHER_GROUPS_FILE, USHER_LISTEN.

Findings: an error means that the file cannot be served; a danger, that it lets somebody do more than is probably meant; a warning, that it probably does something else; a note, that lines have no effect and do no harm.

Exit codes: 0 the file can be served, 1 it cannot, or with --strict there is a danger or a warning, 2 wrong arguments.`
}

// Run prints each finding as file:line:col: what; remedy.
func (v validateCmd) Run(ctx context.Context, sys system) error {
	name, text, err := v.read(sys)
	if err != nil {
		return fmt.Errorf("rule file: %w", err)
	}
	known := policyfile.Accounts{UsersFile: sys.environ["USHER_USERS_FILE"] != ""}
	if file := sys.environ["USHER_GROUPS_FILE"]; file != "" {
		known.GroupsFile = true
		if known.Groups, err = users.LoadGroups(file); err != nil {
			return fmt.Errorf("USHER_GROUPS_FILE: %w", err)
		}
	}
	cfg, _, err := settings.Load(sys.environ)
	if err != nil { // serve would say so; the file can be judged without
		cfg = settings.Config{}
	}
	set, found := policyfile.Parse(name, text, known)
	if set != nil {
		found = append(found, policyfile.Lint(ctx, cfg, &decide.Policy{Rules: set, Logins: known.UsersFile})...)
		rules.Sort(found)
	}
	err = nil
	switch {
	case v.JSON:
		err = v.printJSON(sys.stdout, name, set, found)
	default:
		printFindings(sys.stderr, found)
		if set != nil {
			err = v.printText(sys.stdout, name, set)
		}
	}
	if err == nil && (set == nil || v.Strict && !harmless(found)) {
		return exitError(1)
	}
	return err
}

// harmless reports whether nothing but lines without effect was found.
func harmless(found []rules.Diagnostic) bool {
	return !slices.ContainsFunc(found, func(d rules.Diagnostic) bool { return d.Severity != rules.Note })
}

func printFindings(w io.Writer, found []rules.Diagnostic) {
	for _, d := range rules.Fold(found) {
		kind := ""
		if d.Severity != rules.Error {
			kind = d.Severity.String() + ": "
		}
		fmt.Fprintf(w, "%s: %s%s; %s\n", d.Pos, kind, d.Message, d.Remedy)
	}
}

func (v validateCmd) printText(w io.Writer, name string, set *rules.Set) error {
	summary := fmt.Sprintf("%s: good; client-rules %d, socks-rules %d, rules with a limit %d, digest %s\n",
		name, len(set.Client), len(set.Socks), len(policyfile.Limited(set)), set.Digest())
	if v.Print {
		summary = "# " + summary + set.Numbered()
	}
	_, err := io.WriteString(w, summary)
	return err
}

// validation is what usher validate --json prints.
type validation struct {
	File        string    `json:"file"`
	Good        bool      `json:"good"` // it can be served
	Findings    []finding `json:"findings"`
	Digest      string    `json:"digest,omitempty"`
	ClientRules int       `json:"client_rules"`
	SocksRules  int       `json:"socks_rules"`
	Limited     int       `json:"limited"`
	Rules       string    `json:"rules,omitempty"` // as --print prints them
}

type finding struct {
	Severity string `json:"severity"` // error, danger, warning or note
	Line     int    `json:"line"`
	Column   int    `json:"column"`
	Message  string `json:"message"`
	Remedy   string `json:"remedy"`
}

func (v validateCmd) printJSON(w io.Writer, name string, set *rules.Set, found []rules.Diagnostic) error {
	result := validation{File: name, Good: set != nil, Findings: []finding{}}
	for _, d := range found {
		result.Findings = append(result.Findings, finding{d.Severity.String(), d.Pos.Line, d.Pos.Col, d.Message, d.Remedy})
	}
	if set != nil {
		result.Digest, result.Rules = set.Digest(), set.Numbered()
		result.ClientRules, result.SocksRules, result.Limited = len(set.Client), len(set.Socks), len(policyfile.Limited(set))
	}
	return printJSON(w, result)
}

// printJSON writes v for programs, and so that people can read it.
func printJSON(w io.Writer, v any) error {
	out := json.NewEncoder(w)
	out.SetEscapeHTML(false)
	out.SetIndent("", "  ")
	return out.Encode(v)
}

func (v validateCmd) read(sys system) (name string, text []byte, err error) {
	if v.File == "-" {
		text, err = io.ReadAll(sys.stdin)
		return "stdin", text, err
	}
	text, err = os.ReadFile(v.File)
	return v.File, text, err
}
