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

// boundedBuffer is the size of each buffer of a connection after Bound, as Linux counts
// it. Linux doubles what it is asked for.
const boundedBuffer = 128 << 10

// Bound bounds what the kernel buffers for c from now on to about 256 KiB. What is
// buffered already stays until it is read or sent.
func Bound(c *net.TCPConn) {
	_ = c.SetReadBuffer(boundedBuffer / 2) // they fail on a closed connection only
	_ = c.SetWriteBuffer(boundedBuffer / 2)
}
