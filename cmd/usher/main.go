// Command usher is a SOCKS proxy with Dante's rule file whose session limits
// hold over all its replicas.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/alecthomas/kong"

	"usher/cmd/usher/internal/settings"
)

func main() { os.Exit(program()) }

// program runs the command with what the system gives a process, and returns
// its exit code: 0 fine, 1 failure, 2 wrong usage or configuration; explain has
// a 3 of its own.
func program() int {
	err := run(context.Background(), os.Args[1:], system{
		environ: settings.Environ(os.Environ()), stdin: os.Stdin, stdout: os.Stdout, stderr: os.Stderr,
	})
	var quiet exitError
	var usage usageError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &quiet):
		return int(quiet)
	case errors.As(err, &usage):
		fmt.Fprintf(os.Stderr, "usher: %v\n", err)
		return 2
	}
	fmt.Fprintf(os.Stderr, "usher: %v\n", err)
	return 1
}

// system is what a command may use of the process that it runs in.
type system struct {
	environ        map[string]string
	stdin          io.Reader
	stdout, stderr io.Writer
}

// config reads the configuration, for commands other than serve: they do not
// warn about unknown variables, serve does.
func (s system) config() (settings.Config, error) {
	cfg, _, err := settings.Load(s.environ)
	if err != nil {
		return cfg, usageError{err}
	}
	return cfg, nil
}

// exitError is an exit code without words: what there is to say was said.
type exitError int

func (e exitError) Error() string { return fmt.Sprintf("exit code %d", int(e)) }

// usageError is a mistake in the arguments or in the environment.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

// cli is the command line. Each verb has a file of its own.
type cli struct {
	VersionFlag kong.VersionFlag `name:"version" help:"Print the version."`

	Serve    serveCmd    `cmd:"" default:"1" help:"Run the proxy (also without any argument)."`
	Validate validateCmd `cmd:"" help:"Check a rule file: exit code 0 if it can be served, else 1."`
	Explain  explainCmd  `cmd:"" help:"Tell which rules decide about a request, why those before them do not, and what limits it: exit code 0 if it passes, 3 if not."`
	Probe    probeCmd    `cmd:"" help:"Ask a running usher whether it is ready: exit code 0 if so, else 1. For container health checks."`
	Status   statusCmd   `cmd:"" help:"Show what a running usher does."`
	Version  versionCmd  `cmd:"" name:"version" help:"Print the version."`
}

// run parses args and runs one verb. Only main exits.
func run(ctx context.Context, args []string, sys system) error {
	answered := false
	parser, err := kong.New(&cli{},
		kong.Name("usher"),
		kong.Description("SOCKS proxy with Dante's rule file. Session limits hold over all replicas."),
		kong.Writers(sys.stdout, sys.stderr),
		kong.Vars{"version": versionLine()},
		kong.Exit(func(int) { answered = true }), // --help and --version are all that exit
		kong.BindTo(ctx, (*context.Context)(nil)),
		kong.Bind(sys),
	)
	if err != nil {
		return fmt.Errorf("command line: %w", err) // a mistake in the tags above
	}
	verb, err := parser.Parse(args)
	if answered {
		return nil
	}
	if err != nil {
		return usageError{fmt.Errorf("%w; usher --help shows what can be asked", err)}
	}
	return verb.Run()
}
