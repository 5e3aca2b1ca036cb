package serve

import (
	"context"
	"errors"
	"os"
	"time"

	"usher/cmd/usher/internal/exit"
	"usher/cmd/usher/internal/signals"
)

// wait does what signals ask for, and drains on SIGTERM, SIGINT or the end of ctx. It
// returns when the service has stopped.
func (s *service) wait(ctx context.Context, sigs *signals.Signals) error {
	alive := s.notify.Watchdog()
	defer alive.Stop()
	for {
		control, requests := sigs, s.drained.requests
		if s.upgrades.running() { // the process that serves then is to do it
			control, requests = control.Later(), nil
		}
		select {
		case err := <-s.loops.Broken():
			s.abortUpgrade()
			return errors.Join(err, s.stop(alreadyDone()))
		case <-ctx.Done():
			return s.drain("context", sigs)
		case sig := <-sigs.Stop:
			return s.drain(sig.String(), sigs)
		case <-alive.C:
			s.notify.Alive()
		case <-s.drained.grace:
			s.suspend()
		case <-control.Reload:
			if sig, stopping := sigs.Stopping(); stopping { // do not load rules for a process that is to stop
				return s.drain(sig.String(), sigs)
			}
			s.reload()
		case <-control.Drain:
			s.startDrain()
		case <-control.Undrain:
			_ = s.endDrain() // it is logged, and the status has it
		case r := <-requests:
			s.obey(r)
		case <-sigs.List:
			s.list()
		case <-sigs.Upgrade:
			s.upgrade()
		case err := <-s.upgrades.done:
			if s.upgraded(err) {
				return s.retire(sigs)
			}
		}
	}
}

// reload loads the rules again, and reopens files.
func (s *service) reload() {
	s.notify.Reloading()
	defer s.notify.Ready()
	s.reopen()
	s.policy.Reload()
}

// reopen reopens the files of log and accounting, which a program may have rotated.
func (s *service) reopen() {
	s.log.Reopen()
	s.accounting.Reopen()
}

// list makes the task listSessions log the sessions. While it does, further signals are
// one.
func (s *service) list() {
	select {
	case s.lists <- struct{}{}:
	default:
	}
}

// listSessions logs the sessions whenever list says so. It is a task, because a long list
// takes seconds.
func (s *service) listSessions() {
	for {
		select {
		case <-s.lists:
			s.proxy.LogRunning(s.tasks.ctx)
		case <-s.tasks.ctx.Done():
			return
		}
	}
}

// drain stops gracefully. A second signal after signals.RepeatWindow makes it return at
// once: the kernel then closes all connections, and slots are freed when the lease
// ends.
func (s *service) drain(why string, sigs *signals.Signals) error {
	s.notify.Stopping()
	s.abortUpgrade()
	s.log.Info("draining", "why", why, "grace", s.cfg.DrainGrace.String(), "timeout", s.cfg.DrainTimeout.String(),
		"sessions", s.proxy.Sessions())
	stopped := make(chan error, 1)
	go func() { stopped <- s.stop(context.Background()) }()
	return s.await(stopped, sigs, time.Now())
}

// await returns when the drain has stopped the service, or at a signal to stop that
// does not belong to the one at since. The zero time: there was none yet.
func (s *service) await(stopped <-chan error, sigs *signals.Signals, since time.Time) error {
	for {
		select {
		case err := <-stopped:
			return err
		case sig := <-sigs.Reload:
			s.reopenOnly(sig)
		case sig := <-sigs.Drain:
			s.passOn(sig)
		case sig := <-sigs.Undrain:
			s.passOn(sig)
		case <-sigs.List: // its own sessions, also if another process has taken its place
			s.list()
		case sig := <-sigs.Upgrade:
			s.passOn(sig)
		case sig := <-sigs.Stop:
			if since.IsZero() {
				since = time.Now()
			}
			if time.Since(since) < signals.RepeatWindow {
				s.log.Info("repeated signal ignored", "signal", sig.String())
				continue
			}
			s.log.Warn("second signal, exiting at once", "signal", sig.String(), "sessions", s.proxy.Sessions())
			s.accounting.Flush()
			s.log.Flush()
			return exit.CodeError(1)
		}
	}
}

// reopenOnly reopens files while the service stops: sessions that end until then belong
// into the new ones. Rules are for the process that has taken the place of this one.
func (s *service) reopenOnly(sig os.Signal) {
	s.reopen()
	if s.upgrades.successor == nil {
		s.log.Warn("rules not reloaded while draining, files reopened", "signal", sig.String())
		return
	}
	s.passOn(sig)
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
