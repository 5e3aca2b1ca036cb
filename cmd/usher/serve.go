package main

import (
	"context"
	"errors"
	"os"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"

	"usher/cmd/usher/internal/handover"
	"usher/cmd/usher/internal/settings"
)

type serveCmd struct{}

// Help adds the variables to usher serve --help.
func (serveCmd) Help() string { return settings.Help() }

// Run serves until a signal, the end of ctx or a failure.
func (serveCmd) Run(ctx context.Context, sys system) (err error) {
	sockets, parent, err := handover.Receive()
	defer func() {
		if err != nil {
			parent.Say(err.Error())
		}
	}()
	if err != nil {
		return err
	}
	cfg, unknown, err := settings.Load(sys.environ)
	if err != nil {
		return usageError{err}
	}
	// From here on a signal does not kill the process; wait handles it.
	signals := notifySignals()
	defer signals.release()

	s, err := begin(ctx, cfg, sys, sockets, parent, signals)
	if err != nil || s == nil {
		return err
	}
	for _, name := range unknown {
		s.log.Warn("unknown variable", "variable", name, "remedy", "see usher serve --help for all variables")
	}
	if err := s.takeOver(ctx, parent, signals); err != nil {
		return errors.Join(err, s.stop(alreadyDone()))
	}
	s.open()
	if parent == nil {
		s.serving.Go(s.notifyReady)
	}
	return s.wait(ctx, signals)
}

// wait does what signals ask for, and drains on SIGTERM, SIGINT or the end of ctx. It
// returns when the service has stopped.
func (s *service) wait(ctx context.Context, signals signals) error {
	alive := s.notify.watchdog()
	defer alive.Stop()
	for {
		control := signals
		if s.upgrades.running() { // the process that serves then is to do it
			control = control.later()
		}
		select {
		case err := <-s.broken:
			s.abortUpgrade()
			return errors.Join(err, s.stop(alreadyDone()))
		case <-ctx.Done():
			return s.drain("context", signals)
		case sig := <-signals.stop:
			return s.drain(sig.String(), signals)
		case <-alive.C:
			s.notify.alive()
		case <-s.drained.grace:
			s.suspend()
		case <-control.reload:
			if sig, stopping := signals.stopping(); stopping { // do not load rules for a process that is to stop
				return s.drain(sig.String(), signals)
			}
			s.reload()
		case <-control.drain:
			s.startDrain()
		case <-control.undrain:
			s.endDrain()
		case <-signals.upgrade:
			s.upgrade()
		case err := <-s.upgrades.done:
			if s.upgraded(err) {
				return s.retire(signals)
			}
		}
	}
}

// drain stops gracefully. A second signal after repeatWindow makes it return at
// once: the kernel then closes all connections, and slots are freed when the lease
// ends.
func (s *service) drain(why string, signals signals) error {
	s.notify.tell(daemon.SdNotifyStopping)
	s.abortUpgrade()
	s.log.Info("draining", "why", why, "grace", s.cfg.DrainGrace.String(), "timeout", s.cfg.DrainTimeout.String(),
		"sessions", s.proxy.Sessions())
	stopped := make(chan error, 1)
	go func() { stopped <- s.stop(context.Background()) }()
	return s.await(stopped, signals, time.Now())
}

// await returns when the drain has stopped the service, or at a signal to stop that
// does not belong to the one at since. The zero time: there was none yet.
func (s *service) await(stopped <-chan error, signals signals, since time.Time) error {
	for {
		select {
		case err := <-stopped:
			return err
		case sig := <-signals.reload:
			s.passOn(sig)
		case sig := <-signals.drain:
			s.passOn(sig)
		case sig := <-signals.undrain:
			s.passOn(sig)
		case sig := <-signals.upgrade:
			s.passOn(sig)
		case sig := <-signals.stop:
			if since.IsZero() {
				since = time.Now()
			}
			if time.Since(since) < repeatWindow {
				s.log.Info("repeated signal ignored", "signal", sig.String())
				continue
			}
			s.log.Warn("second signal, exiting at once", "signal", sig.String(), "sessions", s.proxy.Sessions())
			s.log.Flush()
			return exitError(1)
		}
	}
}

// passOn passes a signal on to the process that has taken the place of this one.
func (s *service) passOn(sig os.Signal) {
	if s.upgrades.successor == nil {
		s.log.Warn("signal ignored while draining", "signal", sig.String())
		return
	}
	s.upgrades.successor.Signal(sig)
}

// alreadyDone returns a context that has ended, to stop without waiting.
func alreadyDone() context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return ctx
}
