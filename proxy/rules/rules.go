// Package rules reads Dante's rule file into an immutable Set and answers
// which rule first matches a query. It is pure: no DNS, clock, log, network.
package rules

import (
	"fmt"
	"net/netip"
	"time"
)

// Pos is a place in the rule file. Line and Col count from 1.
type Pos struct {
	File      string
	Line, Col int
}

func (p Pos) String() string { return fmt.Sprintf("%s:%d:%d", p.File, p.Line, p.Col) }

// Severity tells an error, which refuses the file, from a warning.
type Severity int

const (
	Error Severity = iota
	Warning
)

// Diagnostic is one finding about the text: what is wrong, and the remedy.
type Diagnostic struct {
	Pos      Pos
	Severity Severity
	Message  string
	Remedy   string
}

// String returns file:line:col: what, and the remedy.
func (d Diagnostic) String() string { return d.Pos.String() + ": " + d.Message + "; " + d.Remedy }

// Command is what a rule or a query speaks of.
type Command uint8

const (
	Connect Command = iota
	Bind
	UDPAssociate
	BindReply
	UDPReply
)

// Method is an authentication method.
type Method uint8

const (
	None     Method = iota // no authentication
	Username               // RFC 1929
)

// Version is the SOCKS version that a client speaks.
type Version uint8

const (
	SOCKS4 Version = 4
	SOCKS5 Version = 5
)

// Target is what a client asked for: a name or an address.
type Target struct {
	Name string // without a final dot; "" if Addr is set
	Addr netip.Addr
	Port uint16
}

// Query is one question to a Set. Fields below the line are for socks-rules.
type Query struct {
	From netip.AddrPort
	To   Target

	Addrs   []netip.Addr // all addresses of To.Name, in resolver order
	Command Command
	Version Version
	Method  Method
	User    string
	// InGroup reports whether User is in a group; nil means in none.
	InGroup func(group string) bool
	// Lookup resolves a name that a rule mentions; it is called only if the
	// walk reaches such a rule. nil means no name resolves.
	Lookup func(name string) []netip.Addr
}

// Verdict is the answer: the rule that matched first, nil if none did (which
// blocks), and the addresses of the target that this rule allows to be dialled.
type Verdict struct {
	Rule  *Rule
	Addrs []netip.Addr
}

// Pass reports whether the verdict lets the session pass.
func (v Verdict) Pass() bool { return v.Rule != nil && v.Rule.Pass }

// Session is what a rule limits.
type Session struct {
	Limited     bool  // maxsessions or session.max was given, in a rule that passes
	Max         int64 // sessions at a time, >= 0
	Inheritable bool  // client-rule: the slot may stay for the session's life
}

// Log says what of a session a rule wants logged: Connect, a line when it is
// connected. The line at its end, which has its error, is always written, so that
// Disconnect and Error ask for nothing more. Data, IOOp and TCPInfo have no
// effect, and a warning says so.
type Log struct{ Connect, Disconnect, Data, Error, IOOp, TCPInfo bool }

// Timeouts of a rule, inherited from the server settings where it says nothing. 0 is never.
type Timeouts struct {
	Negotiate, Connect, IO time.Duration // IO is that for TCP
	IOUDP                  time.Duration
}

// Rule is one block of the file. It is not changed after Parse.
type Rule struct {
	Pos      Pos
	Client   bool // a client-rule, else a socks-rule
	Number   int  // from 1, among the rules of its kind
	Pass     bool
	Methods  []Method // empty: the server's list applies
	Session  Session
	Log      Log
	Timeouts Timeouts
	// MethodsAt, UserAt and GroupAt are where socksmethod:, user: and group: stand;
	// Line is 0 where they do not.
	MethodsAt, UserAt, GroupAt Pos

	cond condition // what is matched
}

// ID names a rule within its Set: c1, c2 … and s1, s2 …
func (r *Rule) ID() string {
	if r.Client {
		return fmt.Sprintf("c%d", r.Number)
	}
	return fmt.Sprintf("s%d", r.Number)
}

// Endpoint is an address of the server settings.
type Endpoint struct {
	Pos       Pos
	Addr      netip.Addr // invalid if Interface is set
	Interface string
	Port      uint16 // internal only; 1080 if not given
}

// Settings are the server's own, before the first rule.
type Settings struct {
	Internal  []Endpoint
	External  []Endpoint
	Methods   []Method // socksmethod, in order of preference; nil if not given
	MethodsAt Pos      // where it stands; Line is 0 if it does not
	LogOutput []string // logoutput: stderr, stdout, syslog[/facility] or a file
	ErrorLog  []string
	Timeouts  Timeouts
}

// Set is an immutable, parsed rule file.
type Set struct {
	Settings Settings
	Client   []*Rule
	Socks    []*Rule

	digest string
}
