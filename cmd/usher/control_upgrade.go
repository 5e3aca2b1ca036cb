package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"syscall"

	"usher/proxy/admin"
	"usher/proxy/printable"
)

type upgradeCmd struct{ controlTarget }

// Help is shown under usher upgrade --help.
func (upgradeCmd) Help() string {
	return `Install the new program first, under the path of the old one. Sends SIGUSR2, which starts a new process with the same arguments and environment. When it is ready, it takes over the listeners, and the old process lets its sessions end as after SIGTERM. If it is not ready in time (USHER_UPGRADE_TIMEOUT), it is ended and the old one goes on.

Exit codes: 0 the new process serves, 1 it does not (the reason is printed), 2 wrong arguments, 4 the signal was sent, the result is in the log.`
}

// Run upgrades a running usher and prints the outcome.
func (c upgradeCmd) Run(ctx context.Context, sys system) error {
	ctx, cancel := context.WithTimeout(ctx, c.Timeout)
	defer cancel()
	before, deaf, err := c.hear(ctx, sys, c.running)
	if err != nil {
		return err
	}
	if err := c.signal(before, syscall.SIGUSR2); err != nil {
		return err
	}
	if deaf != nil {
		return unheardError{deaf}
	}
	for {
		// A request that the old process had still to answer may fail.
		now, err := c.status(ctx, sys)
		switch {
		case err != nil:
		case now.PID != before.PID:
			_, err := fmt.Fprintf(sys.stdout, "upgraded: process %d has version %s; process %d lets its %d sessions end\n",
				now.PID, printable.Text(now.Version), before.PID, before.Sessions)
			return err
		case now.Upgrade.Asked > before.Upgrade.Asked && !now.Upgrade.Running:
			return fmt.Errorf("not upgraded, process %d goes on: %s", now.PID, now.Upgrade.Error)
		}
		if !pause(ctx) {
			return errors.Join(c.unheardInTime(), err)
		}
	}
}

// running returns the status of a process that knows the signals of this version. An
// older one ignores them.
func (c controlTarget) running(ctx context.Context, sys system) (st admin.Status, err error) {
	code, body, err := adminGet(ctx, sys, c.Admin, "/status", c.Timeout)
	if err != nil {
		return st, err
	}
	var knows struct {
		Upgrade *admin.Request `json:"upgrade"`
	}
	if err := errors.Join(json.Unmarshal(body, &st), json.Unmarshal(body, &knows)); err != nil || code != http.StatusOK {
		return st, errNotStatus(code)
	}
	if knows.Upgrade == nil {
		return st, refusalError{fmt.Errorf("the running usher has version %s, which does not know this command; restart it", printable.Text(st.Version))}
	}
	if st.Reason == admin.Draining {
		return st, refusalError{errors.New("usher is draining and will stop")}
	}
	return st, nil
}
