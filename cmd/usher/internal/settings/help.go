package settings

import (
	"fmt"
	"strings"
)

// Help describes every variable: name, kind, default, meaning. The
// indentation makes it a preformatted block in kong's help.
func Help() string {
	var b strings.Builder
	b.WriteString("Everything is set by environment variables:\n\n")
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
	b.WriteString("\nSIGHUP loads the rule file and the files of users and groups anew; a mistake in them keeps the old ones.\n\n" +
		"SIGTERM or SIGINT drains and exits with 0; a second one exits at once.")
	return b.String()
}

// wrap breaks text at blanks into lines of at most width bytes, where it can.
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
