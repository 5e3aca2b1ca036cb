package serve

import (
	"context"
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"

	"usher/cmd/usher/internal/handover"
	"usher/cmd/usher/internal/monitor"
	"usher/cmd/usher/internal/settings"
	"usher/cmd/usher/internal/signals"
	"usher/cmd/usher/internal/systemd"
	"usher/proxy/printable"
)

// readyPoll is how often a process that starts asks itself whether it is ready.
const readyPoll = 20 * time.Millisecond

// upgrades is the state of the upgrade in place, which the main loop owns.
type upgrades struct {
	child     *handover.Child // that gets ready; nil: no upgrade is running
	cancel    context.CancelCauseFunc
	done      chan error      // the outcome of child.Ready
	successor *handover.Child // that has taken the place of this process
	last      monitor.Request
}

func (u *upgrades) running() bool { return u.child != nil }

// takeOver waits until this process is ready, and tells the process before it to stop
// accepting. Until then this one serves nobody. parent may be nil.
func (s *service) takeOver(ctx context.Context, parent *handover.Parent, sigs *signals.Signals) error {
	if parent == nil {
		return nil
	}
	tick := time.NewTicker(readyPoll)
	defer tick.Stop()
	for {
		why := s.monitor.Unready()
		if why == "" {
			s.log.Info("ready, taking over from the process before", "process_before", os.Getppid())
			return parent.Ready()
		}
		parent.Say(why)
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		case sig := <-sigs.Stop:
			return fmt.Errorf("%v while starting: %s", sig, why)
		}
	}
}

// upgrade starts a new process, which takes over when it is ready.
func (s *service) upgrade() {
	if s.upgrades.running() {
		s.log.Warn("upgrade ignored, one is running", "new_process", s.upgrades.child.PID)
		return
	}
	s.upgrades.last.Begin()
	if err := s.mayUpgrade(); err != nil {
		s.upgrades.last.End(err)
		s.log.Error("upgrade refused", "error", err.Error())
		return
	}
	child, err := s.sockets.Start()
	if err != nil {
		s.upgrades.last.End(err)
		s.log.Error("upgrade failed, this process goes on", "error", err.Error())
		return
	}
	s.notify.Reloading()
	bound := s.cfg.UpgradeBound()
	s.log.Info("upgrading", "new_process", child.PID, "timeout", bound.String())
	ctx, cancel := context.WithCancelCause(context.Background())
	ctx, stopTimer := context.WithTimeoutCause(ctx, bound, fmt.Errorf("%v have passed", bound))
	done := make(chan error, 1)
	s.upgrades.child, s.upgrades.cancel, s.upgrades.done = child, cancel, done
	go func() {
		defer stopTimer()
		done <- child.Ready(ctx)
	}()
}

// mayUpgrade returns why this process cannot be replaced.
func (s *service) mayUpgrade() error {
	switch {
	case s.cfg.Store == settings.Memory:
		return errors.New("USHER_STORE=memory counts in one process, and the limits would not hold over the old and the new one; restart instead, or use a Redis")
	case os.Getpid() == 1:
		return errors.New("this is the first process of a container, which ends with it; start a new container instead")
	case s.drained.on:
		return errors.New("the process is drained; run usher undrain first")
	}
	return nil
}

// upgraded ends an upgrade. It reports whether a new process serves.
func (s *service) upgraded(err error) bool {
	child := s.upgrades.child
	s.upgrades.cancel(nil)
	s.upgrades.child, s.upgrades.done = nil, nil
	if err != nil { // else it is not over as long as this process answers
		s.upgrades.last.End(err)
		s.notify.Ready()
		s.log.Error("upgrade failed, this process goes on", "error", err.Error())
		return false
	}
	s.upgrades.successor = child
	return true
}

// abortUpgrade ends an upgrade because this process is to stop. A new process that
// serves already is to stop as well.
func (s *service) abortUpgrade() {
	if !s.upgrades.running() {
		return
	}
	s.upgrades.cancel(errors.New("the process before stops"))
	if s.upgraded(<-s.upgrades.done) {
		s.upgrades.successor.Signal(syscall.SIGTERM)
	}
}

// retire ends this process after another one has taken its place: it accepts nobody,
// lets its sessions end as at SIGTERM, and stops. Health checks are answered by the
// other process, so this one must not say that it drains.
func (s *service) retire(sigs *signals.Signals) error {
	s.notify.HandedOver(s.upgrades.successor.PID)
	s.log.Info("handed over to the new process", "new_process", s.upgrades.successor.PID, "sessions", s.proxy.Sessions(),
		"timeout", s.cfg.DrainTimeout.String())
	stopped := make(chan error, 1)
	go func() { stopped <- s.leave() }()
	return s.await(stopped, sigs, time.Time{})
}

// notifyReady tells systemd once that the process is ready, and before that why not.
func (s *service) notifyReady() {
	why := func() string { return printable.Text(s.monitor.Unready()) }
	if systemd.Listens() && s.notify.Starting(why, s.tasks.ctx.Done()) {
		s.notify.Started()
	}
}
