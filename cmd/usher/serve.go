package main

import (
	"context"

	"usher/cmd/usher/internal/serve"
	"usher/cmd/usher/internal/settings"
)

type serveCmd struct{}

// Help adds the variables to usher serve --help.
func (serveCmd) Help() string { return settings.Help() }

// Run serves until a signal, the end of ctx or a failure.
func (serveCmd) Run(ctx context.Context, sys system) error {
	return serve.Run(ctx, sys.environ, serve.Streams{Stdout: sys.stdout, Stderr: sys.stderr})
}
