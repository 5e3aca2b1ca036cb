package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"usher/cmd/usher/internal/control"
	"usher/cmd/usher/internal/exit"
	"usher/cmd/usher/internal/inspect"
	"usher/cmd/usher/internal/screen"
	"usher/cmd/usher/internal/settings"
	"usher/proxy/printable"
)

// The verbs that speak to a running usher.

// controlFlags say which running usher a command is for.
type controlFlags struct {
	Admin   string        `help:"Address of the admin listener. Default: USHER_ADMIN_LISTEN." placeholder:"HOST:PORT"`
	PID     int           `name:"pid" help:"Process to signal. Default: the one that the admin listener names." placeholder:"PID"`
	Timeout time.Duration `help:"How long to wait for the result." default:"1m"`
}

// target returns the usher with this admin listener; "" means USHER_ADMIN_LISTEN.
func (s system) target(where string, pid int, timeout time.Duration) control.Target {
	t := control.Target{Admin: where, PID: pid, Timeout: timeout, Token: func() (string, error) { return settings.AdminToken(s.environ) }}
	if where != "" {
		if _, _, err := net.SplitHostPort(where); err != nil {
			t.NoAdmin = exit.Usage(fmt.Errorf("--admin %q is not HOST:PORT: %w", where, err))
		}
		return t
	}
	cfg, err := s.config()
	if err == nil && cfg.AdminListen == "" {
		err = exit.Usage(errors.New("USHER_ADMIN_LISTEN is off; give an address with --admin"))
	}
	t.Admin, t.NoAdmin = string(cfg.AdminListen), err
	return t
}

// caller is for the verbs that ask a cluster.
func (s system) caller() inspect.Caller {
	return inspect.Caller{
		Screen: screen.New(s.stdout, s.environ), Stderr: s.stderr,
		Target: func(where string, timeout time.Duration) control.Target { return s.target(where, 0, timeout) },
	}
}

func (c controlFlags) target(sys system) control.Target {
	return sys.target(c.Admin, c.PID, c.Timeout)
}

type reloadCmd struct{ controlFlags }

// Help is shown under usher reload --help.
func (reloadCmd) Help() string {
	return `Sends SIGHUP, waits for the result and reads it from the admin listener. It needs no shell, so it works with docker exec. With --pid it sends the signal even if the admin listener cannot tell the result.

Exit codes: 0 the new rules are in force; 1 a file has mistakes, which are printed, or nothing was sent; 2 wrong arguments; 4 the signal was sent, the result is in the log.`
}

// Run reloads a running usher and prints the outcome.
func (c reloadCmd) Run(ctx context.Context, sys system) error {
	now, err := c.target(sys).Reload(ctx)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(sys.stdout, "reloaded: %s, generation %s\n", printable.Text(now.Rules.File), printable.Text(now.Rules.Generation))
	return err
}

type upgradeCmd struct{ controlFlags }

// Help is shown under usher upgrade --help.
func (upgradeCmd) Help() string {
	return `Install the new program first, under the path of the old one. Sends SIGUSR2, which starts a new process with the same arguments and environment. When it is ready, it takes over the listeners, and the old process lets its sessions end as after SIGTERM. If it is not ready in time (USHER_UPGRADE_TIMEOUT), it is ended and the old one goes on.

Exit codes: 0 the new process serves, 1 it does not (the reason is printed), 2 wrong arguments, 4 the signal was sent, the result is in the log.`
}

// Run upgrades a running usher and prints the outcome.
func (c upgradeCmd) Run(ctx context.Context, sys system) error {
	before, now, err := c.target(sys).Upgrade(ctx)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(sys.stdout, "upgraded: process %d has version %s; process %d lets its %d sessions end\n",
		now.PID, printable.Text(now.Version), before.PID, before.Sessions)
	return err
}

type drainCmd struct {
	controlFlags
	Wait bool `help:"Wait until no session is left, for --timeout at most."`
	JSON bool `name:"json" help:"Print JSON."`
}

// drainState is what usher drain and usher undrain print with --json.
type drainState struct {
	Drained  bool   `json:"drained"`
	Sessions int    `json:"sessions"` // on this replica
	Ready    bool   `json:"ready"`
	Reason   string `json:"reason,omitempty"` // why it is not ready
}

// Help is shown under usher drain --help.
func (drainCmd) Help() string {
	return `The process is not ready from now on, and closes its SOCKS listeners after USHER_DRAIN_GRACE. Its sessions continue, and it runs on. usher undrain takes it back.

Exit codes: 0 it is drained (with --wait: and has no sessions), 1 it is not, 2 wrong arguments, 4 the signal was sent, the result is in the log.`
}

// Run drains a running usher.
func (c drainCmd) Run(ctx context.Context, sys system) error {
	now, err := c.target(sys).Drain(ctx, c.Wait)
	if err != nil {
		return err
	}
	if c.JSON {
		return printable.WriteJSON(sys.stdout, drainState{Drained: true, Sessions: now.Sessions, Ready: now.Ready, Reason: now.Reason})
	}
	_, err = fmt.Fprintf(sys.stdout, "drained: %d sessions\n", now.Sessions)
	return err
}

type undrainCmd struct {
	controlFlags
	JSON bool `name:"json" help:"Print JSON."`
}

// Help is shown under usher undrain --help.
func (undrainCmd) Help() string {
	return `If it is not ready for another reason, that is printed.

Exit codes: 0 it is not drained, 1 it is (the reason is printed), 2 wrong arguments, 4 the signal was sent, the result is in the log.`
}

// Run takes a drained usher back.
func (c undrainCmd) Run(ctx context.Context, sys system) error {
	now, err := c.target(sys).Undrain(ctx)
	if err != nil {
		return err
	}
	if c.JSON {
		return printable.WriteJSON(sys.stdout, drainState{Sessions: now.Sessions, Ready: now.Ready, Reason: now.Reason})
	}
	outcome := "undrained"
	if !now.Ready {
		outcome += "; not ready: " + printable.Text(now.Reason)
	}
	_, err = fmt.Fprintln(sys.stdout, outcome)
	return err
}

type stopCmd struct{ controlFlags }

// Help is shown under usher stop --help.
func (stopCmd) Help() string {
	return `Sends SIGTERM, which starts a drain, and waits until the process has ended. In a container whose main process is usher, that ends the container and this command with it.

Exit codes: 0 the process has ended; 1 it has not; 2 wrong arguments.`
}

// Run stops a running usher.
func (c stopCmd) Run(ctx context.Context, sys system) error {
	if err := c.target(sys).Stop(ctx, func() { fmt.Fprintln(sys.stdout, "draining") }); err != nil {
		return err
	}
	_, err := fmt.Fprintln(sys.stdout, "stopped")
	return err
}
