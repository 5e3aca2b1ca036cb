// Package proxy serves SOCKS clients: it accepts, decides by the rules, asks
// the limiter for a slot, dials and relays.
//
// The way of one session, in the order of session.go:
//
//	accept        listen.go      the policy in force is taken and kept: a reload never touches a session
//	PROXY header  header.go      required from trusted balancers, refused from anybody else
//	client-rule   policy.go      block: closed without a byte
//	admit         limiter        full or store away: closed without a byte
//	negotiate     negotiate.go   method, user, request; one deadline from accept to the whole request
//	resolve       resolve.go     the name once, all its addresses
//	socks-rule    policy.go      block: reply 2 (SOCKS 4: 91)
//	move          limiter        the slot moves to the socks-rule's limit; full: reply 2, store away: reply 1
//	dial          dial.go        only addresses that the rule matched; errors become replies in outcome.go
//	relay         relay.go       until both directions have ended
//	end           session.go     sockets closed, slot released, one log line
//
// A full rule is a verdict: matching stops there. A client that hangs up ends
// any step and frees its slot at once (hangup_linux.go).
//
// Each session is one goroutine from accept to its end, a second one for the
// other direction while it relays, and one that watches for the client to
// hang up while a step waits for somebody else. Whatever has to end a session
// from outside (Drain, a lost lease, idleness) cancels its context with the
// reason; that closes its sockets, and so wakes what is blocked.
//
// Commands other than CONNECT are answered with 7, command not supported.
package proxy
