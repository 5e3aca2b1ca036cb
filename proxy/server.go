package proxy

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"

	"usher/limiter"
)

// Options are what a Server is given once, for all its policies.
type Options struct {
	Limiter *limiter.Limiter // required
	Logger  *slog.Logger     // nil: nothing is logged
	Metrics *Metrics         // nil: nothing is measured
	// TrustedProxies are the balancers, which must send a PROXY header.
	// Nobody else may.
	TrustedProxies []netip.Prefix
	// Resolver resolves the names that clients ask for. nil: Go's own
	// resolver, never the C library's, which takes "0x7f.1" for an address.
	Resolver Resolver
	// Own are addresses of this process that no client may connect to, such
	// as the admin listener's. Those given to Serve need not be repeated.
	Own []netip.AddrPort
	// StrictLease ends limited sessions whose lease is lost. Set it as in
	// limiter.Options.
	StrictLease bool
}

// Server serves SOCKS clients. Its methods are safe for concurrent use.
//
// To end it well: CloseListeners, then Drain, then close the limiter.
type Server struct {
	opts   Options
	table  *table
	ids    atomic.Uint64 // of sessions
	prefix uint32        // of session ids, tells processes apart in a shared log

	// Sessions' contexts come from base; cut cancels it with the reason.
	base context.Context
	cut  context.CancelCauseFunc

	listening struct {
		sync.Mutex
		closed    bool
		listeners map[net.Listener]netip.AddrPort
		own       []netip.AddrPort // of all listeners that ever were
	}
}

// New returns a server that follows p until SetPolicy.
func New(o Options, p *Policy) *Server {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Metrics == nil {
		o.Metrics = NewMetrics(nil)
	}
	if o.Resolver == nil {
		o.Resolver = &net.Resolver{PreferGo: true}
	}
	s := &Server{opts: o, prefix: rand.Uint32(), table: newTable(o.Limiter)}
	s.base, s.cut = context.WithCancelCause(context.Background())
	s.listening.listeners = make(map[net.Listener]netip.AddrPort)
	s.table.setPolicy(p)
	o.Metrics.live.Store(s.table)
	return s
}

// SetPolicy puts p in force for sessions that begin from now on. It touches
// none that has begun. The rules count in the space of their digest, so the
// same rules go on counting where they were.
func (s *Server) SetPolicy(p *Policy) { s.table.setPolicy(p) }

// Generation returns the label of the policy in force, such as g5-9f31c2ab.
func (s *Server) Generation() string {
	list := s.table.generations()
	return list[len(list)-1].Label
}

// Generations returns the generations that have sessions, and last the one
// in force.
func (s *Server) Generations() []Generation { return s.table.generations() }

// Sessions returns the number of sessions that a client-rule has let in and
// that have not ended; those still negotiating are among them.
func (s *Server) Sessions() int {
	n := 0
	for _, c := range s.table.counts() {
		n += c.Sessions
	}
	return n
}

// Counts returns the sessions by rule, generation and command.
func (s *Server) Counts() []Count { return s.table.counts() }
