package accounting

import (
	"fmt"

	"usher/cmd/usher/internal/lines"
	"usher/proxy/rules"
)

const (
	stdout = "stdout"
	remedy = "name a file that usher can write, or stdout"
)

// Check returns an error finding if Open could not open the destination now, as this
// user. It creates no file and changes none.
func Check(to string) []rules.Diagnostic {
	if to == "" || to == stdout {
		return nil
	}
	err := lines.Writable(to)
	if err == nil {
		return nil
	}
	return []rules.Diagnostic{{
		Severity: rules.Error, Remedy: remedy,
		Message: fmt.Sprintf("USHER_ACCOUNTING: usher serve could not open its destination: %v", err),
	}}
}
