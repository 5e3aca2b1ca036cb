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
	"usher/proxy/record"
	"usher/proxy/resolve"
	"usher/proxy/rules"
	"usher/proxy/selfaddr"
	"usher/proxy/sockopt"
	"usher/proxy/users"
)

// defaultBindTimeout is how long BIND waits for its peer unless
// Options.BindTimeout says otherwise.
const defaultBindTimeout = 3 * time.Minute

// defaultCheckGrace is how long a connection may be silent unless Options.CheckGrace
// says otherwise.
const defaultCheckGrace = time.Second

// Options configure a Server, for all its policies.
type Options struct {
	Limiter *limiter.Limiter // required
	Logger  *slog.Logger     // nil: nothing is logged
	Metrics *Metrics         // nil: nothing is measured
	// Replica is the name of this replica in records. It may be empty.
	Replica string
	// Ended is called at the end of each session, and for each that is refused, after
	// the log line. It must not wait, because the session's slot is free by then, but not
	// its memory. Many goroutines call it at once. nil: nobody wants to know.
	Ended func(record.End)
	// TrustedProxies are the balancers. They must send a PROXY header. No other
	// client may send one.
	TrustedProxies []netip.Prefix
	// Resolver resolves the names that clients request. nil: resolve.Default. The
	// Server keeps answers for half a minute, or until SetPolicy.
	Resolver resolve.Resolver
	// MaxSessions is the number of places for sessions that have made their request.
	// BIND and UDP ASSOCIATE take two places. Without a free place, the Server refuses
	// a session. It also refuses one if the sessions of its source that are not
	// connected yet hold as many places as are free, or all sessions of its source do
	// while less than an eighth of the places is free. Each place stands for two
	// descriptors, and MinNegotiating descriptors are needed in addition. 0: any number.
	MaxSessions int
	// MaxBuffered is how many bytes the kernel may buffer for all sessions while
	// GuardMemory runs. 0: any number.
	MaxBuffered int64
	// MaxPipes is how many directions of sessions may use a pipe at a time. A pipe has
	// two descriptors. Further directions are copied, which costs more processor time.
	// 0: any number.
	MaxPipes int
	// MaxLookups is how many lookups run at a time. One source gets half of them. 0:
	// resolve.DefaultLookups.
	MaxLookups int
	// MaxNegotiating is how many clients may negotiate at a time, from accept to the
	// complete request. For each further client, the Server closes another one. 0: any
	// number.
	MaxNegotiating int
	// MaxAuthFailures is how many wrong passwords a source (an IPv4 address or an IPv6
	// /64) may send in a minute for one user. The bound for all users is ten times as
	// high. Above a bound, logins are refused for a minute. 0: any number.
	MaxAuthFailures int
	// Own are addresses of this process that no client may connect to, such as that of
	// the admin listener, see selfaddr.OfListener. The Server knows the listeners of
	// Serve itself.
	Own []netip.AddrPort
	// UDPRelayFrom are balancers that hide the client and send no PROXY header. The
	// Server takes the address that a client behind them announces. It must be
	// complete, see expectedClient.
	UDPRelayFrom []netip.Prefix
	// UDPRelayClients are networks of clients behind UDPRelayFrom. If a client announces
	// no complete address, the first datagram from these networks that the rules pass
	// fixes its address. Empty: such a client gets no association.
	UDPRelayClients []netip.Prefix
	// UDPFollow is how long the UDP port of a client must be silent before the Server
	// accepts another port of the same address. A NAT may change the port. This applies
	// neither to clients that have announced their port nor to those behind
	// UDPRelayFrom. 0: never.
	UDPFollow time.Duration
	// UDPAdvertise are the addresses to which clients are to send datagrams, at most
	// one of each family. Empty: the address on which the client's connection arrived.
	UDPAdvertise []netip.Addr
	// UDPPorts are the ports to which clients send datagrams, unless udp.portrange of
	// their rule names others. The zero value means any port.
	UDPPorts rules.PortRange
	// BindTimeout is how long BIND waits for its peer. 0: three minutes.
	BindTimeout time.Duration
	// CheckGrace separates health checks from clients. A connection that ends within
	// this time without sending a byte is a health check. 0: a second.
	CheckGrace time.Duration
}

