// Package rules reads Dante's rule file into an immutable Set, and finds the first
// rule that matches a query. It is pure: it uses no DNS, clock, log or network.
package rules

import (
	"cmp"
	"fmt"
	"net/netip"
	"strconv"
	"time"

	"usher/store/limit"
)

// Pos is a location in the rule file. Line and Col count from 1.
type Pos struct {
	File      string
	Line, Col int
}

func (p Pos) String() string { return fmt.Sprintf("%s:%d:%d", p.File, p.Line, p.Col) }

// compare orders the locations in one file.
func (p Pos) compare(q Pos) int {
	return cmp.Or(cmp.Compare(p.Line, q.Line), cmp.Compare(p.Col, q.Col))
}

// Command is a SOCKS command, or the answer to one, that a rule or a query is about.
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
	Name string // a final dot does not count; "" if Addr is set
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

// Session is the limit of a rule. The zero value limits nothing.
type Session struct {
	// Limited says that any keyword below was given, in a rule that passes: a
	// socks-rule then has a slot of its own and inherits none.
	Limited bool
	// Pool is session.pool: the limits are those of the pool, and hold for the sessions
	// of all its rules together, in all generations. "" is the rule's own.
	Pool        string
	Max         int64      // maxsessions, session.max: sessions at a time, >= 0; limit.None if not given
	Throttle    limit.Rate // session.throttle
	Key         Key        // session.state.key: what KeyMax and KeyThrottle count one by one
	KeyMax      int64      // session.state.max; 0 if not given
	KeyThrottle limit.Rate // session.state.throttle
	Inheritable bool       // client-rule: the slot may stay for the session's life
	// Report is session.mode: report. The limits refuse nobody. Sessions that they would
	// have refused are admitted, counted and logged.
	Report bool
}

// Key says what a rule counts separately.
type Key uint8

const (
	NoKey   Key = iota
	KeyFrom     // the client's address, of IPv6 its network, see Settings.KeyIPv6
	KeyUser     // the user; clients without a name count as one
)

// Log is the log: line of a rule. Connect asks for a line when a session is
// connected. Disconnect and Error ask for nothing more, because the line at the end
// of a session, with its error, is always written. Data, IOOp and TCPInfo have no
// effect, and a warning says so.
type Log struct{ Connect, Disconnect, Data, Error, IOOp, TCPInfo bool }

// Timeouts of a rule. What the rule does not set, it inherits from the server settings.
// 0 means no time limit.
type Timeouts struct {
	Negotiate, Connect, IO time.Duration // IO is that for TCP
	IOUDP                  time.Duration
	FinWait                time.Duration // that for TCP once one direction has ended
}

// PortRange is a range of ports from Lo to Hi, both inclusive. The zero value is no
// range.
type PortRange struct{ Lo, Hi uint16 }

// KeepAlive is how TCP notices that a peer has vanished: {internal,external}.
// socket.so_keepalive and .tcp.tcp_keepidle, tcp_keepintvl, tcp_keepcnt.
type KeepAlive struct {
	On             bool
	Idle, Interval time.Duration // of silence before the first probe, and between two; whole seconds
	Count          int           // probes without an answer that end the connection
	given          keepOptions   // which of these the text gives, even if with the default
}

// KeepAlives are the keep-alive options towards clients and towards targets. What a
// rule does not set, it inherits from the server settings.
type KeepAlives struct{ Internal, External KeepAlive }

// Rule is one block of the file. It is not changed after Parse.
type Rule struct {
	Pos      Pos
	Client   bool   // a client-rule, else a socks-rule
	Number   int    // from 1, among the rules of its kind
	Name     string // rule.name; "" if not given
	Pass     bool
	Methods  []Method // empty: the server's list applies
	Session  Session
	Log      Log
	Timeouts Timeouts
	// KeepAlives are in force from when the rule let the session in.
	KeepAlives KeepAlives
	// UDPPorts are the ports of the UDP socket that clients of this rule send to
	// (udp.portrange); the zero value means any.
	UDPPorts PortRange
	// MethodsAt, UserAt, GroupAt and KeyAt are where socksmethod:, user:, group: and
	// session.state.key: stand; Line is 0 where they do not.
	MethodsAt, UserAt, GroupAt, KeyAt Pos

	cond       condition // what is matched
	label      string    // see Label
	maxKeyword string    // maxsessions or session.max, whichever is given
}

