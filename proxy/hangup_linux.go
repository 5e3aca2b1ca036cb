package proxy

import (
	"errors"
	"time"

	"golang.org/x/sys/unix"
)

// watchAfter is how long a step may take before the client is watched. Most steps
// are faster and cost only a timer.
const watchAfter = 5 * time.Millisecond

// watch ends the session as soon as its client closes. Nobody may read from the
// client meanwhile. stop ends the watching, waits until it has ended, and restores
// the deadline.
//
// A client that closed or reset its connection ends the session. A client that
// only shut down its sending direction may still wait for the answer. With early,
// data that follow the request may already be unread; then unread data tell such a
// client from one that closed. Without unread data they look the same, and both
// end the session.
func (s *session) watch(early bool) (stop func()) {
	raw, err := s.client.SyscallConn()
	if err != nil {
		return func() {} // closed: the next step will see it
	}
	ahead := early && len(s.ahead.unread()) > 0
	done := make(chan struct{})
	timer := time.AfterFunc(watchAfter, func() {
		defer close(done)
		// The error is the deadline that stop sets, or that client was closed.
		_ = raw.Read(func(fd uintptr) bool {
			gone := hungUp(int(fd), early, ahead)
			if gone {
				s.sockets.cut(errClientClosed)
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

// hungUp reports whether the peer of a socket has left for good. With early, a peer
// that sent more data before it ended its direction has not left. With ahead, such data
// were read already.
func hungUp(fd int, early, ahead bool) bool {
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
	switch {
	case ahead:
		return false
	case !early:
		return true
	}
	var b [1]byte
	n, _, err := unix.Recvfrom(fd, b[:], unix.MSG_PEEK|unix.MSG_DONTWAIT)
	return n == 0 && err == nil
}
