package relay

import (
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// stuckAfter is how long a write may be blocked before somebody watches where
// its bytes come from.
const stuckAfter = time.Second

// sourceWatch ends a relay when its client breaks its connection while what
// came from it is blocked in a write to the target: nobody reads there meanwhile,
// and the client's slot must not outlive it. A target that has gone is met when
// all that it sent has been written, which a slow client is still to get. It
// belongs to the flow's goroutine; a nil one watches nothing.
type sourceWatch struct {
	flow  *flow
	raw   syscall.RawConn // of flow.from
	timer *time.Timer     // nil: it is off
	done  chan struct{}
}

// begin watches until end, for a write that is blocked. The read deadline is gone
// then.
func (w *sourceWatch) begin() {
	if w == nil || w.timer != nil {
		return
	}
	w.flow.from.SetReadDeadline(time.Time{}) //nolint:errcheck // it fails on a closed connection only
	done := make(chan struct{})
	w.done = done
	w.timer = time.AfterFunc(stuckAfter, func() {
		defer close(done)
		// Both directions may have ended, with bytes left to be written: that
		// breaks nothing.
		if waitBroken(w.raw, func() bool { return !w.flow.back().ended.Load() }) == nil {
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

// waitBroken waits until a connection breaks: it was reset, or its peer
// vanished. That both its directions have ended counts if ends says so. The error
// is that of a wait that was ended otherwise. Nobody may read meanwhile.
func waitBroken(c syscall.RawConn, ends func() bool) error {
	return c.Read(func(fd uintptr) bool {
		state := pollState(fd)
		return state&unix.POLLERR != 0 || state&unix.POLLHUP != 0 && ends()
	})
}

// isBroken reports whether nothing comes or goes on a connection any more: it
// was reset, or both directions have ended. The error says that we have closed
// it.
func isBroken(c syscall.RawConn) (broken bool, err error) {
	err = c.Control(func(fd uintptr) { broken = pollState(fd)&(unix.POLLHUP|unix.POLLERR) != 0 })
	return broken, err
}

// pollState returns those events of a socket that nobody has to ask for.
func pollState(fd uintptr) int16 {
	state := []unix.PollFd{{Fd: int32(fd)}}
	_, _ = unix.Poll(state, 0) // without a time to wait it does not fail
	return state[0].Revents
}
