package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"usher/cmd/usher/internal/exit"
	"usher/proxy/admin"
	"usher/proxy/printable"
)

// controlTarget says which running usher a command is for.
type controlTarget struct {
	Admin   string        `help:"Address of the admin listener. Default: USHER_ADMIN_LISTEN." placeholder:"HOST:PORT"`
	PID     int           `name:"pid" help:"Process to signal. Default: the one that the admin listener names." placeholder:"PID"`
	Timeout time.Duration `help:"How long to wait for the result." default:"1m"`
}

type reloadCmd struct{ controlTarget }

// Help is shown under usher reload --help.
func (reloadCmd) Help() string {
	return `Sends SIGHUP, waits for the result and reads it from the admin listener. It needs no shell, so it works with docker exec. With --pid it sends the signal even if the admin listener cannot tell the result.

Exit codes: 0 the new rules are in force; 1 a file has mistakes, which are printed, or nothing was sent; 2 wrong arguments; 4 the signal was sent, the result is in the log.`
}

// Run reloads a running usher and prints the outcome.
func (c reloadCmd) Run(ctx context.Context, sys system) error {
	ctx, cancel := context.WithTimeout(ctx, c.Timeout)
	defer cancel()
	before, deaf, err := c.hear(ctx, sys, c.status)
	if err != nil {
		return err
	}
	if before.Reason == admin.Draining {
		return errors.New("usher is draining and does not reload")
	}
	if err := c.signal(before, syscall.SIGHUP); err != nil {
		return err
	}
	if deaf != nil {
		return unheardError{deaf}
	}
	for {
		now, err := c.status(ctx, sys)
		switch {
		case err != nil:
			return unheardError{err}
		case now.Rules.Loads == before.Rules.Loads:
		case !now.Rules.ReloadOK:
			return fmt.Errorf("reload failed, keeping the old rules:\n%s", now.Rules.ReloadErr)
		default:
			_, err := fmt.Fprintf(sys.stdout, "reloaded: %s, generation %s\n", printable.Text(now.Rules.File), printable.Text(now.Rules.Generation))
			return err
		}
		if !pause(ctx) {
			return c.unheardInTime()
		}
	}
}

type stopCmd struct{ controlTarget }

// Help is shown under usher stop --help.
func (stopCmd) Help() string {
	return `Sends SIGTERM, which starts a drain, and waits until the process has ended. In a container whose main process is usher, that ends the container and this command with it.

Exit codes: 0 the process has ended; 1 it has not; 2 wrong arguments.`
}

// Run stops a running usher.
func (c stopCmd) Run(ctx context.Context, sys system) error {
	ctx, cancel := context.WithTimeout(ctx, c.Timeout)
	defer cancel()
	now := admin.Status{}
	if c.PID == 0 {
		var err error
		if now, err = c.status(ctx, sys); err != nil {
			return err
		}
	}
	if err := c.signal(now, syscall.SIGTERM); err != nil {
		return err
	}
	fmt.Fprintln(sys.stdout, "draining")
	for pid := c.pid(now); running(pid); {
		if !pause(ctx) {
			return fmt.Errorf("process %d still runs after %v; its sessions may last as long as USHER_DRAIN_TIMEOUT", pid, c.Timeout)
		}
	}
	_, err := fmt.Fprintln(sys.stdout, "stopped")
	return err
}

func (c controlTarget) pid(st admin.Status) int {
	if c.PID != 0 {
		return c.PID
	}
	return st.PID
}

// status asks the admin listener.
func (c controlTarget) status(ctx context.Context, sys system) (st admin.Status, err error) {
	code, body, err := adminGet(ctx, sys, c.Admin, "/status", c.Timeout)
	if err != nil {
		return st, err
	}
	if err := json.Unmarshal(body, &st); err != nil || code != http.StatusOK {
		return st, errNotStatus(code)
	}
	return st, nil
}

func errNotStatus(code int) error {
	return fmt.Errorf("the admin listener answered with HTTP status %d and a body that is not usher's status; check its address", code)
}

// signal signals the process. An admin listener may be that of another machine or
// container, where the number belongs to another process: the one to signal must
// run the same program as this command, unless --pid names it.
func (c controlTarget) signal(st admin.Status, sig syscall.Signal) error {
	pid := c.pid(st)
	if c.PID < 0 { // for kill, this is a group of processes, or all of them
		return exit.Usage(fmt.Errorf("--pid %d: not the number of a process", c.PID))
	}
	if c.PID == 0 && (pid <= 0 || !sameProgram(pid)) {
		return fmt.Errorf("process %d, which the admin listener names, is not this usher here; run the command where it runs, or name its process with --pid", pid)
	}
	if err := syscall.Kill(pid, sig); err != nil {
		return fmt.Errorf("cannot signal process %d: %w; run the command as the same user", pid, err)
	}
	return nil
}

func executable(pid string) string { return "/proc/" + pid + "/exe" }

// sameProgram reports whether a process runs the program of this one, or what was at
// its place before the file was replaced.
func sameProgram(pid int) bool {
	ours, err := os.Stat(executable("self"))
	theirs, err2 := os.Stat(executable(strconv.Itoa(pid)))
	if err == nil && err2 == nil && os.SameFile(ours, theirs) {
		return true
	}
	here, err := os.Readlink(executable("self"))
	there, err2 := os.Readlink(executable(strconv.Itoa(pid)))
	return err == nil && err2 == nil && strings.TrimSuffix(there, " (deleted)") == strings.TrimSuffix(here, " (deleted)")
}

// running reports whether a process exists and is no zombie: those have no
// program.
func running(pid int) bool {
	_, err := os.Readlink(executable(strconv.Itoa(pid)))
	return err == nil || errors.Is(err, os.ErrPermission)
}

// pause waits a moment; it reports false if ctx ends.
func pause(ctx context.Context) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(20 * time.Millisecond):
		return true
	}
}
