package replica

import (
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"testing"
)

// provedElsewhere are letters of docs/guarantees.md that the simulation has no
// check for. A test of another package proves them.
var provedElsewhere = []string{"P"}

// TestInvariantsAreDocumented: each letter that the simulation may report has a row
// in docs/guarantees.md, and each row there has a check.
func TestInvariantsAreDocumented(t *testing.T) {
	read := func(path string) string {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	checked := map[string]bool{}
	sources, err := filepath.Glob("sim*_test.go")
	if err != nil || len(sources) == 0 {
		t.Fatalf("no sources of the simulation: %v", err)
	}
	for _, path := range sources {
		for _, m := range regexp.MustCompile(`(?:fail\(|letters :?= )"([A-Z])"`).FindAllStringSubmatch(read(path), -1) {
			checked[m[1]] = true
		}
	}
	documented := map[string]bool{}
	for _, m := range regexp.MustCompile(`(?m)^\| ([A-Z]) \| .{20,}`).FindAllStringSubmatch(read("../../docs/guarantees.md"), -1) {
		documented[m[1]] = true
	}
	for _, letter := range provedElsewhere {
		if checked[letter] {
			t.Errorf("the simulation checks %s after all", letter)
		}
		checked[letter] = true
	}
	if !maps.Equal(checked, documented) {
		t.Errorf("checked are %v, docs/guarantees.md has %v", slices.Sorted(maps.Keys(checked)), slices.Sorted(maps.Keys(documented)))
	}
}
