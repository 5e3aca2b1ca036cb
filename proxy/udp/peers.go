package udp

import (
	"net/netip"
	"sync"
)

// maxPeers is how many of the peers that it contacted last an association
// remembers at least; it is twice that at most.
const maxPeers = 512

// peers are those that a UDP association has sent to, who therefore may
// answer. The ones contacted longest ago are forgotten first: new peers fill
// recent, which then becomes older and pushes out what was older before.
type peers struct {
	mu            sync.Mutex
	recent, older map[netip.AddrPort]struct{}
}

func (p *peers) add(a netip.AddrPort) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if _, ok := p.recent[a]; ok {
		return
	}
	if p.recent == nil || len(p.recent) == maxPeers {
		p.older, p.recent = p.recent, make(map[netip.AddrPort]struct{})
	}
	p.recent[a] = struct{}{}
}

func (p *peers) has(a netip.AddrPort) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if _, ok := p.recent[a]; ok {
		return true
	}
	_, ok := p.older[a]
	return ok
}
