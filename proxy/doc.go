// Package proxy serves SOCKS clients: it accepts, decides by the rules, asks
// the limiter for a slot, dials and relays.
//
// listen.go accepts a client. session.go takes it through these steps:
//
//	PROXY header    header.go      required from trusted balancers, refused from anybody else; LOCAL may be
//	                               a health check, which the next two steps skip while it sends no more than a greeting
//	client-rule     session.go     block: closed without a byte
//	admit client    session.go     at the client's first byte, or after a second; a client that closes before is a
//	                               health check, too. Limit full or store unreachable: closed without a byte
//	negotiate       negotiate.go   method, user, request; one deadline from accept to the whole request
//	judge anew      session.go     only if newer rules are in force by now: client-rule and admit client again, by
//	                               these. So also if they come before the next admission. rejudge.go judges running sessions,
//	                               if an operator asks for it
//	CONNECT         dial.go
//	  resolve                      the name once, to all its addresses, if a rule could pass it
//	  socks-rule                   block: reply 2 (SOCKS 4: 91)
//	  admit request                a slot of the socks-rule's limit for that of the client-rule; full: reply 2,
//	                               store unreachable: reply 1
//	  dial                         only addresses that the rule matched
//	or BIND         bind.go        the same, but it awaits one peer, which a rule for bindreply must pass
//	or UDP          udp.go         the same without a target; package udp judges each datagram
//	reply           reply.go       success, or the one for the error
//	relay           relay.go       until both directions have ended; bulk is spliced
//	end             session.go     sockets closed, slot released, one log line
//
// The steps use these files, each of which uses only those after it, but for the
// pairs that TestFilesRunOneWay allows:
//
//	operate.go         what an operator sees of the sessions, and does to them
//	report.go          what is told about the end of a session: log lines, records
//	held.go            what a full limit held when it refused a session
//	describe.go        sessions as records
//	decision.go        asks package decide, which makes all decisions and knows their order; usher explain asks it, too
//	slot.go            asks the limiter
//	deadline.go        time limits of the steps
//	keepalive.go       on the client's connection
//	hangup_linux.go    ends a step and its session if the client closes its connection
//	deliver.go         waits until the kernel has sent what it got
//	drain.go           ends all sessions
//	pressure.go        ends sessions when the kernel buffers too much for them
//	overload.go        closes clients when descriptors or places are short
//	server.go          what sessions share
//	refusals.go        the last refusals
//	rulemetrics.go     series of the rules in force
//	table.go           sessions and generations
//	limitrefusals.go   the limits that have refused sessions, and who held them
//	metrics.go         for Prometheus
//	negotiators.go     sessions before their request
//	state.go           the fields of a session
//	verdict.go         what limits that only report would have refused
//	generation.go      a policy and its sessions
//	sockets.go         what is closed when a session ends
//	clientio.go        reads without waiting, peeks
//	spare.go           a descriptor in reserve
//	outcome.go         errors become replies and reasons
//
// If the limit of a rule is full, no later rule is asked.
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
