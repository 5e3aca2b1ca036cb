package proxy

import (
	"net/netip"
	"slices"
	"sync"
)

// ownSockets are the addresses of sockets of sessions, of UDP or of TCP, that
// nobody may reach through this server: what comes to them would come from the
// server's own address, which says nothing about who sent it. It is safe for
// concurrent use.
type ownSockets struct {
	mu     sync.RWMutex
	byPort map[uint16][]netip.Addr
}

func (o *ownSockets) add(addrs ...netip.AddrPort) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.byPort == nil {
		o.byPort = make(map[uint16][]netip.Addr)
	}
	for _, a := range addrs {
		o.byPort[a.Port()] = append(o.byPort[a.Port()], a.Addr())
	}
}

// remove takes out what add put in.
func (o *ownSockets) remove(addrs ...netip.AddrPort) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, a := range addrs {
		list := o.byPort[a.Port()]
		if i := slices.Index(list, a.Addr()); i >= 0 {
			list = slices.Delete(list, i, i+1)
		}
		if len(list) == 0 {
			delete(o.byPort, a.Port())
			continue
		}
		o.byPort[a.Port()] = list
	}
}

// has reports whether what is sent to a would reach one of them.
func (o *ownSockets) has(a netip.AddrPort) bool {
	o.mu.RLock()
	defer o.mu.RUnlock()
	return slices.ContainsFunc(o.byPort[a.Port()], func(own netip.Addr) bool { return reaches(a.Addr(), own) })
}

// includes reports whether a is one of them.
func (o *ownSockets) includes(a netip.AddrPort) bool {
	o.mu.RLock()
	defer o.mu.RUnlock()
	return slices.Contains(o.byPort[a.Port()], a.Addr())
}