// Server serves SOCKS clients. Its methods are safe for concurrent use.
//
// To stop it, call CloseListeners, then Drain, then close the limiter.
type Server struct {
	opts    Options
	table   *table
	refused lastRefusals
	names   *resolve.Cache
	guard   *users.Guard
	hashes  *fair.Queue   // password hashes
	pipes   chan struct{} // has a token for each pipe of a relay; nil: any number
	spare   *spare

	negotiators negotiators
	places      fair.Shares   // of sessions that have made their request
	turnedAway  sync.Map      // reason -> *logEvery
	ids         atomic.Uint64 // of sessions
	prefix      string        // of session ids, tells processes apart in a shared log

	clientSockets selfaddr.Set  // of UDP associations: their client-facing addresses, bound and advertised
	awaiting      selfaddr.Set  // where BIND awaits peers, to the end of the session
	young         sockopt.Young // connections to targets

	tcp, udp decide.Machine // what decisions about connections and datagrams ask the system

	listening struct {
		sync.Mutex
		closed    bool
		listeners map[net.Listener]struct{}
		own       []netip.AddrPort // of all listeners so far
	}
}

// New returns a server with the policy p.
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

// SetPolicy puts p in force for all sessions that are not admitted yet. A client that
// negotiates, or waits for a slot, is judged anew. Admitted sessions keep their policy,
// also when BIND judges its peer. Counts belong to the digest of the rules, so they stay if the digest
// stays. SetPolicy clears the cache of names.
func (s *Server) SetPolicy(p *Policy) {
	s.names.Reset(p.Rules.HostNames())
	s.table.setPolicy(p)
	s.opts.Metrics.follow(s.table)
}

// Hold makes new clients wait until release is called, and those that negotiate wait
// before they are admitted. Running sessions are not affected. SetPolicy may be called
// meanwhile. The wait should be short, because clients wait in the queues of the
// listeners.
func (s *Server) Hold() (release func()) {
	s.table.held.Lock()
	return s.table.held.Unlock
}

// Generation returns the label of the policy in force, such as g5-9f31c2ab.
func (s *Server) Generation() string {
	list := s.table.generations()
	return list[len(list)-1].Label
}

// Generations returns the generations that have sessions. The last one is the generation
// in force.
func (s *Server) Generations() []Generation { return s.table.generations() }

// Sessions returns the number of running sessions that a client-rule has passed. Sessions
// that negotiate are included.
func (s *Server) Sessions() int {
	n := 0
	for _, c := range s.table.counts() {
		n += c.Sessions
	}
	return n
}

// sessionID returns the id of a session as log lines show it.
func (s *Server) sessionID(id uint64) string { return s.prefix + "-" + strconv.FormatUint(id, 10) }

// Places returns how many of the places of MaxSessions are taken, or 0 if there is no
// bound.
func (s *Server) Places() (taken int) {
	if s.opts.MaxSessions == 0 {
		return 0
	}
	return s.opts.MaxSessions - s.places.Free()
}

// Counts returns the sessions by rule, generation and command.
func (s *Server) Counts() []Count { return s.table.counts() }

// trusted reports whether a is a balancer.
func (s *Server) trusted(a netip.Addr) bool {
	for _, p := range s.opts.TrustedProxies {
		if p.Contains(a) {
			return true
		}
	}
	return false
}

// ownAddress reports whether a connection to a would reach a listener of this process or
// an address of Options.Own.
func (s *Server) ownAddress(a netip.AddrPort) bool {
	s.listening.Lock()
	defer s.listening.Unlock()
	return selfaddr.Reaches(s.opts.Own, a) || selfaddr.Reaches(s.listening.own, a)
}

// reachesTCP reports whether a connection to a would reach this process. This includes
// ports on which BIND waits for a peer.
func (s *Server) reachesTCP(a netip.AddrPort) bool { return s.ownAddress(a) || s.awaiting.Reached(a) }

// reachesUDP reports whether a datagram to a would reach this process. This includes the
// sockets of associations.
func (s *Server) reachesUDP(a netip.AddrPort) bool {
	return s.ownAddress(a) || s.clientSockets.Reached(a)
}
