package rules

import (
	"bytes"
	"slices"
)

// finishRule checks the keywords of a rule against each other and adds it to its list.
func (p *parser) finishRule() {
	r := p.rule
	for _, name := range []string{"from", "to"} {
		if _, given := p.seen[name]; !given {
			p.fail(r.Pos, "the rule has no %s:; add %s: and an address", name, name)
		}
	}
	p.checkCommands()
	p.checkReplies()
	p.checkVersion()
	p.checkSession()
	p.checkMethods()
	p.checkNames()
	p.checkNamedAddresses()
	sortSet(&r.cond.users)
	sortSet(&r.cond.groups)
	list := &p.set.Socks
	if r.Client {
		list = &p.set.Client
	}
	*list = append(*list, r)
	r.Number = len(*list)
}

func sortSet(names *[]string) {
	slices.Sort(*names)
	*names = slices.Compact(*names)
}

// checkCommands joins command: and protocol:. As in Dante, the commands of a
// protocol that is not enabled are dropped with a warning.
func (p *parser) checkCommands() {
	r := p.rule
	if r.Client {
		return
	}
	commands, protocols := p.commands, p.protocols
	if commands == 0 {
		commands = allCommands
	}
	if protocols == 0 {
		protocols = allCommands
	}
	r.cond.commands = commands & protocols
	if p.commands&^protocols != 0 {
		p.warn(p.firstPos("command", "protocol"), "command: has commands that protocol: excludes, and the rule does not match those; "+
			"remove them from command:, or add their protocol")
	}
	if k, given := p.seen["udp.portrange"]; given && (!r.Pass || !r.cond.commands.has(UDPAssociate)) {
		p.warn(k.pos, "udp.portrange: has no effect in a rule that does not pass udpassociate; remove the line")
	}
	switch {
	case r.cond.versions == 0:
		r.cond.versions = allVersions
	case r.cond.versions != otherProxy:
		r.cond.versions &^= otherProxy
	}
}

// checkReplies warns of keywords without effect in a rule for replies alone.
// Another rule let the session begin, and that one has these keywords.
func (p *parser) checkReplies() {
	r := p.rule
	if r.Client || !r.Pass || r.cond.commands == 0 || r.cond.commands&^replyCommands != 0 {
		return
	}
	idle := []string{"timeout.connect", "timeout.io.udp"}
	if !r.cond.commands.has(BindReply) {
		idle = append(idle, "timeout.io", "timeout.io.tcp")
		for _, side := range []string{"internal.", "external."} {
			idle = append(idle, side+"socket.so_keepalive", side+"tcp.tcp_keepidle", side+"tcp.tcp_keepintvl", side+"tcp.tcp_keepcnt")
		}
		if r.Log.Connect {
			idle = append(idle, "log")
		}
	}
	for _, name := range idle {
		if k, given := p.seen[name]; given {
			p.warn(k.pos, "%s: has no effect in a rule for replies alone; move it to the rule that passes the request", name)
		}
	}
}

// checkVersion finds rules for SOCKS 4 alone that never match, because they or
// the server settings demand UDP or a login. SOCKS 4 has neither.
func (p *parser) checkVersion() {
	r := p.rule
	if !r.OnlySocks4() || r.cond.commands == 0 {
		return
	}
	at := p.firstPos("proxyprotocol")
	named := len(r.cond.users)+len(r.cond.groups) > 0
	server := p.set.Settings.Methods
	switch {
	case r.cond.commands&^udpCommands == 0:
		p.warn(at, "SOCKS 4 has no UDP, so this rule never matches; add socks_v5 to proxyprotocol:, or remove the rule")
	case !r.requested() && named: // replies have no name, which is said elsewhere
	case named && !r.Pass:
		p.warn(at, "SOCKS 4 has no user names, so this rule blocks nobody; add socks_v5 to proxyprotocol:, or remove the rule")
	case named, r.requested() && len(r.Methods) > 0 && !slices.Contains(r.Methods, None):
		p.warn(at, "SOCKS 4 has no authentication, so this rule matches no request; add socks_v5 to proxyprotocol:, or remove the rule")
	case r.Pass && server != nil && !slices.Contains(server, None):
		p.warn(at, "SOCKS 4 has no authentication, but socksmethod: in the server settings demands it, so this rule never matches; add socks_v5 to proxyprotocol:, or remove the rule")
	}
}

// offerUsername is the remedy where the server offers none alone. After none, username
// would never be asked for.
const offerUsername = "set USHER_USERS_FILE and write socksmethod: username none in the server settings"

