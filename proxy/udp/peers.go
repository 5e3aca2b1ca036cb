package udp

import (
	"net/netip"
	"sync"
	"time"
)

// maxPeers is how many of the last peers an association remembers at least. It
// remembers at most twice as many.
const maxPeers = 512

// peers are the addresses to which an association has sent, and which may therefore
// answer. Those that were contacted longest ago are forgotten first: when recent is
// full of new peers, it replaces older.
type peers struct {
	mu            sync.Mutex
	recent, older map[netip.AddrPort]peer
	answers       uint32 // how many peers have answered
}

// peer is what an association knows about an address to which it has sent. Most of it
// is for the choice among the addresses of a name.
type peer struct {
	answered uint32        // it was the nth peer to answer; 0: it has not answered
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

// heard notes that a peer has answered. It ignores other addresses.
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
