package proxy

import (
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"usher/limiter"
	"usher/proxy/decide"
	"usher/proxy/fair"
	"usher/proxy/resolve"
	"usher/proxy/rules"
	"usher/proxy/selfaddr"
	"usher/proxy/users"
)

// defaultBindTimeout is how long BIND waits for its peer unless
// Options.BindTimeout says otherwise.
const defaultBindTimeout = 3 * time.Minute

// defaultCheckGrace is how long a connection may be silent unless Options.CheckGrace
// says otherwise.
const defaultCheckGrace = time.Second

// Options are what a Server is given once, for all its policies.
type Options struct {
	Limiter *limiter.Limiter // required
	Logger  *slog.Logger     // nil: nothing is logged
	Metrics *Metrics         // nil: nothing is measured
	// TrustedProxies are the balancers, which must send a PROXY header.
	// Nobody else may.
	TrustedProxies []netip.Prefix
	// Resolver resolves the names that clients ask for. nil: resolve.Default.
	// Answers are remembered for half a minute, or until SetPolicy.
	Resolver resolve.Resolver
	// MaxSessions is how many sessions may have made their request; BIND and UDP
	// ASSOCIATE count twice. One more is refused. It is refused earlier if its source
	// has as many sessions that are not connected yet as there are places free. Each
	// place is worth two descriptors, and MinNegotiating come on top. 0: any number.
	MaxSessions int
	// MaxPipes is how many directions of sessions may be spliced at a time, through a
	// pipe of two descriptors. More are copied, which costs more processor time. 0: any
	// number.
	MaxPipes int
	// MaxLookups is how many names are looked up at a time, and half of that for
	// one source. 0: resolve.DefaultLookups.
	MaxLookups int
	// MaxNegotiating is how many clients may be between accept and their
	// complete request; for each one more another is closed. 0: any number.
	MaxNegotiating int
	// MaxAuthFailures is how many wrong passwords a source (an address, of
	// IPv6 a /64) may give in a minute for one user before more are refused for a
	// minute, and a tenth of how many for all users. 0: any number.
	MaxAuthFailures int
	// Own are addresses of this process that no client may connect to, such
	// as the admin listener's, see selfaddr.OfListener. Those given to Serve need not be
	// repeated.
	Own []netip.AddrPort
	// UDPRelayFrom are balancers that hide the client and send no PROXY header.
	// A client behind one of them has the address that it announces, which must be
	// complete; see expectedClient.
	UDPRelayFrom []netip.Prefix
	// UDPRelayClients are networks of clients behind UDPRelayFrom. If such a client
	// announces no complete address, the first datagram from there that the rules
	// pass fixes it. Empty: the client gets no association.
	UDPRelayClients []netip.Prefix
	// UDPFollow is how long the UDP port of a client must have been silent before
	// datagrams may come from another port of its address instead, as behind a NAT
	// that changes it. Only clients that announced no port are followed, and none
	// behind UDPRelayFrom. 0: never.
	UDPFollow time.Duration
	// UDPAdvertise are the addresses, at most one of each family, that clients
	// are told to send datagrams to. Empty: the one on which the client came.
	UDPAdvertise []netip.Addr
	// UDPPorts are the ports that clients send datagrams to, unless their rule
	// says which (udp.portrange). The zero value is any port.
	UDPPorts rules.PortRange
	// BindTimeout is how long BIND waits for its peer. 0: three minutes.
	BindTimeout time.Duration
	// CheckGrace is how long a connection may be silent before it is a client. One
	// that ends before is a health check. 0: a second.
	CheckGrace time.Duration
}

