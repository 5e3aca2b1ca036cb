package rules

import (
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
)

// picked is a value that was read from a list of choices.
type picked struct {
	value int
	token token
}

// list reads the words up to the end of the value list.
func (p *parser) list(k token, choices []choice) []picked {
	var all []picked
	for p.atValue() {
		t := p.take()
		i := slices.IndexFunc(choices, func(c choice) bool { return c.name == t.text })
		switch {
		case i < 0 && p.refused(t):
			p.skipToClose()
			continue
		case i < 0:
			p.notAChoice(k, t, choices)
			continue
		case choices[i].refuse != "":
			p.fail(t.pos, "%s: %s: %s", k.text, t.text, choices[i].refuse)
			continue
		case choices[i].instead != "":
			p.warn(t.pos, "%s: %s: %s", k.text, t.text, choices[i].instead)
		case choices[i].accept != "":
			p.warn(t.pos, "%s: %s: has no effect: %s", k.text, t.text, choices[i].accept)
		}
		all = append(all, picked{choices[i].value, t})
	}
	return all
}

func (p *parser) notAChoice(k, t token, choices []choice) {
	var names []string
	for _, c := range choices {
		if c.refuse == "" && c.instead == "" {
			names = append(names, c.name)
		}
	}
	if near := nearest(t.text, names); near != "" {
		p.fail(t.pos, "%s: does not accept %s; did you mean %s?", k.text, quote(t), near)
		return
	}
	p.fail(t.pos, "%s: does not accept %s; write one of %s", k.text, quote(t), strings.Join(names, ", "))
}

// one reads a single word. ok is false if it is none of the choices.
func (p *parser) one(k token, choices []choice) (value int, ok bool) {
	end := p.next + 1
	all := p.list(k, choices)
	if len(all) > 1 {
		p.fail(p.tokens[end].pos, "%s: takes one value; remove the others", k.text)
	}
	if len(all) != 1 {
		return 0, false
	}
	return all[0].value, true
}

// names reads free words up to the end of the value list: users, groups, files. It
// warns of a word that is also a keyword, whose colon may have been forgotten.
func (p *parser) names(k token) []token {
	var all []token
	for p.atValue() {
		t := p.take()
		for p.atValue() && p.peek().glued { // = and < are not special here
			t.text += p.take().text
		}
		if p.lang.known(t.text) {
			p.warn(t.pos, "%s: %s is taken for a name, but is also a keyword; write %s: with a colon if you mean the keyword", k.text, quote(t), t.text)
		}
		all = append(all, t)
	}
	return all
}

// number reads one number: decimal, 0x hexadecimal, or octal with a leading 0, as Dante's.
func (p *parser) number(k token, least, most int64) (n int64, ok bool) {
	t := p.take()
	n, ok = parseNumber(t.text)
	switch {
	case !ok:
		p.fail(t.pos, "%s: %s is not a number; write a number from %d to %d", k.text, quote(t), least, most)
	case n < least || n > most:
		p.fail(t.pos, "%s: %s is out of range; write a number from %d to %d", k.text, t.text, least, most)
		ok = false
	}
	return n, ok
}

// parseNumber returns math.MaxInt64 for a number that is larger.
func parseNumber(s string) (n int64, ok bool) {
	digits := strings.TrimPrefix(strings.TrimPrefix(s, "0x"), "0X")
	if s == "" || strings.Trim(digits, "0123456789abcdefABCDEF") != "" {
		return 0, false // no sign, no underscore, none of Go's other prefixes
	}
	if len(digits) == len(s) && strings.Trim(digits, "0123456789") != "" {
		return 0, false // 0b1
	}
	n, err := strconv.ParseInt(s, 0, 64)
	return n, err == nil || n == math.MaxInt64
}

func (p *parser) readCommand(k token) {
	for _, c := range p.list(k, commandChoices) {
		p.commands |= 1 << c.value
	}
}

func (p *parser) readProtocol(k token) {
	for _, c := range p.list(k, protocolChoices) {
		p.protocols |= commandSet(c.value)
	}
}

func (p *parser) readProxyProtocol(k token) {
	for _, c := range p.list(k, proxyProtocolChoices) {
		p.rule.cond.versions |= versionSet(c.value)
	}
}

func (p *parser) readUser(k token) {
	p.rule.UserAt = p.firstPos("user")
	p.rule.cond.users = append(p.rule.cond.users, p.accounts(k)...)
}

func (p *parser) readGroup(k token) {
	p.rule.GroupAt = p.firstPos("group")
	p.rule.cond.groups = append(p.rule.cond.groups, p.accounts(k)...)
}

// accounts reads names of users or groups.
func (p *parser) accounts(k token) []string {
	var names []string
	for _, t := range p.names(k) {
		if strings.ContainsAny(t.text, ":,") {
			p.fail(t.pos, "%s: %s contains a colon or a comma; separate names by blanks", k.text, quote(t))
			continue
		}
		names = append(names, t.text)
	}
	return names
}