func (p *parser) checkMethods() {
	server := p.set.Settings.Methods
	if server == nil {
		return // the server chooses when it starts, by whether it has a users file
	}
	for _, m := range p.methods {
		switch {
		case slices.Contains(server, Method(m.value)):
		case Method(m.value) == None: // if the server offered it, all other rules would pass clients without a login
			p.fail(m.token.pos, "none is not among the server's methods, so every client must log in; write socksmethod: username here")
		default:
			p.fail(m.token.pos, "%s is not among the server's methods; "+offerUsername, m.token.text)
		}
	}
}

// checkNames checks that clients can log in where user: or group: is given.
func (p *parser) checkNames() {
	r := p.rule
	if len(r.cond.users)+len(r.cond.groups) == 0 {
		return
	}
	at := p.firstPos("user", "group")
	if r.cond.commands&^replyCommands == 0 && r.cond.commands != 0 {
		p.fail(at, "replies have no user, so a rule for replies alone cannot ask for one; remove user: and group: from it")
		return
	}
	methods := r.Methods
	if _, given := p.seen["socksmethod"]; !given {
		methods = p.set.Settings.Methods
	}
	switch {
	case slices.Contains(r.Methods, None):
		p.fail(at, "user: and group: need a login, but this rule says socksmethod: none; write socksmethod: username in this rule")
	case r.OnlySocks4(): // checkVersion has warned
	case methods != nil && !slices.Contains(methods, Username) && !r.Pass:
		p.warn(at, "no client can log in, so this rule blocks nobody; "+offerUsername)
	case methods != nil && !slices.Contains(methods, Username):
		p.warn(at, "no client can log in, so this rule never matches; "+offerUsername)
	}
}

// checkNamedAddresses warns of .domain where it cannot match. Usher does not look
// addresses up backwards, because the owner of an address could answer with any
// name. It also warns of names in rules that block: the owner of a name chooses
// its addresses.
func (p *parser) checkNamedAddresses() {
	r := p.rule
	const why = "a .domain matches names, but this is always an address"
	for _, name := range []string{"from", "to"} {
		e := r.cond.from
		if name == "to" {
			e = r.cond.to
		}
		at := p.seen[name].pos
		switch always := name == "from" || r.Client; {
		case e.kind == hostAddress && !r.Pass:
			p.warn(at, "%s: %s blocks only the addresses that it has at the moment for the resolver of this machine, "+
				"and none while it does not resolve; block the addresses as well", name, e.name)
		case e.kind != suffixAddress:
		case always && r.Pass:
			p.warn(at, "%s: %s, so the rule never matches; write addresses", name, why)
		case always:
			p.fail(at, "%s: %s, so the rule would block nothing; write addresses", name, why)
		case !r.Pass:
			p.warn(at, "to: .%s blocks names, not the addresses behind them; block the addresses as well", e.name)
		}
	}
}

// first returns the first of names that the settings or this rule have.
func (p *parser) first(names ...string) (token, bool) {
	for _, name := range names {
		if k, ok := p.seen[name]; ok {
			return k, true
		}
	}
	return token{}, false
}

// firstPos is the position of that keyword, else the rule's.
func (p *parser) firstPos(names ...string) Pos {
	if k, ok := p.first(names...); ok {
		return k.pos
	}
	return p.rule.Pos
}

// checkFile checks the file as a whole. It does nothing after an error: a rule that
// seems to be missing may be one that could not be read.
func (p *parser) checkFile(start Pos, text []byte) {
	s := p.set
	if slices.ContainsFunc(p.diags, func(d Diagnostic) bool { return d.Severity == Error }) {
		return
	}
	p.selectsNothing("internal.protocol", "internal", s.Settings.Internal)
	p.selectsNothing("external.protocol", "external", s.Settings.External)
	p.selectsNothing("external.rotation", "external", s.Settings.External)
	switch {
	case len(p.seen) == 0 && !p.ruleSeen():
		what := "is empty"
		if bytes.ContainsRune(text, '#') {
			what = "holds only comments"
		}
		p.fail(start, "the file %s; write at least one client-rule and one socks-rule that pass", what)
	case !slices.ContainsFunc(s.Client, func(r *Rule) bool { return r.Pass }):
		p.warn(p.peek().pos, "no client-rule passes, so every connection is closed; add a client pass rule for the networks of your clients")
	case !slices.ContainsFunc(s.Socks, func(r *Rule) bool { return r.Pass }):
		p.warn(p.peek().pos, "no socks-rule passes, so every request is refused; add a socks pass rule for what your clients may reach")
	}
}

// selectsNothing warns of a setting that selects among addresses, if there are none.
func (p *parser) selectsNothing(name, addresses string, list []Endpoint) {
	if k, given := p.settings[name]; given && len(list) == 0 {
		p.warn(k.pos, "%s: has no effect without %s:; remove the line, or add the addresses", name, addresses)
	}
}
