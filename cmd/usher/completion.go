package main

import (
	"context"
	"io"

	"github.com/alecthomas/kong"

	"usher/cmd/usher/internal/complete"
	"usher/cmd/usher/internal/inspect"
)

type completionCmd struct {
	Shell string `arg:"" enum:"bash,zsh,fish" help:"The shell: ${enum}."`
}

// Help is shown under usher completion --help.
func (completionCmd) Help() string {
	return `Prints a script that completes verbs, flags and values. Names of sessions, clients, users, rules and replicas come from the running usher of USHER_ADMIN_LISTEN, if it answers within a second.

    bash: source <(usher completion bash)
    zsh:  source <(usher completion zsh)
    fish: usher completion fish | source`
}

// Run prints the script.
func (c completionCmd) Run(sys system) error {
	script, err := complete.Script(c.Shell)
	if err != nil {
		return err
	}
	_, err = io.WriteString(sys.stdout, script)
	return err
}

type completeCmd struct {
	Words []string `arg:"" optional:""`
}

// Run prints what the last of the words can become. The scripts call it.
func (c completeCmd) Run(ctx context.Context, sys system, caller inspect.Caller, app *kong.Kong) error {
	return complete.Write(sys.stdout, complete.Candidates(app.Model, c.Words, inspect.Values(ctx, caller)))
}