// Server serves SOCKS clients. Its methods are safe for concurrent use.
//
// To end it well: CloseListeners, then Drain, then close the limiter.
type Server struct {
	opts   Options
	table  *table
	held   sync.RWMutex // held while no session may begin
	names  *resolve.Cache
	guard  *users.Guard
	hashes *fair.Queue   // password hashes
	pipes  chan struct{} // has a token for each pipe of a relay; nil: any number
	spare  *spare

	negotiators negotiators
	places      fair.Shares   // of sessions that have made their request
	turnedAway  sync.Map      // reason -> *logEvery
	ids         atomic.Uint64 // of sessions
	prefix      string        // of session ids, tells processes apart in a shared log

	clientSockets selfaddr.Set // of UDP associations: their client-facing addresses, bound and advertised
	awaiting      selfaddr.Set // where BIND awaits peers, to the end of the session

	tcp, udp decide.Machine // what decisions about connections and datagrams ask

	listening struct {
		sync.Mutex
		closed    bool
		listeners map[net.Listener]struct{}
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
	if o.BindTimeout == 0 {
		o.BindTimeout = defaultBindTimeout
	}
	if o.CheckGrace == 0 {
		o.CheckGrace = defaultCheckGrace
	}
	if o.Resolver == nil {
		o.Resolver = resolve.Default
	}
	names := resolve.NewCache(o.Resolver, o.MaxLookups, nameMetrics{o.Metrics})
	s := &Server{
		opts: o, names: names, hashes: users.HashQueue(), spare: newSpare(),
		places: fair.Shares{Size: o.MaxSessions},
		prefix: fmt.Sprintf("%08x", rand.Uint32()), table: newTable(o.Limiter),
	}
	if o.MaxPipes > 0 {
		s.pipes = make(chan struct{}, o.MaxPipes)
	}
	s.tcp = decide.Machine{Own: s.reachesTCP, Toward: selfaddr.Toward}
	s.udp = decide.Machine{Own: s.reachesUDP, Toward: selfaddr.Toward}
	s.guard = users.NewGuard(o.MaxAuthFailures, s.hashes)
	s.listening.listeners = make(map[net.Listener]struct{})
	s.SetPolicy(p)
	o.Metrics.live.Store(s.table)
	return s
}

// SetPolicy puts p in force for sessions that begin from now on. Running sessions
// keep their policy. Rules count in the space of their digest, so unchanged rules
// keep their counts. Names are looked up again.
func (s *Server) SetPolicy(p *Policy) {
	s.names.Reset(p.Rules.HostNames())
	s.table.setPolicy(p)
	s.opts.Metrics.follow(s.table)
}

// Hold makes new clients wait until release is called. Running sessions and those
// that negotiate are not affected. SetPolicy may be called meanwhile. The wait should
// be short, as clients wait in the queues of the listeners.
func (s *Server) Hold() (release func()) {
	s.held.Lock()
	return s.held.Unlock
}

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

// sessionID returns the id of a session as log lines show it.
func (s *Server) sessionID(id uint64) string { return s.prefix + "-" + strconv.FormatUint(id, 10) }

// Places returns how many of the MaxSessions places are taken. It returns 0 if there is
// no such bound.
func (s *Server) Places() (taken int) {
	if s.opts.MaxSessions == 0 {
		return 0
	}
	return s.opts.MaxSessions - s.places.Free()
}

// Counts returns the sessions by rule, generation and command.
func (s *Server) Counts() []Count { return s.table.counts() }

// ownAddress reports whether a connection to a would reach this process: one
// of its listeners, or one of Options.Own.
func (s *Server) ownAddress(a netip.AddrPort) bool {
	s.listening.Lock()
	defer s.listening.Unlock()
	return selfaddr.Reaches(s.opts.Own, a) || selfaddr.Reaches(s.listening.own, a)
}

// reachesTCP reports whether a connection to a would reach this process, a
// place where BIND awaits its peer included.
func (s *Server) reachesTCP(a netip.AddrPort) bool { return s.ownAddress(a) || s.awaiting.Reached(a) }

// reachesUDP is reachesTCP for datagrams: it knows the sockets of associations.
func (s *Server) reachesUDP(a netip.AddrPort) bool {
	return s.ownAddress(a) || s.clientSockets.Reached(a)
}
