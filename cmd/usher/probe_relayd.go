package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"runtime/debug"
	"slices"
	"syscall"

	"usher/cmd/usher/internal/exit"
)

// relaydUp is the exit code with which a relayd check script says that a host is
// up. Its "down" is 0, the exit code of success elsewhere.
const relaydUp = 1

// relaydChild is set in the environment of the process that probes for another one.
const relaydChild = "RELAYD_CHECK_CHILD=1"

// forRelayd runs a probe for relayd and returns the exit code. It is 0, which is down
// for relayd, whatever goes wrong. A crash of Go's runtime ends a process with exit code
// 2, which relayd takes for up. So the probe runs in a process of its own, and only its
// exit code 1 is up.
func forRelayd(probe func() error) (code int) {
	signal.Ignore(syscall.SIGPIPE) // relayd may not read what is printed
	if slices.Contains(os.Environ(), relaydChild) {
		return probeForRelayd(probe)
	}
	debug.SetTraceback("crash") // a crash of this process is a signal and no exit code
	program, err := os.Executable()
	if err != nil {
		complain(os.Stderr, err)
		return 0
	}
	cmd := exec.Command(program)
	cmd.Args, cmd.Env = os.Args, append(os.Environ(), relaydChild)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	switch err := cmd.Run(); {
	case cmd.ProcessState == nil:
		complain(os.Stderr, err)
	case cmd.ProcessState.ExitCode() == relaydUp:
		return relaydUp
	}
	return 0
}

// probeForRelayd is forRelayd in the process that probes.
func probeForRelayd(probe func() error) int {
	defer func() {
		if trouble := recover(); trouble != nil {
			complain(os.Stderr, fmt.Errorf("probe failed: %v", trouble))
			os.Exit(0)
		}
	}()
	err := probe()
	var code exit.CodeError
	switch {
	case errors.As(err, &code) && code == relaydUp:
		return relaydUp
	case err != nil && !errors.As(err, &code):
		complain(os.Stderr, err)
	}
	return 0
}
