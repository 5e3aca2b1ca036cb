package proxy

import (
	"net"
	"net/netip"
	"sync/atomic"
	"time"
	"unique"

	"usher/limiter"
	"usher/proxy/fair"
	"usher/proxy/idle"
	"usher/proxy/rules"
	"usher/proxy/socks"
	"usher/proxy/udp"
)

// session is one client's connection from accept to close. Its fields belong to
// one goroutine at a time: the one that opens the session, then the one that
// serves it. Those marked are safe for concurrent use.
type session struct {
	server *Server
	gen    *generation // guarded by the table's mutex for writing; never changes once the session is admitted
	id     uint64
	began  time.Time
	client *net.TCPConn

	*opening // nil once it relays TCP

	// Small fields stand together: a session has 416 bytes, and the next size that
	// the allocator has is 448.
	stage    stage // guarded by the table's mutex
	isClient bool  // else no more than a health check, so far: see isCheck
	method   rules.Method

	ends
	clientRule *rules.Rule   // nil: not judged yet, or none matched
	user       string        // as claimed until the password is checked
	request    socks.Request // Version 0 until it was read
	socksRule  *rules.Rule
	dialled    dialled  // CONNECT
	awaited    *awaited // nil but for BIND

	grant    *limiter.Grant   // empty until the session is admitted
	limitKey string           // of the last limit that was asked; "": it has none
	valid    func() bool      // nil, or asked before every write: see endOnLostLease
	udp      *udp.Association // nil but for UDP ASSOCIATE
	up, down atomic.Int64     // safe: bytes relayed to and from the target
	moved    idle.Stamp       // safe: when the last of them were relayed; zero before the relay

	sockets sockets // safe: client and what else is open
}

// ends are the addresses of the client's connection.
type ends struct {
	from netip.AddrPort // who the client is, by the PROXY header if there is one
	// via is what the client dialled, if a PROXY header says so. Sessions share it,
	// because it is mostly an address of a balancer. Zero: the local address.
	via unique.Handle[netip.AddrPort]
}

// opening is what a session needs only before its relay. Most sessions spend most
// of their time in the relay, so this memory is given back when it begins.
type opening struct {
	to          netip.AddrPort         // what the client dialled, by the PROXY header if there is one
	deadline    time.Time              // in force on client
	keptAlive   rules.KeepAlive        // the same
	negotiating *fair.Member[*session] // nil once it has left the negotiators
	ahead       readAhead              // of client
	first       socks.Opening          // the client's first message
	firstErr    error                  // of reading it
	read        bool                   // first, or firstErr, is there
	greeted     bool                   // first was answered with a method
	requested   bool                   // the request was read
	admitted    clientAdmission
}

// clientAdmission is by which client-rule a session was let in last.
type clientAdmission struct {
	digest, rule string // of the generation, and the rule's position; "": not let in yet
	client       verdict
	slot         bool // the session has its slot still, if the rule has a limit
}

func newOpening(client *net.TCPConn) *opening {
	return &opening{keptAlive: rules.DefaultKeepAlive, ahead: readAhead{conn: client}}
}

// stage is how far a session has come. In the zero stage, no client-rule has passed
// it yet: it is a health check, or was accepted just now.
//
// Others may read a field of the session once its stage, which they read with the
// table's mutex, says that the field no longer changes: from once there is a rule, what
// was requested once there is a command, to what it is connected once it is.
type stage struct {
	rule        *rules.Rule   // that passed it last
	command     socks.Command // 0: it negotiates
	connected   bool          // the client was told so
	unconfirmed bool          // admitted for its command without the store
	client      verdict       // which limit of the client-rule would have refused it
	request     verdict       // which of the socks-rule's
	waits       bool          // for a slot of its client-rule: it is not let in yet
}

// awaited is the peer of BIND.
type awaited struct {
	at   netip.AddrPort // where it is awaited
	peer netip.AddrPort // the peer that connected
	rule *rules.Rule    // the rule that let the peer in
}

// dialled is what became of the addresses of a target.
type dialled struct {
	at     netip.AddrPort // connected
	failed string         // those that were tried in vain, if there are several, see describe
}
