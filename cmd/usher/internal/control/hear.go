package control

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"usher/proxy/admin"
)

// UnheardError says why the result of a signal is not known.
type UnheardError struct{ why error }

func (e UnheardError) Error() string {
	return fmt.Sprintf("the signal was sent, the result is in the log of the process: %v", e.why)
}

// Unwrap returns the reason.
func (e UnheardError) Unwrap() error { return e.why }

func (t Target) unheardInTime() error {
	return UnheardError{fmt.Errorf("no result after %v; --timeout waits longer", t.Timeout)}
}

// hearTimeout bounds the first request to an admin listener, if the command can work
// without an answer.
const hearTimeout = 5 * time.Second

// hear asks a process for its state before a signal. With --pid, the signal can be sent
// without an answer. deaf then says why there is none. The result of the signal will
// not be known.
func (t Target) hear(ctx context.Context, ask func(context.Context) (admin.Status, error)) (st admin.Status, deaf, err error) {
	if t.PID == 0 {
		st, err = ask(ctx)
		return st, nil, err
	}
	if t.PID > 0 && errors.Is(syscall.Kill(t.PID, 0), syscall.ESRCH) {
		return st, nil, fmt.Errorf("there is no process %d", t.PID)
	}
	bounded, cancel := context.WithTimeout(ctx, hearTimeout)
	defer cancel()
	switch st, err = ask(bounded); {
	case errors.As(err, new(refusalError)):
		return st, nil, err
	case err != nil:
		return admin.Status{}, err, nil
	case st.PID != t.PID && !slices.Contains(innerPIDs(t.PID), st.PID):
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
