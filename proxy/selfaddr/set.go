package selfaddr

import (
	"net/netip"
	"slices"
	"sync"
)

// Set holds the addresses of sockets that clients may not reach through this server.
// The zero value is empty. It is safe for concurrent use.
type Set struct {
	mu     sync.RWMutex
	byPort map[uint16][]netip.Addr
}

// Add adds addresses. An address that was added twice must be removed twice.
func (o *Set) Add(addrs ...netip.AddrPort) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.byPort == nil {
		o.byPort = make(map[uint16][]netip.Addr)
	}
	for _, a := range addrs {
		o.byPort[a.Port()] = append(o.byPort[a.Port()], a.Addr())
	}
}

// Remove removes what Add added.
func (o *Set) Remove(addrs ...netip.AddrPort) {
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

// Reached reports whether a connection or a datagram to an address arrives at a socket
// of the set.
func (o *Set) Reached(a netip.AddrPort) bool {
	o.mu.RLock()
	defer o.mu.RUnlock()
	return slices.ContainsFunc(o.byPort[a.Port()], func(own netip.Addr) bool { return reaches(a.Addr(), own) })
}

// Has reports whether the set has exactly this address.
func (o *Set) Has(a netip.AddrPort) bool {
	o.mu.RLock()
	defer o.mu.RUnlock()
	return slices.Contains(o.byPort[a.Port()], a.Addr())
}
