package udp

import (
	"cmp"
	"math"
	"net/netip"
	"slices"
	"time"

	"usher/proxy/race"
)

// A name may have several addresses, and UDP does not report that one of them is dead.
// So a datagram goes to one address at a time: to the one that has answered, or to one
// that is being tried. An attempt lasts a second. The next datagram after it begins an
// attempt at the address that was tried least. Each further attempt at an address lasts
// twice as long. So datagrams that get no answer, such as those to a log server, change
// their address less and less often.
const (
	firstAttempt = time.Second
	lastAttempt  = 64 * time.Second
)

// inOrder returns the addresses of a name in the order in which to try to send a
// datagram to them at a time. The families take turns (RFC 8305 section 4).
func (p *peers) inOrder(addrs []netip.Addr, port uint16, now time.Duration) []netip.Addr {
	if len(addrs) <= 1 {
		return addrs
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	order := race.Interleave(addrs)
	rank := func(a netip.Addr) int64 {
		known, _ := p.get(netip.AddrPortFrom(a, port))
		return known.rank(now)
	}
	slices.SortStableFunc(order, func(a, b netip.Addr) int { return cmp.Compare(rank(a), rank(b)) })
	return order
}

// rank is lower for a peer that is preferred. The first address that answered stays in
// use, even if a better one answers later, because the datagrams may belong together.
func (p peer) rank(now time.Duration) int64 {
	switch {
	case p.answered > 0:
		return math.MinInt64 + int64(p.answered)
	case now < p.until:
		return -1 // is being tried
	}
	return int64(p.attempts)
}

// tried notes that a datagram to a name was sent to one of its addresses. It begins
// an attempt, unless one is under way.
func (p *peers) tried(a netip.AddrPort, now time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	known, _ := p.get(a)
	if known.answered > 0 || now < known.until {
		return
	}
	known.until = now + min(firstAttempt<<min(known.attempts, 9), lastAttempt)
	known.attempts++
	p.set(a, known)
}
