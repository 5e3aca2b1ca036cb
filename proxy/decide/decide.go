// Package decide makes all decisions about a session, in their order. The server
// asks it step by step, usher explain asks it all at once, so both give the same
// answer. It does no IO: callers pass functions that look up names, ask the system for
// routes, and bind a socket.
//
// The order for a TCP connection from a client:
//
//	client-rule    Client       no match or block: closed without a byte
//	               (a slot of its limit)
//	method         Methods      the server's order decides among what the client offers
//	request        Connect, Bind or Associate
//	               (a slot of the socks-rule's limit, or the client-rule's: Inherits)
//
// CONNECT asks, in this order (Connect):
//
//   - Has the target a port and an address?
//   - Could a rule pass its name, if it had the right address? If not, nobody looks
//     the name up.
//   - Does the name resolve?
//   - Does a socks-rule pass it?
//
// Then, for each address that the rule matched (Reach): is it one of the proxy's own?
// Which address does the proxy connect from?
//
// BIND asks (Bind):
//
//   - Could a rule pass BIND for the peer, if that is a name?
//   - Does the name resolve?
//   - Where does the proxy await the peer, and does a socks-rule pass that address?
//
// When the peer has come: is it the announced one, and does a rule for
// bindreply pass it (BindReply), which may take over the session's slot
// (TakesOver).
//
// UDP ASSOCIATE: does a socks-rule pass the request (Associate); then for each
// datagram of the client what CONNECT asks (Datagram), and Reach for each address;
// and for each datagram of a peer: does a rule for udpreply pass it (UDPReply).
//
// A full limit is a verdict: no later rule is asked.
package decide

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"usher/proxy/rules"
)

// Policy is what decisions depend on for all sessions of one generation. It
// must not change.
type Policy struct {
	Rules *rules.Set
	// External are the addresses to connect from (Dante's external:). Empty:
	// the system chooses.
	External []netip.Addr
	// Logins says that clients can log in. Without it, the method username is never
	// offered.
	Logins bool
}

// Machine is what decisions ask the system. Bind and Reach need it.
type Machine struct {
	// Own reports whether what is sent to an address arrives at a socket of
	// this server, see selfaddr.Reaches.
	Own func(to netip.AddrPort) bool
	// Toward returns the address from which the system would connect to
	// another one, see selfaddr.Toward.
	Toward func(to netip.Addr) (netip.Addr, error)
}

// Session is what decisions depend on for one session. A field must be set
// before the first step that needs it; concurrent calls may share a Session
// that nobody changes.
type Session struct {
	Policy  *Policy
	Machine Machine

	// From is the client, and To the address that it connected to. A PROXY
	// header says both, if there is one.
	From, To netip.AddrPort
	// Local is the address of this machine at which the client's connection
	// arrived, and Zone that of its interface if it is link-local.
	Local netip.Addr
	Zone  string

	// What the client negotiated. InGroup reports whether User is in a group;
	// nil: in none.
	Version rules.Version
	Method  rules.Method
	User    string
	InGroup func(group string) bool

	// Trace, if not nil, gets the result of each rule that was asked, once for each
	// walk over the rules. Matching is slower with it.
	Trace func([]rules.Step)
}

// Why a session or a datagram is refused. The table in proxy/outcome.go says what the
// client gets.
var (
	ErrBlocked    = errors.New("blocked by the rules")
	ErrMethod     = errors.New("the client offers no method that the rules allow")
	ErrTarget     = errors.New("no address or port to connect to")
	ErrSelf       = errors.New("the target is this proxy itself")
	ErrUnresolved = errors.New("the name does not resolve")
	ErrNoExternal = errors.New("no external: address of the target's family")
	ErrNoRoute    = errors.New("external.rotation gives no external: address")
	ErrPeer       = errors.New("the peer is not the one that was announced")

	// ErrBlockedName is an ErrBlocked for a name that was looked up. The client gets
	// the same reply as for a name that does not resolve. Otherwise it could list the
	// names of targets that it may not reach.
	ErrBlockedName = fmt.Errorf("%w at the addresses of its name", ErrBlocked)
)

// Inherits reports whether a session that a socks-rule passed keeps the slot
// of its client-rule to its end. If not, it gives that slot back before it
// takes one of the socks-rule's.
func Inherits(client, request *rules.Rule) bool {
	return !request.Session.Limited && client.Session.Inheritable
}

// SharesPool reports whether two rules count in one pool. A session that the second
// takes over from the first keeps its slot.
func SharesPool(first, second *rules.Rule) bool {
	return first.Session.Pool != "" && first.Session.Pool == second.Session.Pool
}

// TakesOver reports whether a rule that passed the peer of BIND takes the
// session over from the rule that passed the request: it has a limit of its
// own. The session then gives its slot back and needs one of the new rule's.
func TakesOver(request, reply *rules.Rule) bool {
	return reply != request && reply.Session.Limited
}

// Methods returns the methods that a client may use after a client-rule has let it in,
// in the server's order of preference. A health check that no rule lets in (nil, or one
// that blocks) gets those of the settings. Without a socksmethod line, the only method
// is username if there are users, else none. With none, the proxy would be open in
// spite of the users file.
func (p *Policy) Methods(client *rules.Rule) []rules.Method {
	if client != nil && !client.Pass {
		client = nil
	}
	given := len(p.Rules.Settings.Methods) > 0 || client != nil && len(client.Methods) > 0
	switch {
	case given && p.Logins:
		return p.Rules.MethodsFor(client)
	case given:
		return slices.DeleteFunc(slices.Clone(p.Rules.MethodsFor(client)), func(m rules.Method) bool { return m == rules.Username })
	case p.Logins:
		return []rules.Method{rules.Username}
	}
	return []rules.Method{rules.None}
}

// Allows reports whether a client that client let in may use the method m.
func (p *Policy) Allows(client *rules.Rule, m rules.Method) bool {
	return slices.Contains(p.Methods(client), m)
}

// Choose returns the first of the methods that the client offers. A SOCKS 4 client
// offers only none, so it cannot avoid a password that the methods require. The error
// is ErrMethod.
func Choose(methods []rules.Method, offers func(rules.Method) bool) (rules.Method, error) {
	for _, m := range methods {
		if offers(m) {
			return m, nil
		}
	}
	return rules.None, ErrMethod
}
