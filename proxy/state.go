package proxy

import (
	"context"
	"net"
	"net/netip"
	"sync/atomic"
	"time"

	"usher/limiter"
	"usher/proxy/fair"
	"usher/proxy/race"
	"usher/proxy/rules"
	"usher/proxy/socks"
	"usher/proxy/udp"
)

// session is one client's connection from accept to close. Its fields belong to
// one goroutine at a time: the one that opens the session, then the one that
// serves it. Those marked are safe for concurrent use.
type session struct {
	server *Server
	gen    *generation // never changes
	id     uint64
	began  time.Time
	client *net.TCPConn
	end    context.CancelCauseFunc // safe: ends the session with a reason

	deadline  time.Time       // in force on client
	keptAlive rules.KeepAlive // the same

	// Small fields stand together: a session has 512 bytes, and the next size that
	// the allocator has is 576.
	check   bool // a balancer's own connection that has made no request yet: see isCheck
	granted bool // the client was told that it is connected
	method  rules.Method

	from, to   netip.AddrPort // who the client is and what it dialled, by the PROXY header if there is one
	clientRule *rules.Rule    // nil: not judged yet, or none matched
	user       string         // as claimed until the password is checked
	request    socks.Request  // Version 0 until it was read
	socksRule  *rules.Rule
	dialled    dialled        // CONNECT
	bound      netip.AddrPort // BIND: where the peer was awaited
	peer       netip.AddrPort // BIND: the peer that connected
	peerRule   *rules.Rule    // BIND: the rule that let the peer in

	grant    *limiter.Grant   // nil: nothing was admitted yet
	limitKey string           // of the last limit that was asked; "": it has none
	valid    func() bool      // nil, or asked before every write: see endOnLostLease
	udp      *udp.Association // nil but for UDP ASSOCIATE
	up, down atomic.Int64     // safe: bytes relayed to and from the target

	negotiating *fair.Member[*session] // its place among the negotiators; nil once it has left

	sockets sockets // safe: client and what else is open
}

// dialled is what became of the addresses of a target.
type dialled struct {
	at       netip.AddrPort // connected
	failures []race.Failure // those that were tried in vain, if there are several
}
