package main

import (
	"fmt"
	"io"
	"os"

	"usher/proxy/rules"
)

type validateCmd struct {
	File string `arg:"" help:"The rule file; - reads the standard input."`
}

// Run prints each finding as file:line:col: what; remedy. Warnings leave the
// exit code at 0. Of the environment it asks only whether there is a users
// file, which decides what some rules mean.
func (v validateCmd) Run(sys system) error {
	name, text, err := v.read(sys)
	if err != nil {
		return fmt.Errorf("rule file: %w", err)
	}
	set, found := parseRules(name, text, sys.environ["USHER_USERS_FILE"] != "")
	for _, d := range found {
		kind := ""
		if d.Severity == rules.Warning {
			kind = "warning: "
		}
		fmt.Fprintf(sys.stderr, "%s: %s%s; %s\n", d.Pos, kind, d.Message, d.Remedy)
	}
	if set == nil {
		return exitError(1)
	}
	fmt.Fprintf(sys.stdout, "%s: good; client-rules %d, socks-rules %d, rules with a limit %d, digest %s\n",
		name, len(set.Client), len(set.Socks), len(limitedRules(set)), set.Digest())
	return nil
}

func (v validateCmd) read(sys system) (name string, text []byte, err error) {
	if v.File == "-" {
		text, err = io.ReadAll(sys.stdin)
		return "stdin", text, err
	}
	text, err = os.ReadFile(v.File)
	return v.File, text, err
}
