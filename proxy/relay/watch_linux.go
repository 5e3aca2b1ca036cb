package relay

import (
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// stuckAfter is how long a write may be blocked before its source is watched.
const stuckAfter = time.Second

// sourceWatch ends a relay when the client's connection breaks while a write to the
// target is blocked. Nobody reads from the client at that time, and the slot must not
// outlive the connection. Targets are not watched: a slow client still gets everything
// that a target sent before it broke off. A sourceWatch belongs to the flow's
// goroutine; end of a nil sourceWatch does nothing.
type sourceWatch struct {
	flow  *flow
	timer *time.Timer // nil: it is off
	done  chan struct{}
}

// begin watches until end, while a write is blocked. It clears the read deadline.
func (w *sourceWatch) begin() {
	if w.timer != nil {
		return
	}
	w.flow.from.SetReadDeadline(time.Time{}) //nolint:errcheck // it fails on a closed connection only
	done := make(chan struct{})
	w.done = done
	w.timer = time.AfterFunc(stuckAfter, func() {
		defer close(done)
		// If both directions have ended with bytes left to write, nothing is broken.
		never := func() bool { return false }
		if waitBroken(w.flow.reader.raw, never, func() bool { return !w.flow.back().ended.Load() }, func() {}) == nil {
			w.flow.relay.fail(w.flow.readBroke(syscall.ECONNRESET))
		}
	})
}

func (w *sourceWatch) end() {
	if w == nil || w.timer == nil {
		return
	}
	if !w.timer.Stop() {
		w.flow.from.SetReadDeadline(time.Unix(1, 0)) //nolint:errcheck // it fails on a closed connection only
		<-w.done
		w.flow.from.SetReadDeadline(time.Time{}) //nolint:errcheck // as above
	}
	w.timer = nil
}

// waitBroken waits until a connection breaks: it was reset, or its peer vanished.
// The end of both directions counts as well if ends returns true. Before it looks at
// the connection, it asks whether the wait is over, which saves a system call. Before
// it waits, it calls intact. An error means that the wait itself was ended. Nobody may
// read meanwhile.
func waitBroken(c syscall.RawConn, over, ends func() bool, intact func()) error {
	return c.Read(func(fd uintptr) bool {
		if over() {
			return true
		}
		state := pollState(fd)
		if state&unix.POLLERR != 0 || state&unix.POLLHUP != 0 && ends() {
			return true
		}
		intact()
		return false
	})
}

// pollState returns the poll events that are always reported: POLLERR and POLLHUP.
func pollState(fd uintptr) int16 {
	state := []unix.PollFd{{Fd: int32(fd)}}
	_, _ = unix.Poll(state, 0) // without a time to wait it does not fail
	return state[0].Revents
}
