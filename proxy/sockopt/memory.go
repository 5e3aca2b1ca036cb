package sockopt

import (
	"errors"
	"net"
)

// ErrMemory is that the system does not tell how much memory a connection takes.
var ErrMemory = errors.New("the system does not tell the memory of sockets")

// Much is how many bytes that are not sent are worth a wait before a connection is
// closed. The kernel keeps them after the close, as long as the peer answers.
const Much = 64 << 10

// ForgetMuch makes the close of c a reset if the kernel has Much still to send. Otherwise
// the kernel would keep it after the close. It is for connections that do not end well:
// their peers must not take what they get for all of it.
func ForgetMuch(c *net.TCPConn) {
	if Unsent(c) > Much {
		_ = c.SetLinger(0) // it fails on a closed connection only
	}
}

// boundedBuffer is the size of each buffer of a connection after Bound, as Linux counts
// it. Linux doubles what it is asked for.
const boundedBuffer = 128 << 10

// Bound bounds what the kernel buffers for c from now on to about 256 KiB. What is
// buffered already stays until it is read or sent.
func Bound(c *net.TCPConn) {
	_ = c.SetReadBuffer(boundedBuffer / 2) // they fail on a closed connection only
	_ = c.SetWriteBuffer(boundedBuffer / 2)
}
