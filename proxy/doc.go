// Package proxy serves SOCKS clients: it accepts, decides by the rules, asks
// the limiter for a slot, dials and relays.
//
// The steps of one session, in the order of session.go:
//
//	accept        listen.go      the policy in force is taken and kept: a reload never touches a session
//	PROXY header  header.go      required from trusted balancers, refused from anybody else; LOCAL may be
//	                             a health check, which the next two steps skip while it sends no more than a greeting
//	client-rule   decision.go    block: closed without a byte
//	admit client  slot.go        at the client's first byte, or after a second; a client that closes before is a
//	                             health check, too. Limit full or store unreachable: closed without a byte
//	negotiate     negotiate.go   method, user, request; one deadline from accept to the whole request
//	resolve       package decide the name once, to all its addresses, if a rule could pass it; package resolve has the cache
//	socks-rule    package decide block: reply 2 (SOCKS 4: 91)
//	admit request slot.go        a slot of the socks-rule's limit for that of the client-rule; full: reply 2, store unreachable: reply 1
//	dial          dial.go        only addresses that the rule matched; errors become replies in outcome.go
//	  or await    bind.go        BIND: one peer, judged by the rules for bindreply
//	relay         package relay  until both directions have ended; bulk is spliced
//	end           session.go     sockets closed (sockets.go), slot released, one log line
//
// Package decide makes the decisions of these steps and knows their order; usher
// explain asks it too. decision.go gives it what is known of the session.
//
// If the limit of a rule is full, no later rule is asked. If a client closes its
// connection, the current step ends and the slot is released (hangup_linux.go).
//
// The goroutines of a session:
//   - One waits, relays and finishes.
//   - One opens the session, up to the reply. Then it ends.
//   - If a step waits for another party for more than 5 ms, a third one watches whether
//     the client closes its connection.
//   - In the relay, each direction has one. Both stay on small stacks.
//
// A drain and a lost lease end a session from outside. They close its sockets, with the
// reason, which wakes blocked goroutines. Before the relay begins, they also end the
// context of the session.
//
// A UDP association (package udp, opened in udp.go) lasts as long as its client's
// connection: one goroutine waits for that to end, one reads each UDP socket.
//
// Other commands are answered with 7, command not supported.
package proxy
