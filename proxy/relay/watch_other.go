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

// waitBroken does not wait here: a client that breaks the connection after the end of
// its direction is noticed at the next write. A reset that a write was told of may look
// like an end to the other direction.
func waitBroken(_ syscall.RawConn, over, ends func() bool, intact func()) error {
	if !over() {
		intact()
	}
	return net.ErrClosed
}
