package proxy

import (
	"net"
	"time"

	"usher/proxy/sockopt"
)

// deliverWait is how long a peer may take nothing after both directions have ended, and
// deliverLook is the time between two looks at that.
const (
	deliverWait = time.Minute
	deliverLook = 100 * time.Millisecond
)

// deliver waits until the kernel has sent most of what both sides have still to get.
// After a close, the kernel keeps it as long as the peer answers, and neither places nor
// GuardMemory count it. A peer that takes nothing for deliverWait is reset.
func (s *sockets) deliver() {
	least, end := 0, time.Now().Add(deliverWait)
	for {
		left, most := 0, 0
		s.mu.Lock() // it waits while GuardMemory looks
		s.each(func(c *net.TCPConn) {
			unsent := sockopt.Unsent(c)
			left += unsent
			most = max(most, unsent)
		})
		s.mu.Unlock()
		switch now := time.Now(); {
		case most <= sockopt.Much:
			return
		case least == 0 || left < least:
			least, end = left, now.Add(deliverWait)
		case now.After(end):
			s.mu.Lock()
			s.each(func(c *net.TCPConn) { _ = c.SetLinger(0) })
			s.mu.Unlock()
			return
		}
		time.Sleep(deliverLook)
	}
}
