package rules

import (
	"crypto/sha256"
	"encoding/hex"
	"iter"
	"regexp"
	"strconv"
	"strings"
)

// nameShape matches the values of rule.name. They have no colon, so that no name equals
// a derived label.
var nameShape = regexp.MustCompile(`^[A-Za-z0-9._-]{1,64}$`)

// positionShape matches IDs. An ID is no name, because it belongs to another rule when
// a rule is inserted.
var positionShape = regexp.MustCompile(`^[cs][0-9]+$`)

// labelDigits is the number of hexadecimal digits in a derived label.
const labelDigits = 8

// readName reads the name of a rule, which must be unique in the file.
func (p *parser) readName(k token) {
	t := p.take()
	switch {
	case !nameShape.MatchString(t.text):
		p.fail(t.pos, "rule.name: %s is not a name; write 1 to 64 letters, digits, dots, hyphens and underscores", quote(t))
		return
	case positionShape.MatchString(t.text):
		p.fail(t.pos, "rule.name: %s looks like the position of a rule, which changes when rules are inserted; choose another name", t.text)
		return
	}
	if first, taken := p.ruleNames[t.text]; taken {
		p.fail(t.pos, "rule.name: %s in line %d is also the name of the rule in line %d; choose another name", t.text, t.pos.Line, first.Line)
		return
	}
	p.ruleNames[t.text] = t.pos
	p.rule.Name = t.text
}

// All returns the rules in their order, client-rules first.
func (s *Set) All() iter.Seq[*Rule] {
	return func(yield func(*Rule) bool) {
		for _, list := range [][]*Rule{s.Client, s.Socks} {
			for _, r := range list {
				if !yield(r) {
					return
				}
			}
		}
	}
}

// label gives each rule its label.
func (s *Set) label() {
	same := map[string]int{}
	for r := range s.All() {
		if r.label = r.Name; r.Name != "" {
			continue
		}
		r.label = r.derivedLabel()
		if same[r.label]++; same[r.label] > 1 {
			r.label += "-" + strconv.Itoa(same[r.label])
		}
	}
}

// derivedLabel is a digest of what the rule matches and of its verdict. Its limit,
// log and timeouts are left out: a rule keeps its label when they change.
func (r *Rule) derivedLabel() string {
	var b strings.Builder
	r.matched(&b)
	sum := sha256.Sum256([]byte(b.String()))
	return r.ID()[:1] + ":" + hex.EncodeToString(sum[:])[:labelDigits]
}

// Label names the rule in metrics. It is rule.name if that is given, else derived
// from what the rule matches (s:1f0c9a2e). Unlike the ID it stays the same when
// rules are inserted or moved. It is unique in its Set.
func (r *Rule) Label() string { return r.label }

// String names the rule for people: its ID, and its name if it has one, as in
// s6 (web).
func (r *Rule) String() string {
	if r.Name == "" {
		return r.ID()
	}
	return r.ID() + " (" + r.Name + ")"
}
