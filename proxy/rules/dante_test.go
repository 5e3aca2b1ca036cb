package rules

import (
	"compress/gzip"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"usher/deploy/need"
)

func TestMain(m *testing.M) { os.Exit(need.Summary(m).Run()) }

// danteExamples is where Debian's dante-server keeps its examples.
const danteExamples = "/usr/share/doc/dante-server/examples"

// danteVerdicts say for each of Dante's example files whether it is accepted, as it is
// and with all commented lines enabled. They are the beginnings of the errors in their
// order, or empty.
var danteVerdicts = map[string]struct{ asIs, inFull []string }{
	"danted-basic.conf": {},
	"danted-chaining.conf": {
		asIs:   []string{"the file holds only comments"},
		inFull: []string{"route: Usher does not connect through other proxies"},
	},
	"danted.conf": {inFull: []string{
		"socksmethod: is given twice, first as socksmethod:",
		"socksmethod: is given twice, first as socksmethod:",
		"srchost: Usher does not look clients up in the DNS",
		"clientmethod: rfc931: Usher does not support this authentication method",
		"libwrap: Usher does not ask hosts.allow and hosts.deny",
		"clientmethod: username: a client has no name before it negotiates",
		"route: Usher does not connect through other proxies",
	}},
}

// Dante's own examples are accepted, or refused for lines that Usher does not support.
// The test reads the installed files, because their licence is not Usher's.
func TestDanteExamples(t *testing.T) {
	files, err := filepath.Glob(filepath.Join(danteExamples, "*.conf*"))
	if err != nil {
		t.Fatal(err)
	}
	if len(files) == 0 {
		need.Missing(t, "Dante's examples (Debian package dante-server)")
	}
	found := map[string]bool{}
	for _, file := range files {
		name := strings.TrimSuffix(filepath.Base(file), ".gz")
		want, known := danteVerdicts[name]
		if !known {
			t.Errorf("%s: no verdict is written down for it", file)
		}
		found[name] = true
		text := danteExample(t, file)
		compareErrors(t, name, text, want.asIs)
		compareErrors(t, name+" in full", uncommented(text), want.inFull)
	}
	for name := range danteVerdicts {
		if !found[name] {
			t.Errorf("%s: no such example in %s", name, danteExamples)
		}
	}
}

func compareErrors(t *testing.T, name, text string, want []string) {
	t.Helper()
	_, diags := Parse(name, []byte(text), testEnv)
	var got []Diagnostic
	for _, d := range diags {
		if d.Severity == Error {
			got = append(got, d)
		}
	}
	same := len(got) == len(want)
	for i := 0; same && i < len(want); i++ {
		same = strings.HasPrefix(got[i].Message, want[i])
	}
	if !same {
		t.Errorf("%s: got %q, want %q", name, got, want)
	}
}

// uncommented enables the commented lines: those whose comment begins with a keyword, a
// rule or a brace.
func uncommented(text string) string {
	language := newLanguage(keywords)
	rule := regexp.MustCompile(`^((client|socks) (pass|block)|route) *\{|^\}`)
	lines := strings.Split(text, "\n")
	for i, line := range lines {
		code := strings.TrimSpace(strings.TrimLeft(line, "#"))
		word, _, isKeyword := strings.Cut(code, ":")
		if rule.MatchString(code) || isKeyword && language.known(word) {
			lines[i] = code
		}
	}
	return strings.Join(lines, "\n")
}

// danteExample returns the text of an example, which may be compressed.
func danteExample(t *testing.T, file string) string {
	t.Helper()
	text := read(t, file)
	if !strings.HasSuffix(file, ".gz") {
		return string(text)
	}
	z, err := gzip.NewReader(strings.NewReader(string(text)))
	if err != nil {
		t.Fatal(err)
	}
	all, err := io.ReadAll(z)
	if err != nil {
		t.Fatal(err)
	}
	return string(all)
}
