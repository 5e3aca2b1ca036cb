package proxy

import (
	"errors"
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
