package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"

	"usher/cmd/usher/internal/policyfile"
	"usher/cmd/usher/internal/settings"
	"usher/cmd/usher/internal/validate"
	"usher/proxy/users"
)

type validateCmd struct {
	File  string `arg:"" help:"The rule file; - reads the standard input."`
	Print bool   `xor:"form" help:"Print the rules as Usher understands them, with their numbers."`
	JSON  bool   `name:"json" xor:"form" help:"Print findings and rules as JSON."`

	Strict bool `help:"Exit with 1 for dangers and warnings, too. For CI. Notes never change the exit code."`
}

// Help is shown under usher validate --help.
func (validateCmd) Help() string {
	return `The meaning of some rules depends on three variables: USHER_USERS_FILE (set or not), USHER_GROUPS_FILE (its groups) and USHER_LISTEN (who can connect).

Findings have a severity. error: the file cannot be served. danger: it probably lets somebody do more than is meant. warning: it probably does something else than is meant. note: a line has no effect and does no harm.

Exit codes: 0 the file can be served, 1 it cannot be served, or --strict is given and there is a danger or a warning, 2 wrong arguments.`
}

// Run checks the file and prints what it finds.
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
	if err != nil { // serve reports it; the file can be judged without
		cfg = settings.Config{}
	}
	report := validate.Text(ctx, name, text, cfg, known)
	if v.JSON {
		err = printJSON(sys.stdout, report)
	} else {
		report.PrintFindings(sys.stderr)
		err = report.Print(sys.stdout, v.Print)
	}
	if err == nil && (!report.Good || v.Strict && !report.Strict()) {
		return exitError(1)
	}
	return err
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
