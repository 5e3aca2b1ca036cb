package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"slices"

	"usher/cmd/usher/internal/accounting"
	"usher/cmd/usher/internal/exit"
	"usher/cmd/usher/internal/listen"
	"usher/cmd/usher/internal/logging"
	"usher/cmd/usher/internal/policyfile"
	"usher/cmd/usher/internal/settings"
	"usher/cmd/usher/internal/validate"
	"usher/proxy/printable"
	"usher/proxy/rules"
)

type validateCmd struct {
	File  string `arg:"" help:"The rule file. - reads the standard input."`
	Print bool   `xor:"form" help:"Print the rules as Usher understands them, with their numbers."`
	JSON  bool   `name:"json" xor:"form" help:"Print findings and rules as JSON."`

	Elsewhere bool `help:"Check the file for another machine: open no log file, accounting file or users file, and only warn about missing interfaces."`

	Strict bool `help:"Exit with 1 for dangers and warnings, too. For CI. Notes do not change the exit code."`
}

// Help is shown under usher validate --help.
func (validateCmd) Help() string {
	return `Set USHER_USERS_FILE, USHER_GROUPS_FILE and USHER_LISTEN as for usher serve. The meaning of some rules depends on them.

validate also checks whether usher serve, started by the same user on this machine, could open its log files, accounting file (USHER_ACCOUNTING), users file and groups file, and find its interfaces. If not, that is an error. validate creates no file. --elsewhere is for the file of another machine.

Findings have a severity. error: usher cannot serve the file. danger: the file probably lets somebody do more than you mean. warning: it probably does something else than you mean. note: a line has no effect and does no harm.

Exit codes: 0 usher can serve the file; 1 it cannot, or --strict is given and there is a danger or a warning; 2 wrong arguments.`
}

// Run checks the file and prints what it finds.
func (v validateCmd) Run(ctx context.Context, sys system) error {
	name, text, err := v.read(sys)
	if err != nil {
		return fmt.Errorf("rule file: %w", err)
	}
	cfg, _, err := settings.Load(sys.environ)
	if err != nil { // serve reports it; the file can be judged without
		cfg = settings.Config{UsersFile: sys.environ["USHER_USERS_FILE"], GroupsFile: sys.environ["USHER_GROUPS_FILE"], Accounting: sys.environ["USHER_ACCOUNTING"]}
	}
	known, machine := v.machine(cfg)
	report := validate.Text(ctx, name, text, cfg, known, machine)
	if v.JSON {
		err = printable.WriteJSON(sys.stdout, report)
	} else {
		report.PrintFindings(sys.stderr)
		err = report.Print(sys.stdout, v.Print)
	}
	if err == nil && (!report.Good || v.Strict && !report.Strict()) {
		return exit.CodeError(1)
	}
	return err
}

// machine returns the accounts of the users and groups files, and what checks that
// serve could open everything on this machine. Rules name groups, so the groups file
// is read in any case.
func (v validateCmd) machine(cfg settings.Config) (policyfile.Accounts, func(*rules.Set) []rules.Diagnostic) {
	opened := cfg
	if v.Elsewhere {
		opened.UsersFile = ""
	}
	known, err := policyfile.LoadAccounts(opened)
	known.UsersFile = cfg.UsersFile != ""
	found := policyfile.AccountFindings(err)
	return known, func(set *rules.Set) []rules.Diagnostic {
		if set == nil || v.Elsewhere {
			return found
		}
		return slices.Concat(found, listen.Check(cfg, set.Settings), logging.Check(set.Settings), accounting.Check(cfg.Accounting))
	}
}

func (v validateCmd) read(sys system) (name string, text []byte, err error) {
	if v.File == "-" {
		text, err = io.ReadAll(sys.stdin)
		return "stdin", text, err
	}
	text, err = os.ReadFile(v.File)
	return v.File, text, err
}