// ID is the position of a rule within its Set: c1, c2 … and s1, s2 …
func (r *Rule) ID() string {
	if r.Client {
		return "c" + strconv.Itoa(r.Number)
	}
	return "s" + strconv.Itoa(r.Number)
}

// At is where the rule stands: file:line.
func (r *Rule) At() string { return r.Pos.File + ":" + strconv.Itoa(r.Pos.Line) }

// Commands returns the commands that a socks-rule matches; a client-rule has none.
func (r *Rule) Commands() (list []Command) {
	for c := Connect; c <= UDPReply; c++ {
		if !r.Client && r.cond.commands.has(c) {
			list = append(list, c)
		}
	}
	return list
}

// OnlySocks4 reports whether r matches SOCKS 4 alone, which has no user names.
func (r *Rule) OnlySocks4() bool { return r.cond.versions == socks4 }

// NamesPorts reports whether to: names the ports that it matches, one or a range.
func (r *Rule) NamesPorts() bool { return r.cond.to.restricted && !r.cond.to.not }

// Groups returns the names in group:, sorted. Do not change them.
func (r *Rule) Groups() []string { return r.cond.groups }

// Rotation says how Usher chooses among the external: addresses.
type Rotation uint8

const (
	// RotationNone takes the first address of the target's family.
	RotationNone Rotation = iota
	// RotationSameSame takes the address at which the client was accepted.
	RotationSameSame
	// RotationRoute takes the source address of the system's route to the target.
	RotationRoute
)

// Families is a set of address families; the zero value holds both.
type Families uint8

const (
	IPv4 Families = 1 << iota
	IPv6
)

// Has reports whether an address is of one of the families.
func (f Families) Has(a netip.Addr) bool {
	return f == 0 || a.Unmap().Is4() && f&IPv4 != 0 || !a.Unmap().Is4() && f&IPv6 != 0
}

// Endpoint is an address of the server settings.
type Endpoint struct {
	Pos       Pos
	Addr      netip.Addr // invalid if Interface is set
	Interface string
	Families  Families // which of the interface's addresses are meant (internal.protocol, external.protocol)
	Port      uint16   // internal only; 1080 if not given
}

// Settings are the server's own, before the first rule.
type Settings struct {
	Internal  []Endpoint
	External  []Endpoint
	Methods   []Method // socksmethod, in order of preference; nil if not given
	MethodsAt Pos      // where it stands; Line is 0 if it does not
	LogOutput []string // logoutput: stderr, stdout, syslog[/facility] or a file
	ErrorLog  []string
	// LogOutputAt and ErrorLogAt are where they first stand; Line is 0 if they do not.
	LogOutputAt, ErrorLogAt Pos
	KeepAlives              KeepAlives
	Timeouts                Timeouts
	Rotation                Rotation // external.rotation
	// KeyIPv6 is how many leading bits of a client's IPv6 address
	// session.state.key: from counts by (session.state.key.ipv6; 1 to 128).
	KeyIPv6 int
	// ConnectDst says that a client gets datagrams only from peers to which it has
	// sent (udp.connectdst; yes if not given).
	ConnectDst bool
}

// Set is an immutable, parsed rule file.
type Set struct {
	Settings Settings
	Client   []*Rule
	Socks    []*Rule

	digest  string
	leaving Families         // of the addresses that connections and datagrams leave from
	clients *index           // over Client
	socks   [allKinds]*index // over Socks, one for each kind of query

	unresolved *index // over those of Socks that CouldPass asks
}
