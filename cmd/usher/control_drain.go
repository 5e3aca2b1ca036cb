package main

import (
	"context"
	"fmt"

	"usher/cmd/usher/internal/signals"
	"usher/proxy/admin"
)

type drainCmd struct {
	controlTarget
	Wait bool `help:"Wait until no session is left, for --timeout at most."`
}

// Help is shown under usher drain --help.
func (drainCmd) Help() string {
	return `The process is not ready from now on, and closes its SOCKS listeners after USHER_DRAIN_GRACE. Its sessions continue, and it runs on. usher undrain takes it back.

Exit codes: 0 it is drained (with --wait: and has no sessions), 1 it is not, 2 wrong arguments, 4 the signal was sent, the result is in the log.`
}

// Run drains a running usher.
func (c drainCmd) Run(ctx context.Context, sys system) error {
	ctx, cancel := context.WithTimeout(ctx, c.Timeout)
	defer cancel()
	now, deaf, err := c.hear(ctx, sys, c.running)
	if err != nil {
		return err
	}
	if err := c.signal(now, signals.Drain); err != nil {
		return err
	}
	if deaf != nil {
		return unheardError{deaf}
	}
	for now.Reason != admin.Drained || c.Wait && (now.Sessions > 0 || len(now.Listen) > 0) {
		if !pause(ctx) {
			return fmt.Errorf("not done after %v: %d sessions, %s", c.Timeout, now.Sessions, now.Reason)
		}
		if now, err = c.status(ctx, sys); err != nil {
			return unheardError{err}
		}
	}
	_, err = fmt.Fprintf(sys.stdout, "drained: %d sessions\n", now.Sessions)
	return err
}

type undrainCmd struct{ controlTarget }

// Help is shown under usher undrain --help.
func (undrainCmd) Help() string {
	return `Exit codes: 0 it takes new sessions, 1 it does not (the reason is printed), 2 wrong arguments, 4 the signal was sent, the result is in the log.`
}

// Run takes a drained usher back.
func (c undrainCmd) Run(ctx context.Context, sys system) error {
	ctx, cancel := context.WithTimeout(ctx, c.Timeout)
	defer cancel()
	before, deaf, err := c.hear(ctx, sys, c.running)
	if err != nil {
		return err
	}
	if err := c.signal(before, signals.Undrain); err != nil {
		return err
	}
	if deaf != nil {
		return unheardError{deaf}
	}
	for now := before; now.Reason == admin.Drained; {
		if now.Undrain.Asked > before.Undrain.Asked && now.Undrain.Error != "" {
			return fmt.Errorf("still drained: %s", now.Undrain.Error)
		}
		if !pause(ctx) {
			return fmt.Errorf("still drained after %v", c.Timeout)
		}
		if now, err = c.status(ctx, sys); err != nil {
			return unheardError{err}
		}
	}
	_, err = fmt.Fprintln(sys.stdout, "undrained")
	return err
}
