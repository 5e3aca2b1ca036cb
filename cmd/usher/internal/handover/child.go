package handover

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"syscall"
)

// variable lists the sockets of a new process in JSON. Their descriptors begin with
// firstSocket. Any later release may replace this one, so the fields of the list and of
// report must keep their meaning.
const variable = "_USHER_HANDOVER"

// Descriptors of a new process, behind the standard ones.
const (
	reportPipe  = 3
	firstSocket = 4
)

// report is what a new process tells the process before it, in JSON.
type report struct {
	Ready   bool   `json:"ready,omitempty"`   // it is ready, and this is its last report
	Message string `json:"message,omitempty"` // why it is not ready yet, or why it ends
}

// maxReports is how many bytes of reports are read from a new process.
const maxReports = 1 << 20

// Child is a new process of the same program. It is to replace this process.
type Child struct {
	PID     int
	process *os.Process
	reports *os.File
}

// Start starts the program of this process again, with the same arguments and
// environment, and hands over the listeners that are in use. It looks up the program by
// its name, so it finds a file that was replaced. The caller must call Ready.
func (s *Sockets) Start() (*Child, error) {
	program, err := exec.LookPath(os.Args[0])
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	list, err := json.Marshal(s.open)
	if err != nil {
		return nil, err
	}
	fds := []uintptr{0, 1, 2, 0} // the report pipe is to come
	defer func() {
		for _, fd := range fds[firstSocket:] {
			_ = syscall.Close(int(fd))
		}
	}()
	for _, sock := range s.open {
		fd, err := sock.duplicate()
		if err != nil {
			return nil, fmt.Errorf("listener %s: %w", sock.Address, err)
		}
		fds = append(fds, uintptr(fd))
	}
	reports, pipe, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer pipe.Close()
	fds[reportPipe] = pipe.Fd()
	// os/exec would make the sockets block, see duplicate.
	pid, _, err := syscall.StartProcess(program, os.Args, &syscall.ProcAttr{
		Env: append(os.Environ(), variable+"="+string(list)), Files: fds,
	})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("cannot start %s: %w", program, err), reports.Close())
	}
	process, err := os.FindProcess(pid)
	if err != nil {
		return nil, errors.Join(err, reports.Close(), syscall.Kill(pid, syscall.SIGKILL))
	}
	return &Child{PID: pid, process: process, reports: reports}, nil
}

// Ready waits until the process serves. If the process or ctx ends before, Ready ends
// the process and returns the reason, with the last message of the process. It must be
// called once.
func (c *Child) Ready(ctx context.Context) error {
	defer c.reports.Close()
	said := make(chan report, 1)
	go c.listen(said)
	var last report
	select {
	case last = <-said:
		if last.Ready {
			return nil
		}
	case <-ctx.Done():
	}
	_ = c.process.Kill() // it may have ended, or be about to
	state, err := c.process.Wait()
	if ctx.Err() != nil {
		last = <-said
		err = fmt.Errorf("the new process %d was not ready: %w", c.PID, context.Cause(ctx))
	} else if err == nil {
		err = fmt.Errorf("the new process %d ended: %v", c.PID, state)
	}
	if last.Message != "" {
		err = fmt.Errorf("%w; it said: %s", err, last.Message)
	}
	return err
}

// listen sends the last report of the process. The report says that the process is
// ready, or has its last message before it ended.
func (c *Child) listen(said chan<- report) {
	var last report
	lines := json.NewDecoder(io.LimitReader(c.reports, maxReports))
	for !last.Ready {
		var now report
		if lines.Decode(&now) != nil {
			break
		}
		last = now
	}
	said <- last
}

// Signal passes a signal on to a process that is ready. It does nothing if the process
// has ended.
func (c *Child) Signal(sig os.Signal) {
	_ = c.process.Signal(sig)
}
