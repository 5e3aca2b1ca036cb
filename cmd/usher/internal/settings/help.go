package settings

import (
	"cmp"
	"fmt"
	"strings"
)

// SignalsHelp says what signals do.
const SignalsHelp = "SIGHUP reloads the rule file, the users file and the groups file. If one of them has a mistake, the old ones stay in force.\n\n" +
	"SIGUSR1 writes the running sessions to the log.\n\n" +
	"SIGUSR2 starts the program anew, and hands the listeners over when the new process is ready. usher upgrade sends it and waits for the result.\n\n" +
	"SIGTERM or SIGINT drains and exits with 0. A second signal, at least a second later, exits at once with 1."

// Variable is the description of one environment variable.
type Variable struct {
	Name, Kind string // Kind is the form of its value
	Default    string // none if it is unset by default
	Help       string
}

// Variables describes all variables in their order.
func Variables() (list []Variable) {
	for _, v := range variables() {
		list = append(list, Variable{v.name, v.kind, cmp.Or(v.def, "none"), v.help})
	}
	return list
}

// Help describes every variable: name, form, default and meaning. The
// indentation makes kong print it as it is.
func Help() string {
	var b strings.Builder
	b.WriteString("Environment variables configure the proxy:\n\n")
	for _, v := range Variables() {
		fmt.Fprintf(&b, "    %s  (%s; default: %s)\n", v.Name, v.Kind, v.Default)
		for _, line := range wrap(v.Help, 68) {
			fmt.Fprintf(&b, "        %s\n", line)
		}
	}
	b.WriteString("\n" + SignalsHelp)
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
