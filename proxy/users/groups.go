package users

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Groups is the content of one groups file. It never changes, and is safe for
// concurrent use. A nil Groups has no group.
type Groups struct {
	members map[string]map[string]bool // by group, then user
}

// LoadGroups reads a groups file, in the format of Apache's htgroup: one
// "group: user user ..." a line, empty lines and lines that begin with #
// ignored. Lines of the same group add up; a group may be empty. If lines of
// the file cannot be used, the error joins a *LineError for each of them and
// there are no Groups.
func LoadGroups(path string) (*Groups, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("groups file: %w", err)
	}
	g := &Groups{members: make(map[string]map[string]bool)}
	var errs []error
	for i, line := range strings.Split(string(text), "\n") {
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' {
			continue
		}
		if what, remedy := g.add(line); what != "" {
			if len(errs) == maxMistakes {
				errs = append(errs, moreMistakes(path, i+1))
				break
			}
			errs = append(errs, &LineError{File: path, Line: i + 1, What: what, Remedy: remedy})
		}
	}
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	return g, nil
}

// add adds one line. If it cannot, it returns what is wrong with the line, and the
// remedy.
func (g *Groups) add(line string) (what, remedy string) {
	const form = `write it as "group: user user"`
	group, rest, ok := strings.Cut(line, ":")
	group = strings.TrimSpace(group)
	switch {
	case !ok:
		return "there is no colon after the group", form
	case group == "":
		return "the group has no name", form
	case strings.ContainsFunc(group, unicode.IsSpace):
		return fmt.Sprintf("the group %q has a blank in its name", group), "rename it: no rule can name it"
	case !utf8.ValidString(line) || strings.ContainsFunc(strings.ReplaceAll(line, "\t", " "), unicode.IsControl):
		return "the line has control characters or is not UTF-8", "remove them"
	case strings.ContainsAny(rest, ":,"):
		return fmt.Sprintf("a colon or a comma is among the users of the group %q", group), "separate users by blanks"
	}
	if g.members[group] == nil {
		g.members[group] = make(map[string]bool)
	}
	for _, user := range strings.Fields(rest) {
		g.members[group][user] = true
	}
	return "", ""
}

// Has reports whether the file has a group, even an empty one.
func (g *Groups) Has(group string) bool {
	if g == nil {
		return false
	}
	_, ok := g.members[group]
	return ok
}

// In reports whether user is in group. Both are case-sensitive.
func (g *Groups) In(group, user string) bool { return g != nil && g.members[group][user] }
