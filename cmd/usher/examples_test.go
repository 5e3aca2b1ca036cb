package main

import (
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"usher/cmd/usher/internal/exit"
)

// TestDocumentedExamples runs the examples of pages. A fenced block whose first line is
// "# NAME.conf" is a file. A block of the language console has commands and their
// output, in which "..." stands for any text. There must be a command for each file.
func TestDocumentedExamples(t *testing.T) {
	for _, c := range []struct {
		page  string
		files int // at least
	}{{"rules.md", 12}, {"migrating-from-dante.md", 1}} {
		t.Run(c.page, func(t *testing.T) {
			page, err := filepath.Abs(filepath.Join("../../docs", c.page))
			if err != nil {
				t.Fatal(err)
			}
			text, err := os.ReadFile(page)
			if err != nil {
				t.Fatal(err)
			}
			t.Chdir(t.TempDir())
			const hash = "$2b$05$abcdefghijklmnopqrstuutXu9KzOt.1yBoZUeFWoT/914/JfszCO"
			write(t, "users", "monica:"+hash+"\nada:"+hash+"\nbob:"+hash+"\n")
			write(t, "groups", "staff: monica ada\nguests: bob\n")
			asked := runExamples(t, string(text))
			if len(asked) < c.files {
				t.Errorf("%d files with questions, want %d; has the page another form?", len(asked), c.files)
			}
		})
	}
}

var (
	fences   = regexp.MustCompile("(?ms)^```(\\w*)\n(.*?)^```$")
	fileName = regexp.MustCompile(`\A# (\w+\.conf)\n`)
)

// runExamples runs the blocks of a page and returns the files that were asked about.
func runExamples(t *testing.T, page string) map[string]bool {
	t.Helper()
	asked := map[string]bool{}
	var files []string
	for _, block := range fences.FindAllStringSubmatch(page, -1) {
		language, text := block[1], block[2]
		if name := fileName.FindStringSubmatch(text); name != nil {
			if err := os.WriteFile(name[1], []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			files = append(files, name[1])
		}
		if language != "console" {
			continue
		}
		env := map[string]string{}
		for _, command := range strings.Split("\n"+text, "\n$ ")[1:] {
			line, want, _ := strings.Cut(command, "\n")
			if settings, ok := strings.CutPrefix(line, "export "); ok {
				for _, setting := range strings.Fields(settings) {
					name, value, _ := strings.Cut(setting, "=")
					env[name] = value
				}
				asked[env["USHER_CONFIG"]] = true
				continue
			}
			words := strings.Fields(line)
			asked[words[len(words)-1]] = true
			runExample(t, env, words, strings.TrimSpace(want))
		}
	}
	for _, name := range files {
		if !asked[name] {
			t.Errorf("%s: no question follows", name)
		}
		noWarnings(t, name)
	}
	for name := range asked {
		if !strings.HasSuffix(name, ".conf") {
			delete(asked, name)
		}
	}
	return asked
}

// runExample compares the output of a command with the page.
func runExample(t *testing.T, env map[string]string, words []string, want string) {
	t.Helper()
	var out strings.Builder
	err := run(t.Context(), words[1:], system{environ: env, stdin: strings.NewReader(""), stdout: &out, stderr: &out})
	if quiet := exit.CodeError(0); err != nil && !errors.As(err, &quiet) {
		t.Errorf("%q: %v", words, err)
		return
	}
	pattern := strings.ReplaceAll(regexp.QuoteMeta(want), `\.\.\.`, `(?s:.*)`)
	if got := strings.TrimSpace(out.String()); !regexp.MustCompile(`\A` + pattern + `\z`).MatchString(got) {
		t.Errorf("$ %s\ngot\n%s\nthe page has\n%s", strings.Join(words, " "), got, want)
	}
}

// noWarnings checks that a file has no findings, except that its list of private
// targets is incomplete.
func noWarnings(t *testing.T, name string) {
	t.Helper()
	var out strings.Builder
	env := map[string]string{"USHER_USERS_FILE": "users", "USHER_GROUPS_FILE": "groups"}
	if err := run(t.Context(), []string{"validate", name}, system{environ: env, stdout: &out, stderr: &out}); err != nil {
		t.Errorf("%s: %v", name, err)
	}
	for line := range strings.Lines(out.String()) {
		if !strings.Contains(line, ": good; ") && !strings.Contains(line, ": danger: this rule lets clients reach ") {
			t.Errorf("%s", line)
		}
	}
}
