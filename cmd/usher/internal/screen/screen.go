// Package screen prints for people: tables that fit the terminal, colours on a terminal
// alone, and views that are drawn again and again.
package screen

import (
	"io"
	"os"
	"strconv"
	"strings"

	"github.com/mattn/go-isatty"
	"github.com/mattn/go-runewidth"
	"golang.org/x/sys/unix"

	"usher/proxy/printable"
)

// Screen is where a command prints. The zero Width is that of a file: lines of any
// length.
type Screen struct {
	Out    io.Writer
	Width  int  // columns of the terminal
	Height int  // its lines; 0: no bound
	Colour bool // text may have colours

	terminal *os.File // nil: Out is none
	columns  int      // of the environment
}

// New returns the screen for a stream. COLUMNS in the environment overrides the width,
// and makes one of a stream that is no terminal. There are no colours with NO_COLOR, with
// TERM=dumb, or without a terminal.
func New(out io.Writer, environ map[string]string) Screen {
	s := Screen{Out: out}
	if n, err := strconv.Atoi(environ["COLUMNS"]); err == nil && n > 0 {
		s.columns = n
	}
	if f, ok := out.(*os.File); ok && isatty.IsTerminal(f.Fd()) && environ["TERM"] != "dumb" {
		s.terminal = f
		s.Colour = environ["NO_COLOR"] == ""
	}
	s.measure()
	return s
}

// Terminal reports whether Out is a terminal.
func (s Screen) Terminal() bool { return s.terminal != nil }

// measure asks the terminal for its size, which may have changed.
func (s *Screen) measure() {
	s.Width = s.columns
	if s.terminal == nil {
		return
	}
	size, err := unix.IoctlGetWinsize(int(s.terminal.Fd()), unix.TIOCGWINSZ)
	if err != nil {
		return
	}
	s.Height = int(size.Row)
	if s.columns == 0 {
		s.Width = int(size.Col)
	}
}

// Style is how a text looks on a terminal. No text relies on it alone.
type Style string

// Styles.
const (
	Plain Style = ""
	Bold  Style = "1"
	Dim   Style = "2"
	Good  Style = "32"   // green
	Warn  Style = "33"   // yellow
	Bad   Style = "1;31" // bold red
)

// Paint returns text, made safe for a terminal, in a style.
func (s Screen) Paint(style Style, text string) string {
	text = printable.Text(text)
	if !s.Colour || style == Plain || text == "" {
		return text
	}
	return "\x1b[" + string(style) + "m" + text + "\x1b[0m"
}

// cut shortens a printable text to width columns, and marks where: at its end, or at its
// beginning.
func cut(text string, width int, beginning bool) string {
	switch over := columns(text) - width; {
	case over <= 0:
		return text
	case beginning:
		return runewidth.TruncateLeft(text, over+1, "…")
	}
	return runewidth.Truncate(text, width, "…")
}

// columns returns how many columns a printable text takes.
func columns(text string) int { return runewidth.StringWidth(text) }

// Wrap breaks a text at blanks into lines of at most width columns. A longer word gets a
// line of its own. 0 is no bound.
func Wrap(text string, width int) (lines []string) {
	line := ""
	for _, word := range strings.Fields(printable.Text(text)) {
		if line != "" && width > 0 && columns(line)+1+columns(word) > width {
			lines = append(lines, line)
			line = ""
		}
		if line != "" {
			line += " "
		}
		line += word
	}
	return append(lines, line)
}
