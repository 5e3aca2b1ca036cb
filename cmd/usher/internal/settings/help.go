package settings

import (
	"fmt"
	"strings"
)

// Help describes every variable: name, form, default and meaning. The
// indentation makes kong print it as it is.
func Help() string {
	var b strings.Builder
	b.WriteString("Environment variables configure the proxy:\n\n")
	for _, v := range variables() {
		def := v.def
		if def == "" {
			def = "none"
		}
		fmt.Fprintf(&b, "    %s  (%s; default: %s)\n", v.name, v.kind, def)
		for _, line := range wrap(v.help, 68) {
			fmt.Fprintf(&b, "        %s\n", line)
		}
	}
	b.WriteString("\nSIGHUP reloads the rule file, the users file and the groups file. If one of them has a mistake, the old ones stay in force.\n\n" +
		"SIGTERM or SIGINT drains and exits with 0. A second signal, at least a second later, exits at once with 1.")
	return b.String()
}

// wrap breaks text at blanks into lines of at most width bytes; a longer word
// gets a line of its own.
func wrap(text string, width int) (lines []string) {
	line := ""
	for _, word := range strings.Fields(text) {
		if line != "" && len(line)+1+len(word) > width {
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
