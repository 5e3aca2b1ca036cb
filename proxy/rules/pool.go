package rules

import (
	"fmt"
	"maps"
	"slices"

	"usher/store/limit"
)

// poolRule is the first rule that names a pool. The others must have the same numbers.
type poolRule struct {
	at      Pos // of its session.pool
	session Session
	given   map[string]token // its keywords
}

// Pools returns the names of all pools, sorted.
func (s *Set) Pools() []string {
	names := map[string]bool{}
	for r := range s.All() {
		if r.Session.Pool != "" {
			names[r.Session.Pool] = true
		}
	}
	return slices.Sorted(maps.Keys(names))
}

// readPool reads the name of a pool. Rules of any kind may share it.
func (p *parser) readPool(k token) {
	p.sessionKeyword(k)
	t := p.take()
	if !nameShape.MatchString(t.text) {
		p.fail(t.pos, "session.pool: %s is not a name; write 1 to 64 letters, digits, dots, hyphens and underscores", quote(t))
		return
	}
	p.session.Pool = t.text
}

// emptyPool finds a pool in a rule without a maximum.
func (p *parser) emptyPool(k token) {
	p.fail(k.pos, "session.pool: the rule has no number of sessions for the pool; add session.max: or session.state.max:, with the same number in each rule of the pool")
}

// checkPool checks that the rule has a maximum for its pool, and the same numbers as the
// first rule of that pool.
func (p *parser) checkPool() {
	k, given := p.seen["session.pool"]
	s := p.session
	switch {
	case !given:
		return
	case p.seenNone("maxsessions", "session.max", "session.state.max"):
		p.emptyPool(k)
		return
	case s.Pool == "": // its name was refused
		return
	}
	first, known := p.pools[s.Pool]
	if !known {
		p.pools[s.Pool] = poolRule{at: k.pos, session: s, given: p.seen}
		return
	}
	for _, n := range poolNumbers {
		here, there := n.in(p.seen, s, k.pos), n.in(first.given, first.session, first.at)
		if here.value != there.value && !here.refused && !there.refused {
			p.fail(here.at, "the pool %s has %s in line %d and %s in line %d; all rules of a pool share its numbers, so write the same in both",
				s.Pool, there.text, there.at.Line, here.text, here.at.Line)
			return
		}
	}
}

func (p *parser) seenNone(names ...string) bool {
	_, given := p.first(names...)
	return !given
}

// poolNumber is one of the numbers that the rules of a pool share.
type poolNumber struct {
	keywords []string               // that give it
	of       func(s Session) string // as the rule file has it; "" if it is not given
}

// poolGiven is a number as a rule gives it.
type poolGiven struct {
	value, text string
	at          Pos  // session.pool if the rule does not give it
	refused     bool // it was given wrongly, which is reported elsewhere
}

func (n poolNumber) in(given map[string]token, s Session, pool Pos) poolGiven {
	g := poolGiven{value: n.of(s), text: "no " + n.keywords[0] + ":", at: pool}
	for _, name := range n.keywords {
		if k, ok := given[name]; ok {
			g.text, g.at, g.refused = name+": "+g.value, k.pos, g.value == ""
		}
	}
	return g
}

var poolNumbers = []poolNumber{
	{[]string{"session.max", "maxsessions"}, func(s Session) string {
		if s.Max == limit.None {
			return ""
		}
		return fmt.Sprint(s.Max)
	}},
	{[]string{"session.throttle"}, func(s Session) string { return rateText(s.Throttle) }},
	{[]string{"session.state.key"}, func(s Session) string { return choiceName(stateKeyChoices, int(s.Key)) }},
	{[]string{"session.state.max"}, func(s Session) string {
		if s.KeyMax == 0 {
			return ""
		}
		return fmt.Sprint(s.KeyMax)
	}},
	{[]string{"session.state.throttle"}, func(s Session) string { return rateText(s.KeyThrottle) }},
	{[]string{"session.mode"}, func(s Session) string { return s.Mode() }},
}

// Mode returns session.mode.
func (s Session) Mode() string {
	if s.Report {
		return "report"
	}
	return "enforce"
}

// rateText returns a rate as the rule file has it, "" for none.
func rateText(r limit.Rate) string {
	if r.N == 0 {
		return ""
	}
	return r.String()
}
