package control

import (
	"context"
	"errors"
	"fmt"
	"syscall"

	"usher/cmd/usher/internal/signals"
	"usher/proxy/admin"
	"usher/proxy/admin/api"
)

// Each request signals the process and waits until its admin listener tells the result.
// With PID it also signals a process whose admin listener does not answer, and returns an
// UnheardError.

// Reload loads the rules again. It returns the status with the new rules.
func (t Target) Reload(ctx context.Context) (now admin.Status, err error) {
	ctx, cancel := context.WithTimeout(ctx, t.Timeout)
	defer cancel()
	before, deaf, err := t.hear(ctx, t.status)
	if err != nil {
		return now, err
	}
	if before.Reason == admin.Draining {
		return now, errors.New("usher is draining and does not reload")
	}
	if err := t.send(before, deaf, syscall.SIGHUP); err != nil {
		return now, err
	}
	for {
		now, err = t.status(ctx)
		switch {
		case err != nil:
			return now, UnheardError{err}
		case now.Rules.Loads == before.Rules.Loads:
		case !now.Rules.ReloadOK:
			return now, fmt.Errorf("reload failed, keeping the old rules:\n%s", now.Rules.ReloadErr)
		default:
			return now, nil
		}
		if !pause(ctx) {
			return now, t.unheardInTime()
		}
	}
}

// Upgrade replaces the process by one of the program that is installed now. It returns
// the status of the old process before, and of the new one.
func (t Target) Upgrade(ctx context.Context) (before, now admin.Status, err error) {
	ctx, cancel := context.WithTimeout(ctx, t.Timeout)
	defer cancel()
	before, deaf, err := t.hear(ctx, t.newer)
	if err != nil {
		return before, now, err
	}
	if err := t.send(before, deaf, syscall.SIGUSR2); err != nil {
		return before, now, err
	}
	for {
		// A request that the old process had still to answer may fail.
		now, err = t.status(ctx)
		switch {
		case err != nil:
		case now.PID != before.PID:
			return before, now, nil
		case now.Upgrade.Asked > before.Upgrade.Asked && !now.Upgrade.Running:
			return before, now, fmt.Errorf("not upgraded, process %d goes on: %s", now.PID, now.Upgrade.Error)
		}
		if !pause(ctx) {
			return before, now, errors.Join(t.unheardInTime(), err)
		}
	}
}

// Drain makes the process take no new sessions. With wait it returns when no session is
// left. It returns the last status.
func (t Target) Drain(ctx context.Context, wait bool) (admin.Status, error) {
	ctx, cancel := context.WithTimeout(ctx, t.Timeout)
	defer cancel()
	now, deaf, err := t.hear(ctx, t.newer)
	if err != nil {
		return now, err
	}
	err = t.order(ctx, now, deaf, signals.Drain, func(c *api.Client, ctx context.Context) error {
		_, err := c.Drain(ctx, "")
		return err
	})
	if err != nil {
		return now, err
	}
	for now.Reason != admin.Drained || wait && (now.Sessions > 0 || len(now.Listen) > 0) {
		if !pause(ctx) {
			return now, fmt.Errorf("not done after %v: %d sessions, %s", t.Timeout, now.Sessions, now.Reason)
		}
		if now, err = t.status(ctx); err != nil {
			return now, UnheardError{err}
		}
	}
	return now, nil
}

// Undrain makes the process take new sessions again. It returns the last status: the
// process may be unready for another reason.
func (t Target) Undrain(ctx context.Context) (now admin.Status, err error) {
	ctx, cancel := context.WithTimeout(ctx, t.Timeout)
	defer cancel()
	before, deaf, err := t.hear(ctx, t.newer)
	if err != nil {
		return before, err
	}
	err = t.order(ctx, before, deaf, signals.Undrain, func(c *api.Client, ctx context.Context) error {
		_, err := c.Undrain(ctx, "")
		return err
	})
	if err != nil {
		return before, err
	}
	for now = before; now.Reason == admin.Drained; {
		if now.Undrain.Asked > before.Undrain.Asked && now.Undrain.Error != "" {
			return now, fmt.Errorf("still drained: %s", now.Undrain.Error)
		}
		if !pause(ctx) {
			return now, fmt.Errorf("still drained after %v", t.Timeout)
		}
		if now, err = t.status(ctx); err != nil {
			return now, UnheardError{err}
		}
	}
	return now, nil
}

// Stop drains the process, calls draining, and returns when the process has ended.
func (t Target) Stop(ctx context.Context, draining func()) error {
	ctx, cancel := context.WithTimeout(ctx, t.Timeout)
	defer cancel()
	now := admin.Status{}
	if t.PID == 0 {
		var err error
		if now, err = t.status(ctx); err != nil {
			return err
		}
	}
	if err := t.signal(now, syscall.SIGTERM); err != nil {
		return err
	}
	draining()
	for pid := t.pid(now); Running(pid); {
		if !pause(ctx) {
			return fmt.Errorf("process %d still runs after %v; its sessions may last as long as USHER_DRAIN_TIMEOUT", pid, t.Timeout)
		}
	}
	return nil
}
