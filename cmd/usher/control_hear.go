package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"usher/proxy/admin"
)

// unheardCode is the exit code of a command that has sent its signal and cannot tell
// what became of it.
const unheardCode = 4

// unheardError says why nobody tells what became of a signal that was sent.
type unheardError struct{ why error }

func (e unheardError) Error() string {
	return fmt.Sprintf("the signal was sent, the result is in the log of the process: %v", e.why)
}

func (e unheardError) Unwrap() error { return e.why }

func (c controlTarget) unheardInTime() error {
	return unheardError{fmt.Errorf("no result after %v; --timeout waits longer", c.Timeout)}
}

// hearTimeout bounds the first question to an admin listener without which a command
// can do its work.
const hearTimeout = 5 * time.Second

// hear asks a process for its state before a signal. With --pid the signal needs no
// answer: deaf says then why there is none, and that nobody will tell the result.
func (c controlTarget) hear(ctx context.Context, sys system, ask func(context.Context, system) (admin.Status, error)) (st admin.Status, deaf, err error) {
	if c.PID == 0 {
		st, err = ask(ctx, sys)
		return st, nil, err
	}
	if c.PID > 0 && !running(c.PID) {
		return st, nil, fmt.Errorf("there is no process %d", c.PID)
	}
	bounded, cancel := context.WithTimeout(ctx, hearTimeout)
	defer cancel()
	switch st, err = ask(bounded, sys); {
	case errors.As(err, new(refusalError)):
		return st, nil, err
	case err != nil:
		return admin.Status{}, err, nil
	case st.PID != c.PID && !slices.Contains(innerPIDs(c.PID), st.PID):
		return admin.Status{}, fmt.Errorf("the admin listener belongs to process %d", st.PID), nil
	}
	return st, nil, nil
}

// refusalError is an answer of the process itself: it cannot do what is asked.
type refusalError struct{ error }

func (e refusalError) Unwrap() error { return e.error }

// innerPIDs returns the numbers that a process has in the containers around it.
func innerPIDs(pid int) (all []int) {
	text, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/status")
	if err != nil {
		return nil
	}
	for line := range strings.Lines(string(text)) {
		list, ok := strings.CutPrefix(line, "NSpid:")
		if !ok {
			continue
		}
		for _, field := range strings.Fields(list) {
			if n, err := strconv.Atoi(field); err == nil {
				all = append(all, n)
			}
		}
	}
	return all
}
