package rules

import (
	"math"
	"strings"
	"time"

	"usher/store/limit"
)

// maxSessions bounds a limit and the seconds of a rate. It is far above the number
// of sessions that a process can hold.
const maxSessions = math.MaxInt32

func (p *parser) readMaxsessions(k token) {
	p.maximum(k, 0)
}

func (p *parser) readSessionMax(k token) {
	p.maximum(k, 1)
}

func (p *parser) maximum(k token, least int64) {
	p.sessionKeyword(k)
	if n, ok := p.number(k, least, maxSessions); ok {
		p.session.Max, p.rule.maxKeyword = n, k.text
	}
}

func (p *parser) readThrottle(k token) {
	p.sessionKeyword(k)
	p.session.Throttle = p.rate(k)
}

func (p *parser) readInheritable(k token) {
	p.sessionKeyword(k)
	yes, ok := p.one(k, yesNoChoices)
	p.session.Inheritable = !ok || yes == 1
}

func (p *parser) readMode(k token) {
	p.sessionKeyword(k)
	mode, ok := p.one(k, modeChoices)
	p.session.Report = ok && mode == 1
}

func (p *parser) readStateKey(k token) {
	p.sessionKeyword(k)
	choices := stateKeyChoices
	if p.in == inClient {
		choices = clientStateKeyChoices
	}
	key, _ := p.one(k, choices)
	p.session.Key, p.rule.KeyAt = Key(key), k.pos
}

func (p *parser) readKeyIPv6(k token) {
	if n, ok := p.number(k, 1, 128); ok {
		p.set.Settings.KeyIPv6 = int(n)
	}
}

func (p *parser) readStateMax(k token) {
	p.sessionKeyword(k)
	p.session.KeyMax, _ = p.number(k, 1, maxSessions)
}

func (p *parser) readStateThrottle(k token) {
	p.sessionKeyword(k)
	p.session.KeyThrottle = p.rate(k)
}

func (p *parser) sessionKeyword(k token) {
	if !p.rule.Pass {
		p.warn(k.pos, "%s: has no effect in a rule that blocks; remove the line", k.text)
	}
}

// rate reads n/s: n sessions in s seconds, with or without blanks around the /. It
// reports a wrong rate and returns the zero Rate.
func (p *parser) rate(k token) limit.Rate {
	t := p.take()
	text := p.joined(t, '/')
	first, second, _ := strings.Cut(text, "/")
	n, okN := parseNumber(first)
	s, okS := parseNumber(second)
	switch {
	case !okN || !okS:
		p.fail(t.pos, "%s: %q is not a rate; write sessions/seconds, as in 10/60", k.text, text)
	case n < 1 || s < 1 || n > maxSessions || s > maxSessions:
		p.fail(t.pos, "%s: %s is out of range; write two numbers from 1 to %d", k.text, text, maxSessions)
	default:
		return limit.Rate{N: n, Per: time.Duration(s) * time.Second}
	}
	return limit.Rate{}
}

// limits are the keywords by which a rule counts its sessions.
var limits = []string{"maxsessions", "session.max", "session.throttle", "session.state.max", "session.state.throttle"}

// checkSession checks the session keywords of a rule against each other and applies
// the meaning of the two spellings of a limit: in a client-rule, maxsessions ends
// with the negotiation, and session.max may go on with the session.
func (p *parser) checkSession() {
	p.checkSpellings()
	p.checkState()
	r := p.rule
	first, limited := p.first(limits...)
	if pool, given := p.seen["session.pool"]; given && !limited && r.Pass {
		p.emptyPool(pool)
	}
	if inherit, given := p.seen["session.inheritable"]; given && !limited && r.Pass {
		p.warn(inherit.pos, "session.inheritable: has no effect in a rule without a limit; remove the line, or add a limit")
	}
	if mode, given := p.seen["session.mode"]; given && !limited && r.Pass {
		p.warn(mode.pos, "session.mode: has no effect in a rule without a limit; remove the line, or add a limit")
	}
	if !limited || !r.Pass {
		return
	}
	_, isOld := p.seen["maxsessions"]
	p.checkPool()
	r.Session = p.session
	r.Session.Limited = true
	r.Session.Inheritable = r.Client && !isOld && p.session.Inheritable
	if r.cond.commands == 1<<UDPReply {
		p.warn(first.pos, "%s: has no effect in a rule for udpreply alone, because datagrams are not counted; "+
			"move it to the rule that passes udpassociate", first.text)
	}
}

