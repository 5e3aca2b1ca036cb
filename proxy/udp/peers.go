package udp

import (
	"net/netip"
	"sync"
	"time"
)

// maxPeers is how many of the peers that it contacted last an association
// remembers at least; it is twice that at most.
const maxPeers = 512

// peers are those that a UDP association has sent to, who therefore may
// answer. The ones contacted longest ago are forgotten first: new peers fill
// recent, which then becomes older and pushes out what was older before.
type peers struct {
	mu            sync.Mutex
	recent, older map[netip.AddrPort]peer
	answers       uint32 // how many peers have answered
}

// peer is what an association knows of an address that it has sent to. Most of it
// serves the choice among the addresses of a name.
type peer struct {
	answered uint32        // its place among those who have answered; 0: it has not
	attempts uint32        // how often it was tried as an address of a name
	until    time.Duration // when the last attempt is over, by clock
}

// add remembers a peer.
func (p *peers) add(a netip.AddrPort) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if _, ok := p.recent[a]; !ok {
		p.set(a, p.older[a])
	}
}

// has reports whether a peer was contacted.
func (p *peers) has(a netip.AddrPort) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	_, ok := p.get(a)
	return ok
}

// heard notes that a peer has answered. What somebody else sends is not noted.
func (p *peers) heard(a netip.AddrPort) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if known, ok := p.get(a); ok && known.answered == 0 {
		p.answers++
		known.answered = p.answers
		p.set(a, known)
	}
}

// get returns what is known of a peer. p.mu is held.
func (p *peers) get(a netip.AddrPort) (known peer, ok bool) {
	if known, ok = p.recent[a]; !ok {
		known, ok = p.older[a]
	}
	return known, ok
}

// set remembers a peer as one of the most recent. p.mu is held.
func (p *peers) set(a netip.AddrPort, known peer) {
	if _, ok := p.recent[a]; !ok && (p.recent == nil || len(p.recent) == maxPeers) {
		p.older, p.recent = p.recent, make(map[netip.AddrPort]peer)
	}
	p.recent[a] = known
}
