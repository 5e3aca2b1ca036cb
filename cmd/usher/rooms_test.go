package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const below = "usher/cmd/usher/internal/"

// rooms are the packages of the command, each with the others that it may know. A room
// that is not named knows none. What all of them may know: settings, the values that
// the environment gives; exit and build, which are leaves.
var rooms = map[string][]string{
	"accounting": {"lines"},
	"await":      {"follow", "handover", "inforce", "listen", "logging", "monitor", "signals", "stores", "systemd"},
	"control":    {"signals"},
	"counting":   {"stores", "storewatch"},
	"inforce":    {"follow", "listen", "logging", "policyfile"},
	"logging":    {"lines"},
	"inspect":    {"complete", "control", "screen", "show"},
	"monitor":    {"agent", "handover", "listen"},
	"overview":   {"policyfile"},
	"policyfile": {"listen"}, // interfaces that rules name
	"show":       {"screen"},
	"publish":    {"policyfile", "rollout", "validate"},
	"validate":   {"policyfile"},
	// The running service puts its parts together.
	"serve": {"accounting", "agent", "await", "counting", "follow", "handover", "inforce", "listen", "logging", "monitor", "overview", "replicas", "signals", "systemd"},
}

// TestRoomsKnowOnlyThese compares the imports of the packages with the list, in both
// directions: each listed import is needed.
func TestRoomsKnowOnlyThese(t *testing.T) {
	out, err := exec.Command("go", "list", "-f", `{{.ImportPath}}:{{join .Imports " "}}`, "usher/cmd/usher/internal/...").Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	found := map[string][]string{}
	for line := range strings.Lines(string(out)) {
		path, imports, _ := strings.Cut(strings.TrimSpace(line), ":")
		room := strings.TrimPrefix(path, below)
		for _, to := range strings.Fields(imports) {
			to, inside := strings.CutPrefix(to, below)
			if !inside || slices.Contains([]string{"settings", "exit", "build"}, to) {
				continue
			}
			found[room] = append(found[room], to)
			if !slices.Contains(rooms[room], to) {
				t.Errorf("%s imports %s: hand in what it needs, or say here why", room, to)
			}
		}
	}
	for room, list := range rooms {
		for _, to := range list {
			if !slices.Contains(found[room], to) {
				t.Errorf("%s may import %s, and does not", room, to)
			}
		}
	}
}

// mostLines is how many lines of code package main may have. What a verb does belongs
// to a room. The verb itself is flags, a call and printing.
const mostLines = 850

// TestMainStaysSmall counts the lines that are neither empty nor a comment.
func TestMainStaysSmall(t *testing.T) {
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	lines := 0
	for _, name := range files {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(text)) {
			if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "//") {
				lines++
			}
		}
	}
	if lines > mostLines {
		t.Errorf("package main has %d lines of code; %d are allowed", lines, mostLines)
	}
	t.Logf("%d lines of code", lines)
}
