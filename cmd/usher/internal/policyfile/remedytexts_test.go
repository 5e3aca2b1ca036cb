package policyfile

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// sources have the texts of findings about rule, users and groups files.
var sources = []string{"../../../../proxy/rules/*.go", "../../../../proxy/users/*.go", "*.go", "../listen/*.go", "../logging/check.go"}

// golden have all that the parser says, see TestEveryTextIsSaid of package rules.
const golden = "../../../../proxy/rules/testdata/*/*.golden"

// advice begins a remedy. A remedy that begins with another word belongs here.
var advice = regexp.MustCompile(`(?:^|; |, or |, so )(?:add|ask|begin|block|check|choose|correct|did you mean|give|leave|list|make|merge|move|name|put|raise|remove|rename|run|separate|set|shorten|swap|use|write)\b`)

// notObeyed are texts with a remedy of which there is no case, with the reason.
var notObeyed = map[string]string{
	"correct the others first": "the others have cases",
	"leave them, or remove them, usher validate --json tells why for each": "the sum of notes that have cases",
	"merge some of these rules, or check parts of the file separately":     "takes thousands of rules; nothing is wrong with them",
	"rule file: %w; correct USHER_CONFIG":                                  "there is no file that could be corrected",
	"give it one, or name an address":                                      "this machine has no interface without an address",
	"stop the program that listens there, or choose another address":       "about a port of a running service, not about a file",
	"name, ...": "no remedy: the form of a list of names",
	"some names did not resolve within %v; use a longer --timeout":       "depends on resolvers",
	"%q is not an address and a port; write --local like 192.0.2.1:1080": "an option of the command",
}

// remedyText is a text of the sources that has a remedy.
type remedyText struct {
	place, text string
	said        *regexp.Regexp // matches the findings that it makes
}

// Each text with a remedy has a case in testdata/remedies.
func TestRemediesAreKnown(t *testing.T) {
	texts := remedyTexts(t, sources...)
	if len(texts) < 100 {
		t.Fatalf("only %d texts with a remedy; have the sources moved?", len(texts))
	}
	var found []string
	for _, c := range remedies(t) {
		for _, text := range c.load(t, c.before).texts() {
			if strings.Contains(text, c.finds) {
				found = append(found, text)
			}
		}
	}
	allObeyed(t, texts, found)
	// A remedy that advice does not find would need no case.
	files, err := filepath.Glob(golden)
	if err != nil || len(files) < 10 {
		t.Fatal(files, err)
	}
	for _, file := range files {
		content, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(content)) {
			line = strings.TrimSpace(line)
			if !regexp.MustCompile(`^(error|danger|warning|note) \S+:\d+:\d+: `).MatchString(line) {
				continue
			}
			if !slices.ContainsFunc(texts, func(r remedyText) bool { return r.said.MatchString(line) }) {
				t.Errorf("%s: its remedy begins with a word that the test does not know: %s", filepath.Base(file), line)
			}
		}
	}
}

// allObeyed checks that each text, but for those of notObeyed, is among those found.
func allObeyed(t *testing.T, texts []remedyText, found []string) {
	t.Helper()
	for _, r := range texts {
		_, excused := notObeyed[r.text]
		if slices.ContainsFunc(found, r.said.MatchString) == excused {
			t.Errorf("%s: no case obeys %q", r.place, r.text)
		}
	}
}

// remedyTexts returns the texts of the sources that have a remedy.
func remedyTexts(t *testing.T, sources ...string) (all []remedyText) {
	t.Helper()
	for _, pattern := range sources {
		files, err := filepath.Glob(pattern)
		if err != nil || len(files) == 0 {
			t.Fatal(pattern, err)
		}
		for _, file := range files {
			if strings.HasSuffix(file, "_test.go") {
				continue
			}
			set := token.NewFileSet()
			parsed, err := parser.ParseFile(set, file, nil, 0)
			if err != nil {
				t.Fatal(err)
			}
			ast.Inspect(parsed, func(n ast.Node) bool {
				if _, isType := n.(*ast.StructType); isType { // whose tags have help texts
					return false
				}
				expr, ok := n.(ast.Expr)
				if !ok {
					return true
				}
				text, literal := folded(expr)
				if literal && advice.MatchString(text) && strings.Contains(text, " ") {
					said := regexp.QuoteMeta(text)
					said = regexp.MustCompile(`%[a-z]|`+anything).ReplaceAllString(said, `.*`)
					all = append(all, remedyText{set.Position(n.Pos()).String(), text, regexp.MustCompile(said)})
				}
				return !literal
			})
		}
	}
	return all
}

// anything stands in a folded text for what is known only when it is said.
const anything = "\x00"

// folded returns the text of a literal, or of a sum that has one.
func folded(e ast.Expr) (text string, literal bool) {
	switch e := e.(type) {
	case *ast.BasicLit:
		if e.Kind == token.STRING {
			text, err := strconv.Unquote(e.Value)
			return text, err == nil
		}
	case *ast.BinaryExpr:
		if e.Op == token.ADD {
			x, okX := folded(e.X)
			y, okY := folded(e.Y)
			return x + y, okX || okY
		}
	}
	return anything, false
}
