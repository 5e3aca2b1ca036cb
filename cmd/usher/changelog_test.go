package main

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

var (
	code         = regexp.MustCompile("`[^`]*`")
	abbreviation = regexp.MustCompile(`\b(e\.g|i\.e|vs|etc|cf)\.`)
	nextSentence = regexp.MustCompile(`[.!?]\)?\s+\S`)
)

// oneSentence reports whether an entry of the changelog is one sentence, as far as
// punctuation shows.
func oneSentence(entry string) bool {
	text := code.ReplaceAllString(entry, "code")
	text = abbreviation.ReplaceAllString(text, "$1")
	return strings.HasSuffix(text, ".") && !nextSentence.MatchString(text)
}

// Each change has one line of one sentence. The details are in the documentation.
func TestChangelogHasOneSentenceAnEntry(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(top, "CHANGELOG.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, releases, found := strings.Cut(string(text), "\n## ")
	if !found {
		t.Fatal("CHANGELOG.md has no release")
	}
	entries := 0
	for _, line := range strings.Split("## "+releases, "\n") {
		entry, is := strings.CutPrefix(line, "- ")
		switch {
		case line == "", strings.HasPrefix(line, "#"):
		case !is:
			t.Errorf("neither a heading nor an entry of one line: %s", line)
		case !oneSentence(entry):
			t.Errorf("not one sentence; move the details to docs: %s", entry)
		default:
			entries++
		}
	}
	if entries == 0 {
		t.Error("CHANGELOG.md has no entry")
	}
}

func TestOneSentence(t *testing.T) {
	for entry, want := range map[string]bool{
		"Usher does this, e.g. at a reload.":        true,
		"`to: eth0.` and `a. B` are errors.":        true,
		"Version 1.4 works, at 0.5 times the cost.": true,
		"Usher does this. It also does that.":       false,
		"Usher does this. `code` counts it.":        false,
		"Usher does this (and that.) Then more.":    false,
		"Usher does this":                           false,
	} {
		if oneSentence(entry) != want {
			t.Errorf("%q: %t, want %t", entry, !want, want)
		}
	}
}