// checkSpellings finds the older and the newer word for a limit in one rule.
func (p *parser) checkSpellings() {
	old, isOld := p.seen["maxsessions"]
	max, isNew := p.seen["session.max"]
	inherit, given := p.seen["session.inheritable"]
	if isOld && isNew {
		second := max.pos
		if second.compare(old.pos) < 0 {
			second = old.pos
		}
		p.fail(second, "the rule has maxsessions: (line %d) and session.max: (line %d); remove one of the two",
			old.pos.Line, max.pos.Line)
	}
	if isOld && given && p.session.Inheritable {
		p.fail(inherit.pos, "session.inheritable: yes (line %d) contradicts maxsessions: (line %d), "+
			"which limits negotiation only; write session.max: instead of maxsessions:", inherit.pos.Line, old.pos.Line)
	}
}

// checkState checks the limits by key, as Dante does. A value that was refused is 0
// here, and then no comparison fails.
func (p *parser) checkState() {
	s := &p.session
	key, keyed := p.seen["session.state.key"]
	byKey, counted := p.first("session.state.max", "session.state.throttle")
	max, _ := p.first("maxsessions", "session.max")
	if keyed && !counted {
		p.fail(key.pos, "session.state.key: has nothing to count; add session.state.max: or session.state.throttle:")
	}
	if counted && !keyed {
		p.fail(byKey.pos, "%s: has no key to count by; add session.state.key: from", byKey.text)
	}
	if s.Max != limit.None && s.KeyMax > s.Max {
		p.fail(p.seen["session.state.max"].pos, "session.state.max: %d is above the %d of %s: in line %d, which holds for all together; "+
			"make it smaller, or the other one larger", s.KeyMax, s.Max, max.text, max.pos.Line)
	}
	if s.KeyThrottle.N > s.Throttle.N && s.KeyThrottle.Per <= s.Throttle.Per {
		p.fail(p.seen["session.state.throttle"].pos, "session.state.throttle: %s admits more than the %s of session.throttle: in line %d, which holds for all together; "+
			"make it stricter, or the other one looser", s.KeyThrottle, s.Throttle, p.seen["session.throttle"].pos.Line)
	}
}

// print writes the keywords that give the same Session again.
func (s Session) print(b *strings.Builder, indent string, client bool) {
	if !s.Limited {
		return
	}
	if s.Report { // enforce is not written: digests of files without the keyword stay as they are
		line(b, indent, "session.mode", "report")
	}
	if s.Pool != "" {
		line(b, indent, "session.pool", s.Pool)
	}
	switch s.Max {
	case limit.None:
	case 0: // which session.max refuses
		number(b, indent, "maxsessions", 0)
	default:
		number(b, indent, "session.max", s.Max)
	}
	if client && !s.Inheritable && s.Max != 0 {
		line(b, indent, "session.inheritable", "no")
	}
	if s.Throttle.N > 0 {
		line(b, indent, "session.throttle", s.Throttle.String())
	}
	if s.Key != NoKey {
		line(b, indent, "session.state.key", choiceName(stateKeyChoices, int(s.Key)))
	}
	if s.KeyMax > 0 {
		number(b, indent, "session.state.max", s.KeyMax)
	}
	if s.KeyThrottle.N > 0 {
		line(b, indent, "session.state.throttle", s.KeyThrottle.String())
	}
}
