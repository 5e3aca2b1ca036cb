// Package complete completes command lines of usher in shells. The scripts for the shells
// are small: they ask the program itself, which knows its verbs, flags and values, and
// can ask a running usher.
package complete

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/alecthomas/kong"

	"usher/proxy/printable"
)

// Candidate is a word that can stand at the place of the cursor.
type Candidate struct{ Value, Help string }

// Files says in place of candidates that the names of files can stand there.
var Files = []Candidate{{Value: ":files"}}

func isFiles(list []Candidate) bool { return slices.Equal(list, Files) }

// Values returns the candidates of a kind: the value of the tag complete of a flag or
// argument, such as session.
type Values func(kind string) []Candidate

// Candidates returns what can be the last of these words, which follow the name of the
// program. The last one is what was typed of it so far.
func Candidates(app *kong.Application, words []string, values Values) []Candidate {
	if len(words) == 0 {
		words = []string{""}
	}
	c := line{node: app.Node, values: values}
	for _, word := range words[:len(words)-1] {
		c.read(word)
	}
	last := words[len(words)-1]
	list := c.candidates(last)
	if isFiles(list) {
		return list
	}
	list = slices.DeleteFunc(list, func(c Candidate) bool { return c.Value == "" || !strings.HasPrefix(c.Value, last) })
	slices.SortFunc(list, func(a, b Candidate) int { return strings.Compare(a.Value, b.Value) })
	return slices.Compact(list)
}

// line is a command line up to some word.
type line struct {
	node   *kong.Node
	values Values
	flags  map[*kong.Flag]bool // that were given
	flag   *kong.Flag          // whose value comes next
	places int                 // positional arguments that were given
	plain  bool                // after --: no flags any more
}

// read takes a complete word.
func (c *line) read(word string) {
	switch {
	case c.flag != nil:
		c.flag = nil
	case word == "--" && !c.plain:
		c.plain = true
	case strings.HasPrefix(word, "-") && len(word) > 1 && !c.plain:
		name, _, valued := strings.Cut(word, "=")
		f := c.find(name)
		if f == nil {
			return
		}
		if c.flags == nil {
			c.flags = map[*kong.Flag]bool{}
		}
		c.flags[f] = true
		if !f.IsBool() && !valued {
			c.flag = f
		}
	default:
		for _, child := range c.node.Children {
			if child.Type == kong.CommandNode && child.Name == word {
				c.node, c.places = child, 0
				return
			}
		}
		c.places++
	}
}

// find returns the flag with a name such as --rule or -w.
func (c *line) find(name string) *kong.Flag {
	for _, group := range c.node.AllFlags(true) {
		for _, f := range group {
			if "--"+f.Name == name || f.Short != 0 && "-"+string(f.Short) == name {
				return f
			}
		}
	}
	return nil
}

// candidates returns what can stand at the place of a word that begins so.
func (c *line) candidates(begin string) []Candidate {
	name, _, valued := strings.Cut(begin, "=")
	switch {
	case c.flag != nil:
		return c.of(c.flag.Value)
	case strings.HasPrefix(begin, "--") && valued && !c.plain:
		f := c.find(name)
		if f == nil {
			return nil
		}
		list := c.of(f.Value)
		if isFiles(list) {
			return list
		}
		for i := range list {
			list[i].Value = name + "=" + list[i].Value
		}
		return list
	case strings.HasPrefix(begin, "-") && !c.plain:
		return c.names()
	}
	return c.arguments()
}

// names returns the flags that were not given yet.
func (c *line) names() (list []Candidate) {
	for _, group := range c.node.AllFlags(true) {
		for _, f := range group {
			if !c.flags[f] {
				list = append(list, Candidate{"--" + f.Name, brief(f.Help)})
			}
		}
	}
	return list
}

// arguments returns the verbs, or the values of the positional argument.
func (c *line) arguments() (list []Candidate) {
	for _, child := range c.node.Children {
		if child.Type == kong.CommandNode && !child.Hidden {
			list = append(list, Candidate{child.Name, brief(child.Help)})
		}
	}
	if n := len(c.node.Positional); n > 0 {
		place := c.node.Positional[min(c.places, n-1)]
		if c.places < n || place.IsCumulative() {
			list = append(list, c.of(place)...)
		}
	}
	return list
}

// of returns the values of a flag or argument.
func (c *line) of(v *kong.Value) (list []Candidate) {
	if v.Enum != "" {
		for _, value := range v.EnumSlice() {
			list = append(list, Candidate{Value: value})
		}
		return list
	}
	switch kind := v.Tag.Get("complete"); {
	case kind == "file", kind == "" && cmp.Or(v.Tag.PlaceHolder, v.Name) == "FILE", v.Name == "file":
		return slices.Clone(Files)
	case kind != "" && c.values != nil:
		return c.values(kind)
	}
	return nil
}

// brief returns the first sentence of a help text.
func brief(help string) string {
	if sentence, _, more := strings.Cut(help, ". "); more {
		return sentence
	}
	return strings.TrimSuffix(help, ".")
}

// Write writes candidates for the script of a shell: one a line, with a tab before the
// help.
func Write(w io.Writer, list []Candidate) error {
	for _, c := range list {
		text := printable.Text(c.Value)
		if text != c.Value {
			continue // it could not be typed
		}
		if c.Help != "" {
			text += "\t" + printable.Text(c.Help)
		}
		if _, err := fmt.Fprintln(w, text); err != nil {
			return err
		}
	}
	return nil
}
