package redisstore

import (
	"strconv"
	"strings"
	"unicode"
)

// maxText bounds how much of a server's text is shown, in bytes.
const maxText = 500

// OneLine makes a text from a server safe to show: one line, cut after 500 bytes, with
// Go escapes for characters that are not printable, such as control characters and
// bidirectional marks.
func OneLine(text string) string {
	var b strings.Builder
	for _, r := range text {
		if b.Len() >= maxText {
			return b.String() + "..."
		}
		switch {
		case r == '\n':
			b.WriteString("; ") // between errors that were joined
		case unicode.IsPrint(r) && r != unicode.ReplacementChar:
			b.WriteRune(r)
		default:
			escaped := strconv.QuoteRuneToASCII(r)
			b.WriteString(escaped[1 : len(escaped)-1])
		}
	}
	return b.String()
}

// shownError is an error whose text is one line.
type shownError struct {
	text string
	err  error
}

func (e shownError) Error() string { return e.text }
func (e shownError) Unwrap() error { return e.err }

// show bounds the text of an error that leaves the store, if there is one.
func show(err *error) {
	if *err == nil {
		return
	}
	if text := OneLine((*err).Error()); text != (*err).Error() {
		*err = shownError{text, *err}
	}
}
