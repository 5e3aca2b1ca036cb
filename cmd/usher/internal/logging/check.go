package logging

import (
	"fmt"

	"usher/cmd/usher/internal/lines"
	"usher/proxy/rules"
)

// Check returns an error finding for each file in logoutput and errorlog that Open
// could not open now, as this user. It creates no file and changes none.
func Check(set rules.Settings) (found []rules.Diagnostic) {
	output, errorsOnly := destinations(set.LogOutput, set.ErrorLog, false)
	check := func(keyword string, at rules.Pos, names []string) {
		for _, name := range names {
			if name == "stderr" || name == "stdout" {
				continue
			}
			if err := lines.Writable(name); err != nil {
				found = append(found, rules.Diagnostic{Pos: at, Severity: rules.Error,
					Message: fmt.Sprintf("%s: usher serve could not open a log file: %v", keyword, err),
					Remedy:  "name a file that usher can write, or stderr"})
			}
		}
	}
	check("logoutput", set.LogOutputAt, output)
	check("errorlog", set.ErrorLogAt, errorsOnly)
	return found
}
