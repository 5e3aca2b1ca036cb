package proxy

import (
	"errors"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// watchAfter is how long a step may take unwatched: most are over by then, and
// pay for a timer only.
const watchAfter = 5 * time.Millisecond

// watch ends the session as soon as its client hangs up. Nobody may read from
// the client meanwhile. The returned function stops watching, waits until
// that is so, and restores the deadline.
//
// A client that has closed or reset its connection has hung up. One that has
// only ended its direction has sent something before, which is still unread
// then: it may well wait for an answer, if early says that it may send what
// follows its request by now. The two cannot be told apart when nothing is
// unread, and count as a hang-up.
func (s *session) watch(early bool) (stop func()) {
	raw, err := s.client.SyscallConn()
	if err != nil {
		return func() {} // closed: the next step will see it
	}
	done := make(chan struct{})
	timer := time.AfterFunc(watchAfter, func() {
		defer close(done)
		// The error is the deadline that stop sets, or that client was closed.
		_ = raw.Read(func(fd uintptr) bool {
			gone := hungUp(int(fd), early)
			if gone {
				s.end(errGone)
			}
			return gone
		})
	})
	return func() {
		if timer.Stop() {
			return
		}
		s.client.SetReadDeadline(time.Unix(1, 0)) //nolint:errcheck // it fails on a closed connection only
		<-done
		s.client.SetReadDeadline(s.deadline) //nolint:errcheck // as above
	}
}

// hungUp reports whether the peer of a socket has left for good. With early,
// one that has sent more and then ended its direction has not.
func hungUp(fd int, early bool) bool {
	poll := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLRDHUP}}
	for {
		_, err := unix.Poll(poll, 0)
		if err == nil {
			break
		}
		if !errors.Is(err, unix.EINTR) {
			return false
		}
	}
	if poll[0].Revents&(unix.POLLERR|unix.POLLHUP) != 0 {
		return true
	}
	if poll[0].Revents&unix.POLLRDHUP == 0 {
		return false
	}
	if !early {
		return true
	}
	var b [1]byte
	n, _, err := unix.Recvfrom(fd, b[:], unix.MSG_PEEK|unix.MSG_DONTWAIT)
	return n == 0 && err == nil
}

// stuckAfter is how long a write may be blocked before somebody watches where
// its bytes come from.
const stuckAfter = time.Second

// sourceWatch ends a session when its client breaks its connection while what
// came from it is blocked in a write to the target: nobody reads there meanwhile,
// and the client's slot must not outlive it. A target that has gone is met when
// all that it sent has been written, which a slow client is still to get. It
// belongs to the flow's goroutine; the zero value watches nothing.
type sourceWatch struct {
	flow  *flow
	raw   syscall.RawConn // of flow.from
	timer *time.Timer     // nil: it is off
	done  chan struct{}
}

// begin watches until end, for a write that is blocked. The read deadline is gone
// then.
func (w *sourceWatch) begin() {
	if w.flow == nil || w.timer != nil {
		return
	}
	w.flow.from.SetReadDeadline(time.Time{}) //nolint:errcheck // it fails on a closed connection only
	done := make(chan struct{})
	w.done = done
	w.timer = time.AfterFunc(stuckAfter, func() {
		defer close(done)
		// Both directions may have ended, with bytes left to be written: that
		// breaks nothing.
		if waitBroken(w.raw, func() bool { return !w.flow.back.ended.Load() }) == nil {
			w.flow.session.end(w.flow.readBroke(syscall.ECONNRESET))
		}
	})
}

func (w *sourceWatch) end() {
	if w.timer == nil {
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
