package main

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"usher/cmd/usher/internal/settings"
)

type serveCmd struct{}

// Help lists every variable under usher serve --help.
func (serveCmd) Help() string { return settings.Help() }

// Run serves until a signal or ctx ends it.
func (serveCmd) Run(ctx context.Context, sys system) error {
	cfg, unknown, err := settings.Load(sys.environ)
	if err != nil {
		return usageError{err}
	}
	// From here on a signal waits for us rather than killing the process.
	signals := notifySignals()
	defer signals.release()

	s, err := start(cfg, sys)
	if err != nil {
		return err
	}
	for _, name := range unknown {
		s.log.Warn("unknown variable; usher serve --help lists all", "variable", name)
	}
	return s.wait(ctx, signals)
}

// signals are those that serve heeds. What does not fit into a channel is
// dropped, so many of one kind must not take the place of the other.
type signals struct {
	reload chan os.Signal // SIGHUP: one that waits is as good as many
	stop   chan os.Signal // SIGTERM, SIGINT: the second counts, a third does not
}

func notifySignals() signals {
	s := signals{make(chan os.Signal, 1), make(chan os.Signal, 2)}
	signal.Notify(s.reload, syscall.SIGHUP)
	signal.Notify(s.stop, syscall.SIGTERM, syscall.SIGINT)
	return s
}

func (s signals) release() {
	signal.Stop(s.reload)
	signal.Stop(s.stop)
}

// wait reloads on SIGHUP, and drains on SIGTERM, SIGINT or the end of ctx.
func (s *service) wait(ctx context.Context, signals signals) error {
	for {
		select {
		case err := <-s.broken:
			return errors.Join(err, s.stop(alreadyDone()))
		case <-ctx.Done():
			return s.drain("context", signals)
		case <-signals.reload:
			select {
			case sig := <-signals.stop: // both came, and rules may take a while to load
				return s.drain(sig.String(), signals)
			default:
				s.reload()
			}
		case sig := <-signals.stop:
			return s.drain(sig.String(), signals)
		}
	}
}

// drain stops gracefully, unless a second signal says that there is no time
// for that: then it returns at once and leaves the rest to the kernel. What
// the process held in the store is then freed by its lease.
func (s *service) drain(why string, signals signals) error {
	s.log.Info("draining", "why", why, "grace", s.cfg.DrainGrace.String(), "timeout", s.cfg.DrainTimeout.String(),
		"sessions", s.proxy.Sessions())
	stopped := make(chan error, 1)
	go func() { stopped <- s.stop(context.Background()) }()
	for {
		select {
		case err := <-stopped:
			return err
		case <-signals.reload:
			s.log.Warn("not reloading: the process is about to stop")
		case sig := <-signals.stop:
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
