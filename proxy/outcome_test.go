package proxy

import (
	"errors"
	"fmt"
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

// TestRepliesAreDocumented holds the table of replies in docs/observability.md
// to outcomes.
func TestRepliesAreDocumented(t *testing.T) {
	doc, err := os.ReadFile("../docs/observability.md")
	if err != nil {
		t.Fatal(err)
	}
	_, table, _ := strings.Cut(string(doc), "\n| reply | reasons |\n|---|---|\n")
	table, _, _ = strings.Cut(table, "\n\n")
	type answer struct {
		code   int
		reason string
	}
	documented := map[answer]bool{}
	for line := range strings.Lines(table) {
		var code int
		if _, err := fmt.Sscanf(line, "| %d,", &code); err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		for _, name := range regexp.MustCompile("`([a-z_]+)`").FindAllStringSubmatch(line, -1) {
			documented[answer{code, name[1]}] = true
		}
	}
	given := map[answer]bool{}
	for _, o := range append(outcomes, outcomeOf(errors.New("something else"))) {
		if o.code != silent {
			given[answer{int(o.code), o.reason}] = true
		}
	}
	for a := range given {
		if !documented[a] {
			t.Errorf("docs/observability.md does not say that %s is answered with %d", a.reason, a.code)
		}
		delete(documented, a)
	}
	for a := range documented {
		t.Errorf("docs/observability.md says that %s is answered with %d, which no error is", a.reason, a.code)
	}
}
