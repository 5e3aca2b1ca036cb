package main

import (
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"unicode"
)

const top = "../.."

// pages returns the texts of the documentation by their paths below the top.
func pages(t *testing.T) map[string]string {
	t.Helper()
	found := map[string]string{}
	for _, pattern := range []string{"*.md", "docs/*.md"} {
		paths, err := filepath.Glob(filepath.Join(top, pattern))
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range paths {
			text, err := os.ReadFile(p)
			if err != nil {
				t.Fatal(err)
			}
			name, err := filepath.Rel(top, p)
			if err != nil {
				t.Fatal(err)
			}
			found[filepath.ToSlash(name)] = string(text)
		}
	}
	if len(found) < 10 {
		t.Fatalf("only %d pages", len(found))
	}
	return found
}

var (
	fence   = regexp.MustCompile("(?ms)^```.*?^```")
	heading = regexp.MustCompile(`(?m)^#+ +(.*)$`)
	link    = regexp.MustCompile(`\]\(([^)\s]+)\)`)
)

// anchors returns the link targets of the headings of a page, as GitHub makes them:
// lower case, hyphens for blanks, and a number if the same heading came before.
func anchors(page string) map[string]bool {
	found := map[string]bool{}
	for _, h := range heading.FindAllStringSubmatch(fence.ReplaceAllString(page, ""), -1) {
		text := regexp.MustCompile(`\[([^]]*)\]\([^)]*\)`).ReplaceAllString(h[1], "$1")
		a := strings.Map(func(r rune) rune {
			switch {
			case r == ' ':
				return '-'
			case unicode.IsLetter(r), unicode.IsDigit(r), r == '-', r == '_':
				return unicode.ToLower(r)
			}
			return -1
		}, strings.TrimSpace(text))
		name := a
		for n := 1; found[name]; n++ {
			name = a + "-" + string(rune('0'+n))
		}
		found[name] = true
	}
	return found
}

// TestLinksResolve follows every relative link of the documentation, to the
// file and to the heading.
func TestLinksResolve(t *testing.T) {
	all := pages(t)
	checked := 0
	for name, page := range all {
		for _, m := range link.FindAllStringSubmatch(fence.ReplaceAllString(page, ""), -1) {
			if strings.Contains(m[1], "://") || strings.HasPrefix(m[1], "mailto:") {
				continue
			}
			checked++
			file, anchor, hasAnchor := strings.Cut(m[1], "#")
			target := name
			if file != "" {
				target = filepath.ToSlash(filepath.Join(filepath.Dir(name), file))
			}
			if _, err := os.Stat(filepath.Join(top, target)); err != nil {
				t.Errorf("%s: %s: there is no %s", name, m[1], target)
			} else if hasAnchor && !anchors(all[target])[anchor] {
				t.Errorf("%s: %s: no heading of %s has this name", name, m[1], target)
			}
		}
	}
	if checked < 30 {
		t.Errorf("only %d links", checked)
	}
}

