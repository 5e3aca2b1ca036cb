package logging

import (
	"path/filepath"
	"strings"
	"testing"

	"usher/proxy/rules"
)

// Each file that could not be opened is an error at its line of the rules.
func TestCheck(t *testing.T) {
	dir := t.TempDir()
	found := Check(rules.Settings{
		LogOutput:   []string{"stderr", filepath.Join(dir, "new"), filepath.Join(dir, "nowhere", "log")},
		LogOutputAt: rules.Pos{Line: 3},
		ErrorLog:    []string{"stdout", filepath.Join(dir, "nowhere", "errors")},
		ErrorLogAt:  rules.Pos{Line: 4},
	})
	if len(found) != 2 {
		t.Fatalf("%d findings, want 2: %v", len(found), found)
	}
	for i, want := range []string{"nowhere/log", "nowhere/errors"} {
		if f := found[i]; f.Severity != rules.Error || f.Pos.Line != 3+i || !strings.Contains(f.Message, want) || f.Remedy == "" {
			t.Errorf("%+v, want an error about %s", f, want)
		}
	}
}
