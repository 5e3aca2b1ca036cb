// Command usher is a SOCKS proxy that reads Dante's rule file. Its session limits
// hold across all replicas.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/alecthomas/kong"

	"usher/cmd/usher/internal/build"
	"usher/cmd/usher/internal/control"
	"usher/cmd/usher/internal/exit"
	"usher/cmd/usher/internal/inspect"
	"usher/cmd/usher/internal/settings"
	"usher/proxy/printable"
)

func main() { os.Exit(program()) }

// unheardCode is the exit code of a command that has sent its signal and cannot tell
// what became of it.
const unheardCode = 4

// program runs the command with the arguments, environment and streams of this
// process. It returns the exit code: 0 success, 1 failure, 2 wrong arguments or
// configuration. explain also returns 3, commands that send a signal return 4 if nobody
// tells the result, and probe has further codes for its callers.
func program() int {
	args := os.Args[1:]
	verb := func() error {
		return run(context.Background(), args, system{
			environ: settings.Environ(os.Environ()), stdin: os.Stdin, stdout: os.Stdout, stderr: os.Stderr,
		})
	}
	switch {
	case asksFor("--nagios", args) && !asksFor("--relayd", args):
		return forNagios(os.Stdout, verb)
	case asksFor("--relayd", args):
		return forRelayd(verb)
	}
	err := verb()
	var quiet exit.CodeError
	var usage exit.UsageError
	var unheard control.UnheardError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &quiet):
		return int(quiet)
	case errors.As(err, &unheard): // why may be a mistake in the environment
		complain(os.Stderr, err)
		return unheardCode
	case errors.As(err, &usage):
		complain(os.Stderr, err)
		return 2
	}
	complain(os.Stderr, err)
	return 1
}

// complain prints why the process ends. It gives up after a second: a reader that
// is stalled must not keep the process from ending.
func complain(w io.Writer, err error) {
	printed := make(chan struct{})
	go func() {
		defer close(printed)
		fmt.Fprintf(w, "usher: %s\n", printable.Lines(err.Error()))
	}()
	select {
	case <-printed:
	case <-time.After(time.Second):
	}
}

// system is the part of the process that a command may use.
type system struct {
	environ        map[string]string
	stdin          io.Reader
	stdout, stderr io.Writer
}

// config reads the configuration for commands other than serve. Only serve warns
// about unknown variables.
func (s system) config() (settings.Config, error) {
	cfg, _, err := settings.Load(s.environ)
	if err != nil {
		return cfg, exit.Usage(err)
	}
	return cfg, nil
}

// cli is the command line. Each verb has its own file.
type cli struct {
	VersionFlag kong.VersionFlag `name:"version" help:"Print the version."`

	Serve       serveCmd         `cmd:"" default:"1" help:"Run the proxy. This is the default command."`
	Validate    validateCmd      `cmd:"" help:"Check a rule file. Exit code 0: serve can load it, 1: it cannot."`
	Explain     explainCmd       `cmd:"" help:"Show which rule decides about a request, why earlier rules do not match, and which limits apply. Exit code 0: it passes, 3: it is refused."`
	Probe       probeCmd         `cmd:"" help:"Ask a running usher whether it is ready, or with --socks prove that a SOCKS server forwards. Exit code 0: up, 1: down."`
	Status      inspect.Status   `cmd:"" help:"Show the health of the cluster, and the rules, limits and store of a running usher."`
	Sessions    inspect.Sessions `cmd:"" help:"List the sessions of all replicas."`
	Limits      inspect.Limits   `cmd:"" help:"List the limits: how full they are, and who holds the slots."`
	Refusals    inspect.Refusals `cmd:"" help:"List the last refusals of all replicas."`
	Why         inspect.Why      `cmd:"" help:"Say why a client or user was refused, who holds the slots, and what to do."`
	End         inspect.End      `cmd:"" help:"End sessions, on whichever replica they run."`
	Reload      reloadCmd        `cmd:"" help:"Reload the rules of a running usher and show the result. Exit code 0: the new rules are in force, 1: they are not."`
	Apply       applyCmd         `cmd:"" help:"Publish a rule file for all replicas of a cluster, and wait until they follow. Exit code 0: it is in force on all of them, 1: it is not."`
	Rollback    rollbackCmd      `cmd:"" help:"Publish the rules of an older generation again."`
	Generations generationsCmd   `cmd:"" help:"List the rules that are published for a cluster, and the replicas that follow."`
	Keygen      keygenCmd        `cmd:"" help:"Make a key pair to sign published rules with."`
	Upgrade     upgradeCmd       `cmd:"" help:"Replace a running usher by a new process of the program that is installed now; no client is refused. Exit code 0: the new one serves, 1: the old one goes on."`
	Drain       drainCmd         `cmd:"" help:"Let a running usher take no new sessions, until undrain."`
	Undrain     undrainCmd       `cmd:"" help:"Let a running usher take new sessions again."`
	Stop        stopCmd          `cmd:"" help:"Drain and stop a running usher, and wait until it has ended."`
	Completion  completionCmd    `cmd:"" help:"Print a script that completes command lines in bash, zsh or fish."`
	Complete    completeCmd      `cmd:"" hidden:"" help:"Print what the last word can become."`
	Man         manCmd           `cmd:"" hidden:"" help:"Print the manual page usher(1)."`
	Version     versionCmd       `cmd:"" name:"version" help:"Print version, commit, build date and Go version."`
}

// run parses args and runs one verb. Only main exits.
func run(ctx context.Context, args []string, sys system) error {
	answered := false
	parser, err := kong.New(&cli{},
		kong.Name("usher"),
		kong.Description("SOCKS proxy that reads Dante's rule file. Its session limits hold across all replicas."),
		kong.Writers(sys.stdout, sys.stderr),
		kong.Vars{"version": build.This().String()},
		kong.Exit(func(int) { answered = true }), // only --help and --version exit
		kong.BindTo(ctx, (*context.Context)(nil)),
		kong.Bind(sys, sys.caller()),
	)
	if err != nil {
		return fmt.Errorf("command line: %w", err) // a mistake in the tags of cli
	}
	verb, err := parser.Parse(args)
	if answered {
		return nil
	}
	if err != nil {
		return exit.Usage(fmt.Errorf("%w; see usher --help", err))
	}
	return verb.Run()
}
