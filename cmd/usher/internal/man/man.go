// Package man writes the manual page usher(1) from the command line's own help.
package man

import (
	"fmt"
	"io"
	"strings"

	"github.com/alecthomas/kong"

	"usher/cmd/usher/internal/settings"
)

// exitStatus are the exit codes of all verbs.
var exitStatus = [][2]string{
	{"0", "Success. For probe: ready. For explain: the request passes."},
	{"1", "Failure, or nobody answers. For probe: not ready."},
	{"2", "Wrong arguments, or a wrong variable."},
	{"3", "For explain: the request would be refused."},
	{"4", "For reload, drain, undrain and upgrade: the signal was sent, the result is in the log."},
}

// Write writes the page for the command line app of this version of usher.
func Write(w io.Writer, app *kong.Application, version string) error {
	p := &page{}
	p.macro("TH", "USHER", "1", "", "usher "+version, "User Commands")
	p.section("NAME")
	p.line(`usher \- ` + text("SOCKS proxy whose session limits hold across all replicas"))
	p.section("SYNOPSIS")
	for _, verb := range verbs(app) {
		p.line(`.B ` + text("usher "+verb.Name))
		if args := arguments(verb); args != "" {
			p.line(text(args))
		}
		p.macro("br")
	}
	p.section("DESCRIPTION")
	p.paragraphs(app.Help)
	p.section("COMMANDS")
	for _, verb := range verbs(app) {
		p.command(verb)
	}
	p.section("ENVIRONMENT")
	p.paragraphs("Environment variables configure the proxy.")
	for _, v := range settings.Variables() {
		p.entry(v.Name, fmt.Sprintf("(%s; default: %s)\n%s", v.Kind, v.Default, v.Help))
	}
	p.section("SIGNALS")
	p.paragraphs(settings.SignalsHelp)
	p.section("EXIT STATUS")
	for _, code := range exitStatus {
		p.entry(code[0], code[1])
	}
	_, err := io.WriteString(w, p.String())
	return err
}

// verbs returns the commands that the help shows.
func verbs(app *kong.Application) (list []*kong.Node) {
	for _, n := range app.Children {
		if !n.Hidden {
			list = append(list, n)
		}
	}
	return list
}

// arguments returns the flags and positional arguments of a verb, for the synopsis.
func arguments(verb *kong.Node) string {
	var words []string
	for _, f := range verb.Flags {
		words = append(words, "["+flag(f)+"]")
	}
	for _, a := range verb.Positional {
		words = append(words, a.Name)
	}
	return strings.Join(words, " ")
}

func flag(f *kong.Flag) string {
	if f.IsBool() {
		return "--" + f.Name
	}
	return "--" + f.Name + "=" + f.FormatPlaceHolder()
}

// page is a manual page in roff.
type page struct{ strings.Builder }

func (p *page) line(s string) { p.WriteString(s + "\n") }

func (p *page) macro(name string, args ...string) {
	p.WriteString("." + name)
	for _, a := range args {
		p.WriteString(` "` + text(a) + `"`)
	}
	p.WriteString("\n")
}

func (p *page) section(name string) { p.macro("SH", name) }

// paragraphs writes text whose paragraphs are separated by empty lines.
func (p *page) paragraphs(s string) {
	for part := range strings.SplitSeq(strings.TrimSpace(s), "\n\n") {
		p.macro("PP")
		for line := range strings.SplitSeq(part, "\n") {
			p.line(text(strings.TrimSpace(line)))
		}
	}
}

// entry writes a term and its description.
func (p *page) entry(term, description string) {
	p.macro("TP")
	p.line(".B " + text(term))
	for line := range strings.SplitSeq(description, "\n") {
		p.line(text(line))
	}
}

func (p *page) command(verb *kong.Node) {
	p.macro("SS", "usher "+verb.Name)
	p.paragraphs(verb.Help)
	if verb.Name != "serve" { // its details are the sections ENVIRONMENT and SIGNALS
		p.paragraphs(verb.Detail)
	}
	for _, a := range verb.Positional {
		p.entry(a.Name, a.Help)
	}
	for _, f := range verb.Flags {
		description := f.Help
		if f.HasDefault && !f.IsBool() {
			description += "\nDefault: " + f.Default + "."
		}
		p.entry(flag(f), description)
	}
}

// text escapes what roff would obey: backslashes, hyphens that would become dashes,
// quotes in arguments of macros, and dots and quotes that begin a line.
func text(s string) string {
	s = strings.NewReplacer(`\`, `\e`, `-`, `\-`, `"`, `\(dq`).Replace(s)
	if strings.HasPrefix(s, ".") || strings.HasPrefix(s, "'") {
		s = `\&` + s
	}
	return s
}
