package udp

import (
	"net/netip"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"
)

// traffic counts what is relayed in one direction.
type traffic struct {
	bytes     *atomic.Int64      // the session's
	datagrams atomic.Int64       // the association's
	total     prometheus.Counter // datagrams of all associations
}

// add counts a datagram with n bytes of payload.
func (t *traffic) add(n int) {
	t.bytes.Add(int64(n))
	t.datagrams.Add(1)
	t.total.Inc()
}

// count counts a datagram that was dropped. Relayed datagrams are counted elsewhere,
// and a datagram that waits for a name is counted later.
func (a *Association) count(o outcome) {
	if o != relayed && o != deferred {
		a.drops[o].Add(1)
		a.o.Metrics.dropped[o].Inc()
	}
}

// Stats are the counts of an association so far.
type Stats struct {
	Client     netip.AddrPort // the zero AddrPort: no datagram was passed yet
	Moves      int64          // how often the client's port has changed
	Advertised netip.AddrPort
	Up, Down   int64 // datagrams relayed
	Dropped    []Dropped
}

// Dropped is the number of datagrams that were dropped for one reason.
type Dropped struct {
	Reason string
	N      int64
}

// Stats returns the counts so far. It is safe for concurrent use.
func (a *Association) Stats() Stats {
	s := Stats{Advertised: a.advertised, Moves: a.client.moves.Load(), Up: a.up.datagrams.Load(), Down: a.down.datagrams.Load()}
	if client := a.client.known.Load(); client != nil {
		s.Client = client.from
	}
	for d, reason := range dropReasons {
		if n := a.drops[d].Load(); n > 0 {
			s.Dropped = append(s.Dropped, Dropped{reason, n})
		}
	}
	return s
}
