package rules

import (
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

type tokenKind uint8

const (
	tokenEnd     tokenKind = iota // end of the text
	tokenNewline                  // end of a line, which ends a value list
	tokenWord
	tokenKeyword // "name:", without its colon
	tokenOp      // = != < <= > >=
	tokenOpen    // {
	tokenClose   // }
)

type token struct {
	kind  tokenKind
	text  string
	pos   Pos
	glued bool // no blank between this token and the one before
}

// lexer splits a rule file into tokens. Keyword names decide where a word that
// holds a colon is split: "port" of "session.max:5" is a value, "::1/128" is one word.
type lexer struct {
	text      string
	off       int
	pos       Pos // of text[off]
	isKeyword func(string) bool
	tokens    []token
	diags     []Diagnostic
}

const byteOrderMark = "\uFEFF"

func lex(file, text string, isKeyword func(string) bool) ([]token, []Diagnostic) {
	l := &lexer{
		text:      strings.TrimPrefix(text, byteOrderMark),
		pos:       Pos{File: file, Line: 1, Col: 1},
		isKeyword: isKeyword,
	}
	for l.off < len(l.text) {
		l.scan()
	}
	l.add(tokenEnd, "end of file", l.pos, false)
	return l.tokens, l.diags
}

// scan consumes one token, blank, comment or continuation.
func (l *lexer) scan() {
	start, rest := l.pos, l.text[l.off:]
	glued := l.off > 0 && !strings.ContainsRune(" \t\r\n", rune(l.text[l.off-1]))
	switch c := rest[0]; {
	case c == '\n':
		l.skip(1)
		l.add(tokenNewline, "\n", start, false)
	case c == ' ' || c == '\t':
		l.skip(1)
	case strings.HasPrefix(rest, "\r\n"):
		l.skip(1)
	case c == '#':
		if end := strings.IndexByte(rest, '\n'); end >= 0 {
			l.skip(end)
		} else {
			l.skip(len(rest))
		}
	case continuation(rest) > 0:
		l.skip(continuation(rest))
	case c == '{':
		l.skip(1)
		l.add(tokenOpen, "{", start, glued)
	case c == '}':
		l.skip(1)
		l.add(tokenClose, "}", start, glued)
	case opLen(rest) > 0:
		n := opLen(rest)
		l.skip(n)
		l.add(tokenOp, rest[:n], start, glued)
	default:
		l.word(start, glued)
	}
}

// word consumes a run of word characters and, after a keyword, its colon.
func (l *lexer) word(start Pos, glued bool) {
	rest := l.text[l.off:]
	n := wordLen(rest)
	if n == 0 {
		l.badCharacter(start)
		return
	}
	text := rest[:n]
	if colon := strings.IndexByte(text, ':'); colon > 0 && keywordShape(text[:colon]) {
		if stem := text[:colon]; colon == n-1 || l.isKeyword(stem) {
			l.skip(colon + 1)
			l.add(tokenKeyword, stem, start, glued)
			return
		}
	}
	l.skip(n)
	if l.isKeyword(text) {
		blanks := len(l.text[l.off:]) - len(strings.TrimLeft(l.text[l.off:], " \t"))
		if strings.HasPrefix(l.text[l.off+blanks:], ":") {
			l.skip(blanks + 1)
			l.add(tokenKeyword, text, start, glued)
			return
		}
	}
	if strings.HasSuffix(text, `\`) {
		l.fail(start, "there is a backslash before the end of the line", "remove the backslash, or the blanks after it")
	}
	l.add(tokenWord, text, start, glued)
}

// badCharacter reports and skips a run of a character that no word may hold.
func (l *lexer) badCharacter(start Pos) {
	r, n := utf8.DecodeRuneInString(l.text[l.off:])
	what := "the character " + strconv.QuoteRuneToASCII(r) + " is not allowed"
	if r == utf8.RuneError && n == 1 {
		what = "bytes that are not UTF-8 are not allowed"
	}
	for l.off < len(l.text) {
		next, size := utf8.DecodeRuneInString(l.text[l.off:])
		if next != r || size != n {
			break
		}
		l.skip(n)
	}
	l.fail(start, what, "remove it, the file is plain text with blanks, tabs and line ends")
}

func (l *lexer) fail(pos Pos, message, remedy string) {
	if len(l.diags) > maxMistakes {
		return
	}
	l.diags = append(l.diags, Diagnostic{Pos: pos, Severity: Error, Message: message, Remedy: remedy})
}

func (l *lexer) add(kind tokenKind, text string, pos Pos, glued bool) {
	l.tokens = append(l.tokens, token{kind: kind, text: text, pos: pos, glued: glued})
}

// skip advances over n bytes. Columns count characters.
func (l *lexer) skip(n int) {
	for _, b := range []byte(l.text[l.off : l.off+n]) {
		switch {
		case b == '\n':
			l.pos.Line++
			l.pos.Col = 1
		case utf8.RuneStart(b):
			l.pos.Col++
		}
	}
	l.off += n
}

// continuation returns the length of a backslash and the line end after it. At the end
// of the text, a backslash continues nothing.
func continuation(s string) int {
	switch {
	case s == `\`:
		return 1
	case strings.HasPrefix(s, "\\\n"):
		return 2
	case strings.HasPrefix(s, "\\\r\n"):
		return 3
	}
	return 0
}

func opLen(s string) int {
	for _, op := range [...]string{"!=", "<=", ">=", "=", "<", ">"} {
		if strings.HasPrefix(s, op) {
			return len(op)
		}
	}
	return 0
}

func wordLen(s string) int {
	for i, r := range s {
		if strings.ContainsRune(" \t#{}", r) || opLen(s[i:]) > 0 || continuation(s[i:]) > 0 {
			return i
		}
		if _, size := utf8.DecodeRuneInString(s[i:]); !unicode.IsPrint(r) || r == utf8.RuneError && size == 1 {
			return i
		}
	}
	return len(s)
}

// keywordShape tells a misspelt keyword from the first group of an IPv6 address.
func keywordShape(s string) bool {
	for i := range len(s) {
		c := s[i]
		letter := 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z'
		if !letter && (i == 0 || !('0' <= c && c <= '9' || strings.IndexByte("._-", c) >= 0)) {
			return false
		}
	}
	return true
}
