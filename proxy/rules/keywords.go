package rules

import (
	"slices"
	"strings"
	"time"
)

// scope is a set of the parts of a rule file in which a keyword may stand.
type scope uint8

const (
	inSettings scope = 1 << iota
	inClient
	inSocks

	inRules    = inClient | inSocks
	everywhere = inSettings | inRules
)

func (s scope) String() string {
	switch s {
	case inSettings:
		return "the server settings"
	case inClient:
		return "a client-rule"
	case inSocks:
		return "a socks-rule"
	}
	return "a client- or socks-rule"
}

// keyword is one line of the language: it is read or refused.
type keyword struct {
	name   string // a final ".*" stands for any rest
	in     scope
	read   func(*parser, token) // consumes the values
	accept string               // accepted with this warning: why it does nothing here
	refuse string               // refused: why, and after the last "; " the remedy
	repeat bool                 // may be given again, and then adds to the values before
	is     string               // the keyword of which it is another spelling; only one of them may be given
}

// keywords is the whole language, of Dante 1.4 and the older one. Each entry decides
// what becomes of its keyword. docs/rules-reference.md has the same table for
// people, and a test compares the two.
var keywords = []keyword{
	// name, addresses and limits of a rule
	{name: "from", in: inRules, read: (*parser).readFrom},
	{name: "to", in: inRules, read: (*parser).readTo},
	{name: "rule.name", in: inRules, read: (*parser).readName},
	{name: "maxsessions", in: inRules, read: (*parser).readMaxsessions},
	{name: "session.max", in: inRules, read: (*parser).readSessionMax},
	{name: "session.inheritable", in: inClient, read: (*parser).readInheritable},
	{name: "session.mode", in: inRules, read: (*parser).readMode},
	{name: "session.pool", in: inRules, read: (*parser).readPool},
	{name: "session.throttle", in: inRules, read: (*parser).readThrottle},
	{name: "session.state.key", in: inRules, read: (*parser).readStateKey},
	{name: "session.state.key.ipv6", in: inSettings, read: (*parser).readKeyIPv6},
	{name: "session.state.key.hostindex", in: inRules, refuse: "Usher does not read host ids; write session.state.key: from to count by address"},
	{name: "session.state.max", in: inRules, read: (*parser).readStateMax},
	{name: "session.state.throttle", in: inRules, read: (*parser).readStateThrottle},

	// conditions of a rule
	{name: "command", in: inSocks, read: (*parser).readCommand, repeat: true},
	{name: "protocol", in: inSocks, read: (*parser).readProtocol, repeat: true},
	{name: "proxyprotocol", in: inSocks, read: (*parser).readProxyProtocol, repeat: true},
	{name: "user", in: inSocks, read: (*parser).readUser, repeat: true},
	{name: "group", in: inSocks, read: (*parser).readGroup, repeat: true},
	{name: "clientcompatibility", in: inRules, read: (*parser).readIdleWords, accept: "it belongs to GSSAPI, which Usher does not support"},

	// methods
	{name: "socksmethod", in: everywhere, read: (*parser).readSocksMethod},
	{name: "clientmethod", in: everywhere, read: (*parser).readClientMethod},
	{name: "method", in: inSettings | inSocks, read: (*parser).readOldSocksMethod, is: "socksmethod"},
	{name: "method", in: inClient, read: (*parser).readOldClientMethod, is: "clientmethod"},
	{name: "pam.servicename", in: everywhere, read: (*parser).readIdleWord, accept: noMethodFor},
	{name: "bsdauth.stylename", in: everywhere, read: (*parser).readIdleWord, accept: noMethodFor},
	{name: "gssapi.*", in: everywhere, read: (*parser).readIdleWords, accept: noMethodFor},
	{name: "ldap.*", in: everywhere, refuse: "Usher does not support LDAP; list the users in USHER_USERS_FILE and their groups in USHER_GROUPS_FILE"},

	// logging and time
	{name: "log", in: inRules, read: (*parser).readLog, repeat: true},
	{name: "logoutput", in: inSettings, read: (*parser).readLogOutput, repeat: true},
	{name: "errorlog", in: inSettings, read: (*parser).readErrorLog, repeat: true},
	{name: "timeout.connect", in: inSettings | inSocks, read: timeout(func(t *Timeouts, d time.Duration) { t.Connect = d })},
	{name: "timeout.negotiate", in: inSettings | inClient, read: timeout(func(t *Timeouts, d time.Duration) { t.Negotiate = d })},
	{name: "timeout.io", in: inSettings | inSocks, read: timeout(func(t *Timeouts, d time.Duration) { t.IO, t.IOUDP = d, d })},
	{name: "timeout.io.tcp", in: inSettings | inSocks, read: timeout(func(t *Timeouts, d time.Duration) { t.IO = d })},
	{name: "timeout.io.udp", in: inSettings | inSocks, read: timeout(func(t *Timeouts, d time.Duration) { t.IOUDP = d })},
	{name: "timeout.connect", in: inClient, read: (*parser).readIdleNumber, accept: ofRequests},
	{name: "timeout.io", in: inClient, read: (*parser).readIdleNumber, accept: ofRequests},
	{name: "timeout.io.tcp", in: inClient, read: (*parser).readIdleNumber, accept: ofRequests},
	{name: "timeout.io.udp", in: inClient, read: (*parser).readIdleNumber, accept: ofRequests},
	{name: "timeout.negotiate", in: inSocks, read: (*parser).readIdleNumber, accept: "the negotiation is over when Usher asks the socks-rules"},
	{name: "timeout.tcp_fin_wait", in: inSettings | inSocks, read: timeout(func(t *Timeouts, d time.Duration) { t.FinWait = d })},
	{name: "timeout.tcp_fin_wait", in: inClient, read: (*parser).readIdleNumber, accept: ofRequests},
	{name: "connecttimeout", in: inSettings, is: "timeout.connect",
		read: oldTimeout("timeout.connect", func(t *Timeouts, d time.Duration) { t.Connect = d })},
	{name: "iotimeout", in: inSettings, is: "timeout.io",
		read: oldTimeout("timeout.io", func(t *Timeouts, d time.Duration) { t.IO, t.IOUDP = d, d })},

	// connections whose peer has vanished
	{name: "internal.socket.so_keepalive", in: everywhere, read: keepAlive(1, (*KeepAlive).setOn)},
	{name: "internal.tcp.tcp_keepidle", in: everywhere, read: keepAlive(maxKeepTime, (*KeepAlive).setIdle)},
	{name: "internal.tcp.tcp_keepintvl", in: everywhere, read: keepAlive(maxKeepTime, (*KeepAlive).setInterval)},
	{name: "internal.tcp.tcp_keepcnt", in: everywhere, read: keepAlive(maxKeepCount, (*KeepAlive).setCount)},
	{name: "external.socket.so_keepalive", in: inSettings | inSocks, read: keepAlive(1, (*KeepAlive).setOn)},
	{name: "external.tcp.tcp_keepidle", in: inSettings | inSocks, read: keepAlive(maxKeepTime, (*KeepAlive).setIdle)},
	{name: "external.tcp.tcp_keepintvl", in: inSettings | inSocks, read: keepAlive(maxKeepTime, (*KeepAlive).setInterval)},
	{name: "external.tcp.tcp_keepcnt", in: inSettings | inSocks, read: keepAlive(maxKeepCount, (*KeepAlive).setCount)},
	{name: "external.socket.so_keepalive", in: inClient, read: (*parser).readIdleNumber, accept: noTarget},
	{name: "external.tcp.tcp_keepidle", in: inClient, read: (*parser).readIdleNumber, accept: noTarget},
	{name: "external.tcp.tcp_keepintvl", in: inClient, read: (*parser).readIdleNumber, accept: noTarget},
	{name: "external.tcp.tcp_keepcnt", in: inClient, read: (*parser).readIdleNumber, accept: noTarget},

	// addresses of the server
	{name: "internal", in: inSettings, read: (*parser).readInternal, repeat: true},
	{name: "external", in: inSettings, read: (*parser).readExternal, repeat: true},
	{name: "external.rotation", in: inSettings, read: (*parser).readRotation},
	{name: "internal.protocol", in: inSettings, read: (*parser).readInternalProtocol},
	{name: "external.protocol", in: inSettings, read: (*parser).readExternalProtocol},
	{name: "udp.portrange", in: inSocks, read: (*parser).readPortRange},
	{name: "udp.connectdst", in: inSettings, read: (*parser).readConnectDst},
	{name: "resolveprotocol", in: inSettings, read: (*parser).readResolve},

	// refused: without them the file would mean something else
	{name: "srchost", in: inSettings, refuse: "Usher does not look clients up in the DNS; " +
		"write the addresses of the permitted clients in from:, then remove the line"},
	{name: "compatibility", in: inSettings, read: (*parser).readCompatibility, repeat: true},
	{name: "extension", in: inSettings, read: (*parser).readExtension, accept: "Usher does not support Dante's bind extension and refuses such requests"},
	{name: "libwrap", in: inRules, refuse: noLibwrap},
	{name: "libwrap.hosts_access", in: inSettings, read: (*parser).readHostsAccess},
	{name: "libwrap.*", in: everywhere, refuse: noLibwrap},
	{name: "bandwidth", in: inRules, refuse: "Usher does not limit bandwidth; remove the line if sessions may be faster, or limit their number with session.max"},
	{name: "redirect", in: inRules, refuse: "Usher does not redirect requests; remove the line if clients may reach the target itself, or block it"},
	{name: "hostid", in: inRules, refuse: noHostIDs},
	{name: "hostindex", in: inRules, refuse: noHostIDs},

	// without effect, and harmless
	{name: "user.privileged", in: inSettings, read: (*parser).readIdleWord, accept: userIDs},
	{name: "user.unprivileged", in: inSettings, read: (*parser).readIdleWord, accept: userIDs},
	{name: "user.notprivileged", in: inSettings, read: (*parser).readIdleWord, accept: userIDs},
	{name: "user.libwrap", in: inSettings, read: (*parser).readIdleWord, accept: userIDs},
	{name: "cpu.schedule.*", in: inSettings, read: (*parser).readSchedule, accept: scheduling},
	{name: "cpu.mask.*", in: inSettings, read: (*parser).readMask, accept: scheduling},
	{name: "child.maxidle", in: inSettings, read: (*parser).readIdleWord, accept: oneProcess},
	{name: "child.maxidle.*", in: inSettings, read: (*parser).readIdleWord, accept: oneProcess},
	{name: "child.maxrequests", in: inSettings, read: (*parser).readIdleNumber, accept: oneProcess},
	{name: "socket.recvbuf.tcp", in: inSettings, read: (*parser).readIdleNumber, accept: oldBuffer},
	{name: "socket.recvbuf.udp", in: inSettings, read: (*parser).readIdleNumber, accept: oldBuffer},
	{name: "socket.sendbuf.tcp", in: inSettings, read: (*parser).readIdleNumber, accept: oldBuffer},
	{name: "socket.sendbuf.udp", in: inSettings, read: (*parser).readIdleNumber, accept: oldBuffer},
	{name: "debug", in: inSettings, read: (*parser).readIdleNumber, accept: "USHER_LOG_LEVEL sets the log level"},
	{name: "route.badexpire", in: inSettings, read: (*parser).readIdleNumber, accept: noRoutes},
	{name: "route.maxfail", in: inSettings, read: (*parser).readIdleNumber, accept: noRoutes},
	{name: "internal.log.*", in: everywhere, read: (*parser).readIdleWords, accept: extraLog},
	{name: "external.log.*", in: everywhere, read: (*parser).readIdleWords, accept: extraLog},
	{name: "internal.ip.ip_tos.*", in: everywhere, read: (*parser).readIdleWord, accept: socketOption},
	{name: "internal.ip.*", in: everywhere, read: (*parser).readIdleNumber, accept: socketOption},
	{name: "internal.socket.*", in: everywhere, read: (*parser).readIdleNumber, accept: socketOption},
	{name: "internal.tcp.*", in: everywhere, read: (*parser).readIdleNumber, accept: socketOption},
	{name: "internal.udp.*", in: everywhere, read: (*parser).readIdleNumber, accept: socketOption},
	{name: "external.ip.ip_tos.*", in: everywhere, read: (*parser).readIdleWord, accept: socketOption},
	{name: "external.ip.*", in: everywhere, read: (*parser).readIdleNumber, accept: socketOption},
	{name: "external.socket.*", in: everywhere, read: (*parser).readIdleNumber, accept: socketOption},
	{name: "external.tcp.*", in: everywhere, read: (*parser).readIdleNumber, accept: socketOption},
	{name: "external.udp.*", in: everywhere, read: (*parser).readIdleNumber, accept: socketOption},
}

