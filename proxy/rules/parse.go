package rules

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Env describes the machine, as far as rule files refer to it.
type Env struct {
	// Interface returns the addresses of a network interface and whether there
	// is one of that name. nil means that there are no interfaces: every such
	// name in a rule is then taken as a host name, as Dante does.
	Interface func(name string) ([]netip.Addr, bool)
}

// DefaultKeepAlive finds peers that have vanished. After two minutes of silence a
// dead session gives its slot back, also if it is half closed.
var DefaultKeepAlive = KeepAlive{On: true, Idle: 60 * time.Second, Interval: 15 * time.Second, Count: 4}

// defaultTimeouts are those of Dante, but for FinWait.
var defaultTimeouts = Timeouts{
	Negotiate: 30 * time.Second,
	Connect:   30 * time.Second,
	IOUDP:     24 * time.Hour,
	FinWait:   30 * time.Second, // Dante: 0. A slot should not stay taken by a client that has gone
}

// Parse reads a rule file in the dialect of Dante 1.4, in the older one, or in
// a mix of both. file is only a name for positions. All findings are returned,
// in the order of their positions, but no more than a hundred Errors; the Set is
// nil if there is one.
func Parse(file string, text []byte, env Env) (*Set, []Diagnostic) {
	lang := newLanguage(keywords)
	tokens, diags := lex(file, string(text), lang.known)
	p := &parser{tokens: tokens, diags: diags, lang: lang, env: env, set: &Set{}, in: inSettings}
	p.settings, p.ruleNames, p.pools = map[string]token{}, map[string]Pos{}, map[string]poolRule{}
	p.seen = p.settings
	p.set.Settings.Timeouts, p.set.Settings.ConnectDst = defaultTimeouts, true
	p.set.Settings.KeyIPv6 = defaultKeyIPv6
	p.set.Settings.KeepAlives = KeepAlives{Internal: DefaultKeepAlive, External: DefaultKeepAlive}
	p.file()
	p.checkFile(Pos{File: file, Line: 1, Col: 1}, text)
	slices.SortStableFunc(p.diags, func(a, b Diagnostic) int {
		return a.Pos.compare(b.Pos)
	})
	for _, d := range p.diags {
		if d.Severity == Error {
			return nil, firstMistakes(p.diags)
		}
	}
	p.set.leaving = p.leavingFamilies()
	for _, r := range p.set.Socks {
		r.cond.everything = r.cond.to.everything(p.set.leaving)
	}
	p.set.digest = digest(p.set)
	p.set.label()
	p.set.index()
	return p.set, p.diags
}

// parser walks over the tokens of one file. After a mistake, it continues with the next
// value, keyword or rule, whichever comes first.
type parser struct {
	tokens []token
	next   int
	diags  []Diagnostic
	lang   *language
	env    Env
	set    *Set

	mistakes int // reported so far, without those of the lexer

	in scope // the part of the file that is being read
	// internal.protocol and external.protocol, for the addresses that follow
	internal, external Families

	settings  map[string]token // keywords of the settings
	ruleNames map[string]Pos   // by rule.name
	pools     map[string]poolRule
	seen      map[string]token // keywords of the settings or of this rule, whichever is being read
	draft
}

// draft is a rule being read.
type draft struct {
	rule      *Rule
	session   Session // as given
	methods   []picked
	commands  commandSet // as given by command, 0 if not given
	protocols commandSet // as given by protocol, 0 if not given
}

func (p *parser) peek() token { return p.tokens[p.next] }

// take returns the next token and goes past it, except past the end.
func (p *parser) take() token {
	t := p.tokens[p.next]
	if t.kind != tokenEnd {
		p.next++
	}
	return t
}

func (p *parser) skipNewlines() {
	for p.peek().kind == tokenNewline {
		p.next++
	}
}

// atValue reports whether the next token may belong to a value list.
func (p *parser) atValue() bool {
	k := p.peek().kind
	return k == tokenWord || k == tokenOp
}

// skipValues goes to the end of the current value list.
func (p *parser) skipValues() {
	for k := p.peek().kind; k == tokenWord || k == tokenOp || k == tokenOpen; k = p.peek().kind {
		p.next++
	}
}

// skipLine goes to the end of the line and reports whether a brace was left open.
func (p *parser) skipLine() (open bool) {
	for k := p.peek().kind; k != tokenNewline && k != tokenEnd; k = p.peek().kind {
		open = k == tokenOpen || open && k != tokenClose
		p.next++
	}
	return open
}

// skipToClose goes to the end of the line, or to a brace that closes the rule before it.
func (p *parser) skipToClose() {
	for k := p.peek().kind; k != tokenNewline && k != tokenClose && k != tokenEnd; k = p.peek().kind {
		p.next++
	}
}

// fail and warn add a finding. The remedy follows the last "; " of the text.
func (p *parser) fail(pos Pos, format string, args ...any) {
	p.report(Error, pos, fmt.Sprintf(format, args...))
}

func (p *parser) warn(pos Pos, format string, args ...any) {
	p.report(Warning, pos, fmt.Sprintf(format, args...))
}

