package rules

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// Severity is how much a finding matters.
type Severity int

const (
	Error   Severity = iota // the file cannot be served
	Danger                  // it can, and lets somebody do more than is probably meant
	Warning                 // it can, and probably does something else than is meant
	Note                    // a line without effect here, which does no harm
)

// String returns the word that people and programs see.
func (s Severity) String() string {
	return [...]string{Error: "error", Danger: "danger", Warning: "warning", Note: "note"}[s]
}

// Diagnostic is one finding about the text: what is wrong, and what to do.
type Diagnostic struct {
	Pos      Pos
	Severity Severity
	Message  string
	Remedy   string

	keyword string // of a Note: what has no effect
}

// String returns file:line:col: what, and what to do.
func (d Diagnostic) String() string { return d.Pos.String() + ": " + d.Message + "; " + d.Remedy }

// maxMistakes bounds the Errors that are reported. A file of another kind, named by
// accident, has a mistake in each line or byte, and each mistake becomes a log line and
// a part of the status.
const maxMistakes = 100

// firstMistakes returns the findings up to the last Error that is reported. If there
// are more, it adds an Error that says so. The findings must be in the order of their
// positions.
func firstMistakes(found []Diagnostic) []Diagnostic {
	mistakes := 0
	for i, d := range found {
		if d.Severity != Error {
			continue
		}
		if mistakes++; mistakes > maxMistakes {
			return append(found[:i:i], Diagnostic{
				Pos: d.Pos, Severity: Error, Message: "there are more mistakes from here on", Remedy: "correct the others first",
			})
		}
	}
	return found
}

// Sort puts findings in the order in which people should read them: dangers first, and
// each kind in the order of the file. Errors and warnings are of one kind, as one often
// explains the other.
func Sort(found []Diagnostic) {
	rank := func(d Diagnostic) int {
		switch d.Severity {
		case Danger:
			return 0
		case Note:
			return 2
		}
		return 1
	}
	slices.SortStableFunc(found, func(a, b Diagnostic) int {
		return cmp.Or(cmp.Compare(rank(a), rank(b)), a.Pos.compare(b.Pos))
	})
}

// Fold returns findings for people: all notes become one, at the position of the first.
// Files of real servers have a dozen lines without effect, which would hide what
// matters.
func Fold(found []Diagnostic) []Diagnostic {
	isNote := func(d Diagnostic) bool { return d.Severity == Note }
	var names []string
	var first Diagnostic
	notes := 0
	for _, d := range found {
		if !isNote(d) {
			continue
		}
		if notes++; notes == 1 {
			first = d
		}
		if name := d.keyword + ":"; !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	if notes < 2 {
		return found
	}
	first.Message = fmt.Sprintf("%d lines have no effect here: %s", notes, strings.Join(names, " "))
	first.Remedy = "leave them, or remove them, usher validate --json tells why for each"
	return append(slices.DeleteFunc(slices.Clone(found), isNote), first)
}