func (p *parser) readSocksMethod(k token) {
	all := p.list(k, methodChoices)
	var methods []Method
	for _, m := range all {
		switch method := Method(m.value); {
		case slices.Contains(methods, method):
			p.warn(m.token.pos, "%s: %s repeats a method before it; remove it", k.text, m.token.text)
		default:
			methods = append(methods, method)
		}
	}
	if i := slices.Index(methods, None); i >= 0 && i < len(methods)-1 {
		p.warn(all[0].token.pos, "%s: none comes before other methods, so a client that offers both is never asked for a password; put none last", k.text)
	}
	if p.in == inSettings {
		p.set.Settings.Methods, p.set.Settings.MethodsAt = methods, k.pos
		return
	}
	p.rule.Methods, p.rule.MethodsAt, p.methods = methods, k.pos, all
}

func (p *parser) readClientMethod(k token) { p.list(k, clientMethodChoices) }

func (p *parser) readOldSocksMethod(k token) {
	p.warn(k.pos, "method: is the old name of socksmethod:; write socksmethod:")
	p.readSocksMethod(k)
}

func (p *parser) readOldClientMethod(k token) {
	p.warn(k.pos, "method: in a client-rule is the old name of clientmethod:; write clientmethod:, or socksmethod: if that is meant")
	p.readClientMethod(k)
}

const (
	logConnect = iota
	logDisconnect
	logData
	logError
	logIOOp
	logTCPInfo
)

func (p *parser) readLog(k token) {
	for _, v := range p.list(k, logChoices) {
		*p.rule.Log.flags()[v.value] = true
	}
}

// flags returns the fields in the order of the constants above.
func (l *Log) flags() [6]*bool {
	return [6]*bool{&l.Connect, &l.Disconnect, &l.Data, &l.Error, &l.IOOp, &l.TCPInfo}
}

func (p *parser) readLogOutput(k token) {
	p.set.Settings.LogOutputAt = p.firstPos("logoutput")
	p.set.Settings.LogOutput = append(p.set.Settings.LogOutput, p.logTargets(k)...)
}

func (p *parser) readErrorLog(k token) {
	p.set.Settings.ErrorLogAt = p.firstPos("errorlog")
	p.set.Settings.ErrorLog = append(p.set.Settings.ErrorLog, p.logTargets(k)...)
}

// logTargets reads where log lines go.
func (p *parser) logTargets(k token) []string {
	var names []string
	for _, t := range p.names(k) {
		if t.text == "syslog" || strings.HasPrefix(t.text, "syslog/") {
			p.warn(t.pos, "%s: %s: Usher writes to stderr instead of the system log; "+
				"write stderr, which a service manager passes on, or a file", k.text, t.text)
		}
		names = append(names, t.text)
	}
	return names
}

func (p *parser) readResolve(k token)       { p.one(k, resolveChoices) }
func (p *parser) readHostsAccess(k token)   { p.one(k, hostsAccessChoices) }
func (p *parser) readCompatibility(k token) { p.list(k, compatibilityChoices) }

// Values of keywords without effect are checked, too. A word that is no value is
// reported: it may be the keyword of a line whose colon was forgotten.

func (p *parser) readIdleNumber(k token) { p.number(k, 0, math.MaxInt32) }
func (p *parser) readExtension(k token)  { p.list(k, extensionChoices) }

func (p *parser) readIdleWord(token) {
	if p.peek().kind == tokenWord {
		p.take()
	}
}

func (p *parser) readIdleWords(token) {
	for t := p.peek(); t.kind == tokenWord && !p.lang.known(t.text); t = p.peek() {
		p.take()
	}
}

// readMask reads any, or the numbers of processors.
func (p *parser) readMask(k token) {
	if p.peek().text == "any" {
		p.take()
		return
	}
	for p.atValue() {
		if _, ok := p.number(k, 0, math.MaxUint16); !ok {
			p.skipValues()
		}
	}
}

// readSchedule reads a policy and a priority.
func (p *parser) readSchedule(k token) {
	t := p.take()
	policy, priority, _ := strings.Cut(p.joined(t, '/'), "/")
	if _, ok := parseNumber(priority); !ok || policy == "" {
		p.fail(t.pos, "%s: needs a policy and a priority; write them as in fifo/10", k.text)
		p.skipValues()
	}
}

// timeout returns a reader of seconds for the settings or a rule. 0 means no time
// limit.
func timeout(set func(*Timeouts, time.Duration)) func(*parser, token) {
	return func(p *parser, k token) {
		seconds, ok := p.number(k, 0, math.MaxInt32)
		if !ok {
			return
		}
		t := &p.set.Settings.Timeouts
		if p.in != inSettings {
			t = &p.rule.Timeouts
		}
		set(t, time.Duration(seconds)*time.Second)
	}
}

func oldTimeout(name string, set func(*Timeouts, time.Duration)) func(*parser, token) {
	read := timeout(set)
	return func(p *parser, k token) {
		p.warn(k.pos, "%s: is the old name of %s:; write %s:", k.text, name, name)
		read(p, k)
	}
}