// note adds a finding about a line without effect. k is its keyword.
func (p *parser) note(k token, format string, args ...any) {
	p.report(Note, k.pos, fmt.Sprintf(format, args...))
	p.diags[len(p.diags)-1].keyword = k.text
}

func (p *parser) report(severity Severity, pos Pos, text string) {
	if severity == Error {
		if p.mistakes > maxMistakes {
			return
		}
		p.mistakes++
	}
	d := Diagnostic{Pos: pos, Severity: severity, Message: text, Remedy: "correct it"}
	if i := strings.LastIndex(text, "; "); i >= 0 {
		d.Message, d.Remedy = text[:i], text[i+2:]
	}
	p.diags = append(p.diags, d)
}

// file reads settings, then rules.
func (p *parser) file() {
	for p.skipNewlines(); p.peek().kind != tokenEnd && p.mistakes <= maxMistakes; p.skipNewlines() {
		switch t := p.peek(); {
		case p.atHeader():
			p.block()
		case t.kind == tokenKeyword:
			if p.ruleSeen() {
				p.settingAfterRule(p.take())
			} else {
				p.keyword(p.take())
			}
		case t.kind == tokenWord:
			p.strayWord(p.take())
			if p.skipLine() {
				p.skipBlock()
			}
		default:
			p.fail(t.pos, "%s is outside a rule; remove it, or write the first line of the rule before it", quote(t))
			p.take()
		}
	}
}

func (p *parser) ruleSeen() bool { return p.in != inSettings }

func (p *parser) settingAfterRule(k token) {
	if p.refused(k) {
		p.skipToClose()
		return
	}
	p.fail(k.pos, "%s: is a setting after the first rule; move it above all rules, or into a rule if it belongs there", k.text)
	p.skipValues()
}

// keyword reads the keyword k and its values.
func (p *parser) keyword(k token) {
	meanings := p.lang.find(k.text)
	i := slices.IndexFunc(meanings, func(m *keyword) bool { return m.in&p.in != 0 })
	switch {
	case meanings == nil:
		p.unknown(k)
	case p.refused(k): // wherever it stands: to move it would not help
		p.skipToClose()
	case i < 0:
		p.fail(k.pos, "%s: is not allowed in %s; move it to %s", k.text, p.in, meanings[0].in)
		p.skipValues()
	case meanings[i].accept == "" && p.repeated(k, meanings[i]):
		p.skipValues()
	case !p.atValue():
		p.fail(k.pos, "%s: has no value; write one on the same line", k.text)
		p.skipValues()
	default:
		if why := meanings[i].accept; why != "" {
			p.note(k, "%s: has no effect: %s; remove the line", k.text, why)
		}
		meanings[i].read(p, k)
	}
	switch t := p.peek(); {
	case !p.atValue() && t.kind != tokenOpen:
	case p.refused(t):
		p.skipToClose()
	default:
		p.fail(t.pos, "unexpected %s after the value of %s:; remove it, or begin a new line with a keyword", quote(t), k.text)
		p.skipValues()
	}
}

// refused reports a keyword that is refused, with or without its colon (Dante
// writes redirect without).
func (p *parser) refused(t token) bool {
	refusal := p.lang.refusal(t.text)
	if refusal == "" {
		return false
	}
	p.fail(t.pos, "%s: %s", t.text, refusal)
	return true
}

// repeated notes a keyword and reports one that may be given only once, under any of its names.
func (p *parser) repeated(k token, meaning *keyword) bool {
	name := cmp.Or(meaning.is, meaning.name)
	first, again := p.seen[name]
	if !again {
		p.seen[name] = k
	}
	if !again || meaning.repeat {
		return false
	}
	p.fail(k.pos, "%s: is given twice, first as %s: in line %d; remove one of the two", k.text, first.text, first.pos.Line)
	return true
}

func (p *parser) unknown(k token) {
	remedy := "correct it, the keywords are in docs/rules-reference.md"
	if near := nearest(k.text, p.lang.names(everywhere)); near != "" {
		remedy = fmt.Sprintf("did you mean %s:?", near)
	}
	p.fail(k.pos, "%s: is not a keyword; %s", k.text, remedy)
	p.skipValues()
}

// strayWord reports a word where a keyword or a header should stand.
func (p *parser) strayWord(t token) {
	if p.refused(t) {
		return
	}
	if name, _, found := strings.Cut(t.text, ":"); found && keywordShape(name) {
		p.unknown(token{text: name, pos: t.pos})
		return
	}
	remedy := "write the keyword and a colon"
	if meanings := p.lang.find(t.text); meanings != nil {
		remedy = "write " + t.text + ": with a colon"
	} else if near := nearest(t.text, append(p.lang.names(everywhere), twoWords...)); near != "" {
		remedy = "did you mean " + near + "?"
	}
	p.fail(t.pos, "expected a keyword or a rule, found %s; %s", quote(t), remedy)
}

// quote shows a token in a message.
func quote(t token) string {
	switch t.kind {
	case tokenEnd:
		return t.text
	case tokenKeyword:
		return strconv.Quote(t.text + ":")
	}
	return strconv.Quote(t.text)
}
