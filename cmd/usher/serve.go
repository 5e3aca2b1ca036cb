package main

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"os/signal"
	"syscall"
)

type serveCmd struct{}

// Help lists every variable under usher serve --help.
func (serveCmd) Help() string { return variablesHelp() }

// Run serves until a signal or ctx ends it.
func (serveCmd) Run(ctx context.Context, sys system) error {
	cfg, unknown, err := loadConfig(sys.environ)
	if err != nil {
		return usageError{err}
	}
	// From here on a signal waits for us rather than killing the process.
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, syscall.SIGHUP, syscall.SIGTERM, syscall.SIGINT)
	defer signal.Stop(signals)

	s, err := start(cfg, sys)
	if err != nil {
		return err
	}
	for _, name := range unknown {
		s.log.Warn("unknown variable; usher serve --help lists all", "variable", name)
	}
	return s.wait(ctx, signals)
}

// wait reloads on SIGHUP, and drains on SIGTERM, SIGINT or the end of ctx.
func (s *service) wait(ctx context.Context, signals <-chan os.Signal) error {
	for {
		select {
		case err := <-s.broken:
			return errors.Join(err, s.stop(alreadyDone()))
		case <-ctx.Done():
			return s.drain("context", signals)
		case sig := <-signals:
			if sig == syscall.SIGHUP {
				s.reload()
				continue
			}
			return s.drain(sig.String(), signals)
		}
	}
}

// drain stops gracefully, unless a second signal says that there is no time
// for that: then it returns at once and leaves the rest to the kernel. What
// the process held in the store is then freed by its lease.
func (s *service) drain(why string, signals <-chan os.Signal) error {
	s.log.Info("draining", "why", why, "grace", s.cfg.DrainGrace.String(), "timeout", s.cfg.DrainTimeout.String(),
		"sessions", s.proxy.Sessions())
	stopped := make(chan error, 1)
	go func() { stopped <- s.stop(context.Background()) }()
	for {
		select {
		case err := <-stopped:
			return err
		case sig := <-signals:
			if sig == syscall.SIGHUP {
				s.log.Warn("not reloading: the process is about to stop")
				continue
			}
			s.log.Log(context.Background(), slog.LevelWarn, "second signal: exiting at once", "signal", sig.String(),
				"sessions", s.proxy.Sessions())
			return exitError(1)
		}
	}
}

// alreadyDone returns a context for stopping without patience.
func alreadyDone() context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return ctx
}
