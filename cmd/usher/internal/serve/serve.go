// Package serve is the running service: usher serve.
package serve

import (
	"context"
	"errors"
	"io"

	"usher/cmd/usher/internal/await"
	"usher/cmd/usher/internal/exit"
	"usher/cmd/usher/internal/handover"
	"usher/cmd/usher/internal/settings"
	"usher/cmd/usher/internal/signals"
)

// Streams are where the log goes, unless the rule file names files.
type Streams struct{ Stdout, Stderr io.Writer }

// Run serves until a signal, the end of ctx or a failure. environ are the variables of
// the process. It may be called once in a process: it takes its signals and the sockets
// that were handed to it.
func Run(ctx context.Context, environ map[string]string, sys Streams) (err error) {
	sockets, parent, err := handover.Receive()
	defer func() {
		if err != nil {
			parent.Say(err.Error())
		}
	}()
	if err != nil {
		return err
	}
	cfg, unknown, err := settings.Load(environ)
	if err != nil {
		return exit.Usage(err)
	}
	// From here on a signal does not kill the process; wait handles it.
	sigs := signals.Receive()
	defer sigs.Release()

	s, err := begin(ctx, cfg, sys, sockets, parent, sigs)
	if err != nil || s == nil {
		return err
	}
	for _, name := range unknown {
		s.log.Warn("unknown variable", "variable", name, "remedy", "see usher serve --help for all variables")
	}
	if err := s.takeOver(ctx, parent, sigs); err != nil {
		return errors.Join(err, s.stop(alreadyDone()))
	}
	s.open()
	if parent == nil {
		s.tasks.run(s.notifyReady)
	}
	return s.wait(ctx, sigs)
}

// begin starts the service, once there are rules. If it is told to end before, it
// returns neither a service nor an error.
func begin(ctx context.Context, cfg settings.Config, sys Streams, sockets *handover.Sockets, parent *handover.Parent, sigs *signals.Signals) (*service, error) {
	if !cfg.Published() {
		return start(cfg, sys, sockets, nil)
	}
	found, err := await.Rules(ctx, await.Process{
		Config: cfg, Stdout: sys.Stdout, Stderr: sys.Stderr, Sockets: sockets, Parent: parent, Signals: sigs,
	})
	if err != nil || found.Follower == nil {
		return nil, err
	}
	s, err := start(cfg, sys, sockets, found.Follower)
	if err == nil && found.Drained {
		s.beginDrained()
	}
	return s, err
}