// goPackages returns the folders with Go files below a folder.
func goPackages(t *testing.T, root string) (found []string) {
	t.Helper()
	err := filepath.WalkDir(filepath.Join(top, root), func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, ".go") || strings.Contains(path, "testdata") {
			return err
		}
		name, err := filepath.Rel(top, filepath.Dir(path))
		if name = filepath.ToSlash(name); !slices.Contains(found, name) {
			found = append(found, name)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// TestArchitectureIsTrue compares docs/architecture.md with the tree: its map has every
// package, and every file that it names exists.
func TestArchitectureIsTrue(t *testing.T) {
	page := pages(t)["docs/architecture.md"]
	_, chart, _ := strings.Cut(page, "\n## Packages\n")
	chart, _, _ = strings.Cut(chart, "\n## ")
	mapped := map[string]bool{}
	for line := range strings.Lines(fence.FindString(chart)) {
		if words := strings.Fields(line); len(words) > 1 {
			mapped[words[0]] = true
		}
	}
	for _, root := range []string{"cmd", "proxy", "limiter", "store", "deploy"} {
		for _, p := range goPackages(t, root) {
			if !mapped[p] {
				t.Errorf("the map of packages lacks %s", p)
			}
		}
	}
	named := regexp.MustCompile("`((?:cmd|proxy|limiter|store|deploy|integration)(?:/[A-Za-z0-9_./]+)?)`").FindAllStringSubmatch(page, -1)
	if len(named) < 30 {
		t.Errorf("only %d files are named", len(named))
	}
	for p := range mapped {
		named = append(named, []string{"", p})
	}
	for _, m := range named {
		if _, err := os.Stat(filepath.Join(top, m[1])); err != nil {
			t.Errorf("docs/architecture.md names %s, which does not exist", m[1])
		}
	}
}

// source returns the text of all Go files below these folders.
func source(t *testing.T, roots ...string) string {
	t.Helper()
	var all strings.Builder
	for _, root := range roots {
		for _, dir := range goPackages(t, root) {
			files, err := filepath.Glob(filepath.Join(top, dir, "*.go"))
			if err != nil {
				t.Fatal(err)
			}
			for _, f := range files {
				text, err := os.ReadFile(f)
				if err != nil {
					t.Fatal(err)
				}
				all.Write(text)
			}
		}
	}
	return all.String()
}

// TestLogMessagesExist compares the table of log lines in docs/observability.md with
// the source.
func TestLogMessagesExist(t *testing.T) {
	_, table, _ := strings.Cut(pages(t)["docs/observability.md"], "\n| message | when |\n|---|---|\n")
	table, _, _ = strings.Cut(table, "\n\n")
	code := source(t, "cmd", "proxy")
	found := 0
	for line := range strings.Lines(table) {
		cell, _, _ := strings.Cut(strings.TrimPrefix(line, "|"), "|")
		for _, message := range regexp.MustCompile("`([^`]+)`").FindAllStringSubmatch(cell, -1) {
			found++
			if !strings.Contains(code, `"`+message[1]+`"`) {
				t.Errorf("docs/observability.md has a log line %q, the source has none", message[1])
			}
		}
	}
	if found < 5 {
		t.Errorf("only %d log lines", found)
	}
}

// TestReadmeRules validates the rule file that README.md shows.
func TestReadmeRules(t *testing.T) {
	_, file, ok := strings.Cut(pages(t)["README.md"], "\n```\n# sockd.conf\n")
	file, _, closed := strings.Cut(file, "```\n")
	if !ok || !closed {
		t.Fatal("README.md shows no sockd.conf")
	}
	out, err := exec.Command("usher", "validate", ruleFile(t, file)).CombinedOutput()
	if err != nil || strings.Contains(string(out), "warning") {
		t.Errorf("%v: %s", err, out)
	}
}

// TestNamedTestsExist checks that the tests that pages name exist.
func TestNamedTestsExist(t *testing.T) {
	code := source(t, "cmd", "proxy", "limiter", "store", "integration")
	for name, page := range pages(t) {
		for _, m := range regexp.MustCompile(`\bTest[A-Z][A-Za-z0-9]+\*?`).FindAllString(page, -1) {
			function := "func " + strings.TrimSuffix(m, "*")
			if !strings.HasSuffix(m, "*") {
				function += "("
			}
			if !strings.Contains(code, function) {
				t.Errorf("%s names %s, which is no test", name, m)
			}
		}
	}
	guarantees := pages(t)["docs/guarantees.md"]
	_, table, _ := strings.Cut(guarantees, "\n## Promises\n")
	table, _, _ = strings.Cut(table, "\n## ")
	for _, m := range regexp.MustCompile(`"([^"]+)"`).FindAllStringSubmatch(table, -1) {
		if !strings.Contains(code, `"`+m[1]+`"`) {
			t.Errorf("docs/guarantees.md names the case %q, which is not a test", m[1])
		}
	}
}
