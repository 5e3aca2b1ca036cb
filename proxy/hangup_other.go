//go:build !linux

package proxy

import (
	"net"
	"syscall"
)

// watch does nothing here: a client that hangs up while its session waits for
// somebody else is noticed at the next read or write.
func (s *session) watch(bool) (stop func()) { return func() {} }

// sourceWatch does nothing here, see watch.
type sourceWatch struct {
	flow *flow
	raw  syscall.RawConn
}

func (*sourceWatch) begin() {}
func (*sourceWatch) end()   {}

// waitBroken does not wait here: who breaks the connection after the end of its
// direction is noticed at the next write.
func waitBroken(syscall.RawConn, func() bool) error { return net.ErrClosed }

// isBroken knows nothing here: a reset that a write was told of may look like
// an end to the other direction.
func isBroken(syscall.RawConn) (broken bool, err error) { return false, nil }
