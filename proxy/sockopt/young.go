package sockopt

import (
	"net"
	"sync"
	"time"
)

// youngFor is how long a connection stays young: this time at least, and twice this time
// at most.
const youngFor = 2 * time.Second

// Young gives connections their keep-alive when they are some seconds old. Keep-alive
// takes four system calls, and many connections end before the first probe could be due.
// The kernel counts the silence before the first probe from the last segment, and not
// from when keep-alive was set. So a peer that vanishes is noticed as early as if
// keep-alive had been set at once.
//
// One timer serves all connections. Young also keeps those that have ended, for at most
// four seconds. It is safe for concurrent use, and its zero value is ready.
type Young struct {
	mu         sync.Mutex
	timer      *time.Timer // nil: there are no connections
	young, old []youngConn // added since the timer fired last, and before that
}

type youngConn struct {
	*net.TCPConn
	keepAlive net.KeepAliveConfig
}

// Add gives c the keep-alive k: within four seconds, or at once if a probe may be due
// before. c must have no keep-alive yet.
func (y *Young) Add(c *net.TCPConn, k net.KeepAliveConfig) {
	switch {
	case !k.Enable:
		return
	case k.Idle <= 2*youngFor:
		youngConn{c, k}.grow()
		return
	}
	y.mu.Lock()
	defer y.mu.Unlock()
	y.young = append(y.young, youngConn{c, k})
	if y.timer == nil {
		y.timer = time.AfterFunc(youngFor, y.tick)
	}
}

// tick gives the old connections their keep-alive, and makes the young ones old.
func (y *Young) tick() {
	y.mu.Lock()
	ready := y.old
	y.old, y.young = y.young, nil
	if len(y.old) > 0 {
		y.timer.Reset(youngFor)
	} else {
		y.timer = nil
	}
	y.mu.Unlock()
	for _, c := range ready {
		c.grow()
	}
}

// grow sets keep-alive. Package net switches it on first and then sets the time of
// silence. In this order, the kernel counts the silence that there was already.
func (c youngConn) grow() {
	_ = c.SetKeepAliveConfig(c.keepAlive) // it fails on a connection that has ended
}
