//go:build !linux

package relay

import (
	"net"
	"syscall"
)

// sourceWatch does nothing here: a client that breaks its connection while a write to
// the target is blocked is noticed after that write.
type sourceWatch struct{ flow *flow }

func (*sourceWatch) begin() {}
func (*sourceWatch) end()   {}

// waitBroken does not wait here: who breaks the connection after the end of its
// direction is noticed at the next write.
func waitBroken(_ syscall.RawConn, over, ends func() bool) error { return net.ErrClosed }

// isBroken knows nothing here: a reset that a write was told of may look like
// an end to the other direction.
func isBroken(syscall.RawConn) (broken bool, err error) { return false, nil }
