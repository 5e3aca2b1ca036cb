package rules

import (
	"slices"
	"strings"
	"testing"
)

// Whatever the text: no panic, positions inside the text and in order, and
// what is accepted prints to a text that means the same.
func FuzzParse(f *testing.F) {
	for _, pattern := range []string{"testdata/good/*.conf", "testdata/bad/*.conf"} {
		for _, file := range cases(f, pattern) {
			f.Add(read(f, file))
		}
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		set, diags := Parse("fuzz", text, testEnv)
		lines := strings.Count(string(text), "\n") + 1
		for i, d := range diags {
			if d.Pos.Line < 1 || d.Pos.Line > lines || d.Pos.Col < 1 || d.Message == "" || d.Remedy == "" {
				t.Errorf("finding out of place: %s", d)
			}
			if i > 0 && d.Pos.Line < diags[i-1].Pos.Line {
				t.Errorf("findings out of order: %s", findings(diags))
			}
		}
		isError := func(d Diagnostic) bool { return d.Severity == Error }
		if (set == nil) != slices.ContainsFunc(diags, isError) {
			t.Fatalf("set %v with\n%s", set, findings(diags))
		}
		if set == nil {
			return
		}
		if set.String() != "" { // it is for settings that have no effect, and no rule
			checkCanonical(t, set)
		}
	})
}
