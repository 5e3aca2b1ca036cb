// Package printable makes text from clients, targets and servers safe to show.
// It escapes characters that are not printable: control characters (C0, DEL and C1),
// which can change a terminal, and bidirectional and zero-width characters, which can
// make a text look like another one.
package printable

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"
)

// Text returns s with everything that is not printable escaped as in a Go string.
func Text(s string) string {
	if !needsEscape(s) {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); {
		r, size := utf8.DecodeRuneInString(s[i:])
		switch {
		case r == utf8.RuneError && size == 1:
			fmt.Fprintf(&b, `\x%02x`, s[i])
		case unicode.IsPrint(r):
			b.WriteRune(r)
		default:
			quoted := strconv.QuoteRune(r)
			b.WriteString(quoted[1 : len(quoted)-1])
		}
		i += size
	}
	return b.String()
}

// Lines is Text for a text of several lines: it keeps line ends.
func Lines(s string) string {
	lines := strings.Split(s, "\n")
	for i, line := range lines {
		lines[i] = Text(line)
	}
	return strings.Join(lines, "\n")
}

func needsEscape(s string) bool {
	return !utf8.ValidString(s) || strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) })
}

// JSON returns a JSON text with everything that is not printable in its strings
// escaped. The value stays the same. It returns text itself if there is nothing
// to escape, which is so for all ASCII text of encoding/json but DEL.
func JSON(text []byte) []byte {
	i := 0
	for i < len(text) && text[i] < 0x7f { // most lines of a log are ASCII
		i++
	}
	found := bytes.IndexFunc(text[i:], escapedInJSON)
	if found < 0 {
		return text
	}
	i += found
	out := append(make([]byte, 0, len(text)+64), text[:i]...)
	for i < len(text) {
		r, size := utf8.DecodeRune(text[i:])
		switch hi, lo := utf16.EncodeRune(r); {
		case !escapedInJSON(r):
			out = append(out, text[i:i+size]...)
		case r > 0xffff:
			out = fmt.Appendf(out, `\u%04x\u%04x`, hi, lo)
		default:
			out = fmt.Appendf(out, `\u%04x`, r)
		}
		i += size
	}
	return out
}

// WriteJSON writes v as JSON, for programs and so that people can read it. Everything
// that is not printable is escaped.
func WriteJSON(w io.Writer, v any) error {
	var text bytes.Buffer
	out := json.NewEncoder(&text)
	out.SetEscapeHTML(false)
	out.SetIndent("", "  ")
	if err := out.Encode(v); err != nil {
		return err
	}
	_, err := w.Write(JSON(text.Bytes()))
	return err
}

// escapedInJSON reports whether JSON escapes r. Encoders have escaped C0 in
// strings; outside they are white space.
func escapedInJSON(r rune) bool { return r >= 0x7f && (r == utf8.RuneError || !unicode.IsPrint(r)) }