const (
	noMethodFor  = "it belongs to an authentication method that Usher does not support"
	noLibwrap    = "Usher does not ask hosts.allow and hosts.deny; write the permitted addresses in from:, then remove the line"
	noHostIDs    = "Usher does not read host ids; write the clients' addresses in from: instead"
	userIDs      = "Usher keeps the user that started it"
	ofRequests   = "the socks-rule decides how long a request and its session may take"
	scheduling   = "the service manager does the scheduling"
	oneProcess   = "Usher has no child processes"
	noRoutes     = "Usher has no routes"
	extraLog     = "Usher logs errors with their session"
	socketOption = "Usher sets only keep-alive and leaves other socket options to the system"
	oldBuffer    = "it is an old keyword of Dante, and Usher leaves socket buffers to the system"
	noTarget     = "a client-rule has no connection to a target"
)

// language finds keywords by name.
type language struct {
	exact    map[string][]*keyword
	patterns []*keyword // longest first
}

func newLanguage(table []keyword) *language {
	l := &language{exact: map[string][]*keyword{}}
	for i := range table {
		k := &table[i]
		if strings.HasSuffix(k.name, ".*") {
			l.patterns = append(l.patterns, k)
		} else {
			l.exact[k.name] = append(l.exact[k.name], k)
		}
	}
	slices.SortFunc(l.patterns, func(a, b *keyword) int { return len(b.name) - len(a.name) })
	return l
}

// find returns the meanings of a name, none if it is unknown.
func (l *language) find(name string) []*keyword {
	if k := l.exact[name]; k != nil {
		return k
	}
	for _, k := range l.patterns {
		if prefix := strings.TrimSuffix(k.name, "*"); strings.HasPrefix(name, prefix) && len(name) > len(prefix) {
			return []*keyword{k}
		}
	}
	return nil
}

// refusal returns why a keyword is refused, wherever it stands, and the remedy;
// "" if it is not.
func (l *language) refusal(name string) string {
	if meanings := l.find(name); meanings != nil {
		return meanings[0].refuse // a keyword that is refused has one meaning
	}
	return ""
}

func (l *language) known(name string) bool { return l.find(name) != nil }

// names returns the keywords that may stand in one of the parts of in, sorted.
func (l *language) names(in scope) []string {
	var names []string
	for name, meanings := range l.exact {
		for _, k := range meanings {
			if k.in&in != 0 {
				names = append(names, name)
			}
		}
	}
	slices.Sort(names)
	return names
}
