package main

import (
	"context"
	"errors"
	"os"
	"os/signal"
	"syscall"
	"time"

	"usher/cmd/usher/internal/settings"
)

type serveCmd struct{}

// Help adds the variables to usher serve --help.
func (serveCmd) Help() string { return settings.Help() }

// Run serves until a signal, the end of ctx or a failure.
func (serveCmd) Run(ctx context.Context, sys system) error {
	cfg, unknown, err := settings.Load(sys.environ)
	if err != nil {
		return usageError{err}
	}
	// From here on a signal does not kill the process; wait handles it.
	signals := notifySignals()
	defer signals.release()

	s, err := begin(ctx, cfg, sys, signals)
	if err != nil || s == nil {
		return err
	}
	for _, name := range unknown {
		s.log.Warn("unknown variable", "variable", name, "remedy", "see usher serve --help for all variables")
	}
	return s.wait(ctx, signals)
}

// signals are the signals that serve handles. The kinds have separate channels, as
// a full channel drops signals: many SIGHUPs must not displace a SIGTERM.
type signals struct {
	reload chan os.Signal // SIGHUP; many are one reload
	stop   chan os.Signal // SIGTERM, SIGINT
}

// repeatWindow is how long after the first SIGTERM or SIGINT further ones count
// as the same request. Programs such as timeout signal a process and its group,
// so that one request arrives twice.
const repeatWindow = time.Second

// notifySignals begins to receive signals until release. It ignores SIGPIPE for
// good: the death of the program that reads the log must not end this one.
func notifySignals() signals {
	signal.Ignore(syscall.SIGPIPE)
	s := signals{make(chan os.Signal, 1), make(chan os.Signal, 2)}
	signal.Notify(s.reload, syscall.SIGHUP)
	signal.Notify(s.stop, syscall.SIGTERM, syscall.SIGINT)
	return s
}

func (s signals) release() {
	signal.Stop(s.reload)
	signal.Stop(s.stop)
}

// wait reloads on SIGHUP, and drains on SIGTERM, SIGINT or the end of ctx. It
// returns when the service has stopped.
func (s *service) wait(ctx context.Context, signals signals) error {
	for {
		select {
		case err := <-s.broken:
			return errors.Join(err, s.stop(alreadyDone()))
		case <-ctx.Done():
			return s.drain("context", signals)
		case <-signals.reload:
			select {
			case sig := <-signals.stop: // do not load rules for a process that is to stop
				return s.drain(sig.String(), signals)
			default:
				s.reload()
			}
		case sig := <-signals.stop:
			return s.drain(sig.String(), signals)
		}
	}
}

// drain stops gracefully. A second signal after repeatWindow makes it return at
// once: the kernel then closes all connections, and slots are freed when the lease
// ends.
func (s *service) drain(why string, signals signals) error {
	s.log.Info("draining", "why", why, "grace", s.cfg.DrainGrace.String(), "timeout", s.cfg.DrainTimeout.String(),
		"sessions", s.proxy.Sessions())
	began := time.Now()
	stopped := make(chan error, 1)
	go func() { stopped <- s.stop(context.Background()) }()
	for {
		select {
		case err := <-stopped:
			return err
		case <-signals.reload:
			s.log.Warn("reload ignored while draining")
		case sig := <-signals.stop:
			if time.Since(began) < repeatWindow {
				s.log.Info("repeated signal ignored", "signal", sig.String())
				continue
			}
			s.log.Warn("second signal, exiting at once", "signal", sig.String(), "sessions", s.proxy.Sessions())
			s.log.Flush()
			return exitError(1)
		}
	}
}

// alreadyDone returns a context that has ended, to stop without waiting.
func alreadyDone() context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return ctx
}
