package fair

import (
	"net"
	"net/netip"
	"slices"
	"sync"
)

// Conns keeps few connections open at a time. If there is one more, it closes the oldest
// one of the source that has the most. So idle connections keep nobody out. Conns are safe
// for concurrent use.
type Conns struct {
	Most int // connections. It must not change after the first Enter

	mu    sync.Mutex
	conns []net.Conn // the oldest first
}

// Enter adds c.
func (c *Conns) Enter(conn net.Conn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.conns = append(c.conns, conn)
	if len(c.conns) > c.Most {
		victim := c.victim()
		_ = c.conns[victim].Close()
		c.conns = slices.Delete(c.conns, victim, victim+1)
	}
}

// Leave removes a connection that has ended. It does nothing if Conns has closed it.
func (c *Conns) Leave(conn net.Conn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.conns = slices.DeleteFunc(c.conns, func(open net.Conn) bool { return open == conn })
}

// victim returns the index of the oldest connection of the source that has the most.
// c.mu is held.
func (c *Conns) victim() (first int) {
	counts := map[netip.Prefix]int{}
	most := 0
	for _, conn := range c.conns {
		source := sourceOf(conn)
		counts[source]++
		most = max(most, counts[source])
	}
	return slices.IndexFunc(c.conns, func(conn net.Conn) bool { return counts[sourceOf(conn)] == most })
}

func sourceOf(c net.Conn) netip.Prefix {
	if a, ok := c.RemoteAddr().(*net.TCPAddr); ok {
		return SourceOf(a.AddrPort().Addr())
	}
	return netip.Prefix{}
}
