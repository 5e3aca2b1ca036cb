package integration

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// casebook is testdata/differential: files of cases, and the reasons why some answers
// differ.
type casebook struct {
	files   []*caseFile
	reasons map[string]string // by name, in the words of docs/migrating-from-dante.md
}

type caseFile struct {
	path   string
	lines  []string
	trials []*ruleCase
}

// ruleCase is a file of rules, and questions to a proxy that uses it.
type ruleCase struct {
	file  string
	title string
	bare  bool // nothing is added to the rules but where to listen and to leave from
	rules string
	steps []*caseStep
}

// caseStep is a line of a case
//
//	QUESTION => ANSWER
//	QUESTION => ANSWER OF DANTED != ANSWER OF USHER : REASON
type caseStep struct {
	line          int // from 1
	text          string
	question      question
	danted, usher string
	reason        string
}

func (s *caseStep) differs() bool { return s.reason != "" }

func (tr *ruleCase) name() string {
	return strings.TrimSuffix(filepath.Base(tr.file), ".txt") + "/" + tr.title
}

const casesDir = "testdata/differential"

// readCases reads the case book. A file is a list of cases
//
//	== TITLE [bare]
//	RULES
//	--
//	STEPS
//
// In rules, " | " stands for a line's end, and so does the blank before the
// "}" of a rule on one line, as danted wants them there. Lines that begin
// with # are comments everywhere.
func readCases(t testing.TB) *casebook {
	t.Helper()
	b := &casebook{reasons: readReasons(t)}
	paths, err := filepath.Glob(filepath.Join(casesDir, "*.txt"))
	if err != nil || len(paths) == 0 {
		t.Fatalf("no cases in %s: %v", casesDir, err)
	}
	for _, path := range paths {
		f, err := parseCases(path, readFile(t, path))
		if err != nil {
			t.Fatal(err)
		}
		b.files = append(b.files, f)
	}
	return b
}

func readReasons(t testing.TB) map[string]string {
	t.Helper()
	reasons := map[string]string{}
	for line := range strings.Lines(readFile(t, filepath.Join(casesDir, "reasons"))) {
		if name, words, ok := strings.Cut(strings.TrimSpace(line), ": "); ok && !strings.HasPrefix(line, "#") {
			reasons[name] = words
		}
	}
	return reasons
}

func parseCases(path, text string) (*caseFile, error) {
	f := &caseFile{path: path, lines: strings.Split(text, "\n")}
	var tr *ruleCase
	asking := false
	for i, line := range f.lines {
		title, isTitle := strings.CutPrefix(line, "== ")
		switch {
		case strings.HasPrefix(line, "#") || strings.TrimSpace(line) == "":
		case isTitle:
			tr = &ruleCase{file: path}
			tr.title, tr.bare = strings.CutSuffix(title, " [bare]")
			f.trials = append(f.trials, tr)
			asking = false
		case tr == nil:
			return nil, fmt.Errorf("%s:%d: no case has begun", path, i+1)
		case line == "--":
			asking = true
		case asking:
			s, err := parseStep(line)
			if err != nil {
				return nil, fmt.Errorf("%s:%d: %w", path, i+1, err)
			}
			s.line = i + 1
			tr.steps = append(tr.steps, s)
		default:
			tr.rules += line + "\n"
		}
	}
	return f, nil
}

func parseStep(line string) (*caseStep, error) {
	text, verdict, _ := strings.Cut(line, "=>")
	s := &caseStep{text: strings.TrimSpace(text)}
	var err error
	if s.danted, s.usher, s.reason, err = parseVerdict(verdict); err != nil {
		return nil, err
	}
	s.question, err = parseQuestion(s.text)
	return s, err
}

// parseVerdict reads the answer of both proxies, or the answer of each and the reason.
func parseVerdict(text string) (danted, usher, reason string, err error) {
	text, reason, differ := strings.Cut(text, " : ")
	danted, usher, both := strings.Cut(text, "!=")
	danted, usher, reason = strings.TrimSpace(danted), strings.TrimSpace(usher), strings.TrimSpace(reason)
	if both != differ || both && (danted == usher || reason == "") {
		return "", "", "", fmt.Errorf("a difference without a reason, or a reason without a difference: %s", text)
	}
	if !both {
		usher = danted
	}
	return danted, usher, reason, nil
}

// verdictOf is the inverse of parseVerdict. A known difference keeps its reason, a new
// one gets "?".
func verdictOf(danted, usher, known, reason string) string {
	switch {
	case danted == usher:
		return danted
	case usher == known && reason != "":
		return fmt.Sprintf("%s != %s : %s", danted, usher, reason)
	}
	return fmt.Sprintf("%s != %s : ?", danted, usher)
}

// config returns the file for both proxies.
func (tr *ruleCase) config() string {
	rules := strings.NewReplacer(" | ", "\n", " }", "\n}").Replace(tr.rules)
	has := func(keyword string) bool {
		return strings.HasPrefix(tr.rules, keyword) || strings.Contains(tr.rules, "\n"+keyword)
	}
	var b strings.Builder
	b.WriteString("errorlog: stderr\nlogoutput: stderr\nuser.privileged: root\nuser.unprivileged: nobody\n")
	if !has("internal:") {
		for _, addr := range internals {
			fmt.Fprintf(&b, "internal: %s port = 1080\n", addr)
		}
	}
	if !has("external:") {
		b.WriteString("external: 127.0.0.1\nexternal: ::1\n")
	}
	if !tr.bare && !has("socksmethod:") {
		b.WriteString("socksmethod: username none\n")
	}
	// Settings come first, so the rule that lets everybody in stands before the first rule.
	if !tr.bare && !has("client ") {
		at := 0
		for line := range strings.Lines(rules) {
			if strings.HasPrefix(line, "socks ") || strings.HasPrefix(line, "pass") || strings.HasPrefix(line, "block") {
				break
			}
			at += len(line)
		}
		rules = rules[:at] + "client pass {\n\tfrom: 0/0 to: 0/0\n}\n" + rules[at:]
	}
	b.WriteString(rules)
	return b.String()
}

// record writes the answers into the files. A new difference gets the reason "?".
func (b *casebook) record(t testing.TB, got []answers) {
	t.Helper()
	for _, f := range b.files {
		for _, tr := range f.trials {
			width := 0
			for _, s := range tr.steps {
				width = max(width, len(s.text))
			}
			for i, s := range tr.steps {
				danted, usher := got[0].danted[i], got[0].usher[i]
				line := fmt.Sprintf("%-*s => %s", width, s.text, verdictOf(danted, usher, s.usher, s.reason))
				f.lines[s.line-1] = line
			}
			got = got[1:]
		}
		if err := os.WriteFile(f.path, []byte(strings.Join(f.lines, "\n")), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}
