package proxy

import (
	"errors"
	"os"
	"regexp"
	"strings"
	"testing"
)

// TestReasonsAreDocumented holds the table of docs/observability.md to outcomes.
func TestReasonsAreDocumented(t *testing.T) {
	doc, err := os.ReadFile("../docs/observability.md")
	if err != nil {
		t.Fatal(err)
	}
	_, table, _ := strings.Cut(string(doc), "\n| reason | |\n|---|---|\n")
	table, _, _ = strings.Cut(table, "\n\n")
	documented := map[string]bool{}
	for line := range strings.Lines(table) {
		cell, _, _ := strings.Cut(strings.TrimPrefix(line, "|"), "|")
		for _, name := range regexp.MustCompile("`([a-z_]+)`").FindAllStringSubmatch(cell, -1) {
			documented[name[1]] = true
		}
	}
	reasons := map[string]bool{outcomeOf(nil).reason: true, outcomeOf(errors.New("something else")).reason: true}
	for _, o := range outcomes {
		reasons[o.reason] = true
	}
	for reason := range reasons {
		if !documented[reason] {
			t.Errorf("docs/observability.md does not tell what %s is", reason)
		}
		delete(documented, reason)
	}
	for reason := range documented {
		t.Errorf("docs/observability.md tells of %s, which no session ends for", reason)
	}
}
