// Package proxy serves SOCKS clients: it accepts, decides by the rules, asks
// the limiter for a slot, dials and relays.
//
// The way of one session, in the order of session.go:
//
//	accept        listen.go      the policy in force is taken and kept: a reload never touches a session
//	PROXY header  header.go      required from trusted balancers, refused from anybody else; LOCAL may be
//	                             a health check, which the next two steps skip while it sends no more than a greeting
//	client-rule   decision.go    block: closed without a byte
//	admit         slot.go        at the client's first byte, or after a second; who closes before is a health
//	                             check, too. Full or store away: closed without a byte
//	negotiate     negotiate.go   method, user, request; one deadline from accept to the whole request
//	resolve       package decide the name once, to all its addresses, if a rule could pass it; package resolve has the cache
//	socks-rule    package decide block: reply 2 (SOCKS 4: 91)
//	move          slot.go        the slot moves to the socks-rule's limit; full: reply 2, store away: reply 1
//	dial          dial.go        only addresses that the rule matched; errors become replies in outcome.go
//	  or await    bind.go        BIND: one peer, judged by the rules for bindreply
//	relay         package relay  until both directions have ended; bulk is spliced
//	end           session.go     sockets closed (sockets.go), slot released, one log line
//
// Package decide makes the decisions of these steps and knows their order; usher
// explain asks it too. decision.go gives it what is known of the session.
//
// A full rule is a verdict: matching stops there. A client that hangs up ends
// any step and frees its slot (hangup_linux.go).
//
// A session has a goroutine that waits, relays and finishes, and one that opens it,
// up to the reply, and ends with that. A third one watches for the client to hang up
// once a step waits for somebody else for more than 5 ms. The relay adds one, as
// each direction has a goroutine. Both stay on small stacks. Drain and a lost lease
// end a session from outside: they cut its sockets with the reason. That closes
// them, which wakes blocked goroutines. Before the relay begins, it also ends the
// session's context.
//
// A UDP association (package udp, opened in udp.go) lasts as long as its client's
// connection: one goroutine waits for that to end, one reads each UDP socket.
//
// Other commands are answered with 7, command not supported.
package proxy
