package rules

import (
	"slices"

	"usher/store/limit"
)

// header is what the first word or words of a block mean.
type header struct {
	client, pass bool
	refuse       string
}

// headers are the first lines of blocks in both dialects. Dante 1.4 warns about a bare
// pass or block. Usher does not, because it supports the older dialect in full.
var headers = map[string]header{
	"client pass":  {client: true, pass: true},
	"client-pass":  {client: true, pass: true},
	"client block": {client: true},
	"client-block": {client: true},
	"socks pass":   {pass: true},
	"socks-pass":   {pass: true},
	"pass":         {pass: true},
	"socks block":  {},
	"socks-block":  {},
	"block":        {},
	"hostid pass":  {refuse: "Usher does not read host ids; write the clients' addresses in client-rules instead"},
	"hostid block": {refuse: "Usher does not read host ids; write the clients' addresses in client-rules instead"},
	"monitor":      {refuse: "Usher does not monitor traffic by rule; remove monitor { } and watch the metrics"},
	"route":        {refuse: "Usher does not connect through other proxies; remove route { } if it may connect to the targets directly"},
}

// twoWords are the first words that need a second one.
var twoWords = []string{"client", "socks", "hostid"}

// headerAt returns the words of the block header at token i, "" if there is none.
func (p *parser) headerAt(i int) (words string, tokens int) {
	t := p.tokens[i]
	if t.kind != tokenWord {
		return "", 0
	}
	if slices.Contains(twoWords, t.text) && p.tokens[i+1].kind == tokenWord {
		return t.text + " " + p.tokens[i+1].text, 2
	}
	if _, ok := headers[t.text]; ok {
		return t.text, 1
	}
	return "", 0
}

func (p *parser) atHeader() bool {
	words, _ := p.headerAt(p.next)
	return words != ""
}

// block reads a rule, or skips a block of another kind.
func (p *parser) block() {
	first := p.peek()
	words, n := p.headerAt(p.next)
	p.next += n
	h, ok := headers[words]
	if !ok {
		p.fail(first.pos, "%q is not the first line of a rule; write pass or block after %s", words, first.text)
		h.client = first.text == "client"
	}
	p.in = inSocks
	if h.client {
		p.in = inClient
	}
	if !p.opened(words, first.pos.Line) {
		return
	}
	if h.refuse != "" {
		p.fail(first.pos, "%s: %s", words, h.refuse)
		p.skipBlock()
		return
	}
	p.seen = map[string]token{}
	p.draft = draft{
		rule:    &Rule{Pos: first.pos, Client: h.client, Pass: h.pass, Timeouts: p.set.Settings.Timeouts, KeepAlives: p.set.Settings.KeepAlives.inherited()},
		session: Session{Max: limit.None, Inheritable: true},
	}
	p.body(words)
	p.finishRule()
}

// opened goes past the brace that begins a block. If there is none, it adds a
// finding, and reports whether the next tokens still look like the block.
func (p *parser) opened(words string, line int) bool {
	p.skipNewlines()
	t := p.peek()
	if t.kind == tokenOpen {
		p.take()
		return true
	}
	p.fail(t.pos, "expected { for the rule in line %d, found %s; write { after %s", line, quote(t), words)
	if t.kind != tokenKeyword && !p.atHeader() && p.skipLine() {
		p.skipBlock()
	}
	return t.kind == tokenKeyword
}

// skipBlock goes past the closing brace, or to the next rule if it is missing.
func (p *parser) skipBlock() {
	for p.peek().kind != tokenEnd && !p.unclosedHere() {
		if p.take().kind == tokenClose {
			return
		}
	}
}

// body reads up to the closing brace of a rule.
func (p *parser) body(words string) {
	for {
		switch t := p.peek(); t.kind {
		case tokenNewline:
			p.take()
		case tokenClose:
			p.take()
			return
		case tokenEnd:
			p.unclosed(t, words)
			return
		case tokenKeyword:
			p.keyword(p.take())
		case tokenWord:
			if p.unclosedHere() {
				p.unclosed(t, words)
				return
			}
			p.strayWord(p.take())
			p.skipToClose()
		default:
			p.fail(t.pos, "expected a keyword of the rule, found %s; remove it", quote(t))
			p.take()
			p.skipValues()
		}
	}
}

func (p *parser) unclosed(t token, words string) {
	p.fail(t.pos, "the rule %q in line %d is not closed; write } before this", words, p.draft.rule.Pos.Line)
}

// unclosedHere reports whether a header with its brace stands in a rule.
func (p *parser) unclosedHere() bool {
	words, n := p.headerAt(p.next)
	if words == "" {
		return false
	}
	i := p.next + n
	for p.tokens[i].kind == tokenNewline {
		i++
	}
	return p.tokens[i].kind == tokenOpen
}
