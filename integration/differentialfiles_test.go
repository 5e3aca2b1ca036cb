package integration

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"usher/deploy/need"
)

// fileCase is a line of testdata/differential/files: a file, and whether it is
// accepted, with a reason if Usher differs.
type fileCase struct {
	line                  int // from 1
	text                  string
	danted, usher, reason string
}

const filesTable = casesDir + "/files"

// TestDifferentialFiles checks that Usher accepts the files that danted accepts, and
// refuses the others, except for the listed differences.
func TestDifferentialFiles(t *testing.T) {
	cases := readFileCases(t)
	lines := strings.Split(readFile(t, filesTable), "\n")
	l := newLaboratory(t)
	danted := need.Program(t, "danted")
	differ := 0
	for _, c := range cases {
		config := filepath.Join(l.dir, "sockd.conf")
		writeFile(t, config, c.file())
		byDanted, said := l.verdict(danted, "-V", "-f", config)
		byUsher, objection := l.verdict(usher, "validate", config)
		if *differentialRecord {
			lines[c.line-1] = fmt.Sprintf("%s => %s", c.text, verdictOf(byDanted, byUsher, c.usher, c.reason))
			continue
		}
		if c.reason != "" {
			differ++
		}
		if byDanted != c.danted {
			t.Errorf("%s:%d: %s: danted: %s, written: %s:\n%s", filesTable, c.line, c.text, byDanted, c.danted, said)
		}
		if byUsher != c.usher {
			t.Errorf("%s:%d: %s: usher: %s, want: %s:\n%s", filesTable, c.line, c.text, byUsher, c.usher, objection)
		}
	}
	if *differentialRecord {
		if err := os.WriteFile(filesTable, []byte(strings.Join(lines, "\n")), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("%d files; %d verdicts differ for a reason", len(cases), differ)
}

func readFileCases(t testing.TB) []*fileCase {
	t.Helper()
	var cases []*fileCase
	for i, line := range strings.Split(readFile(t, filesTable), "\n") {
		if strings.HasPrefix(line, "#") || strings.TrimSpace(line) == "" {
			continue
		}
		text, verdict, _ := strings.Cut(line, " => ")
		c := &fileCase{line: i + 1, text: text}
		var err error
		if c.danted, c.usher, c.reason, err = parseVerdict(verdict); err != nil {
			t.Fatalf("%s:%d: %v", filesTable, i+1, err)
		}
		cases = append(cases, c)
	}
	if len(cases) == 0 {
		t.Fatalf("%s has no files", filesTable)
	}
	return cases
}

// file returns the file for danted and Usher.
func (c *fileCase) file() string {
	text, bare := strings.CutPrefix(c.text, "bare:")
	text = strings.NewReplacer(" | ", "\n", ` |`, "\n", `\t`, "\t", `\r`, "\r", `\\`, `\`).Replace(strings.TrimPrefix(text, " "))
	if text != "" {
		text += "\n"
	}
	if bare {
		return text
	}
	return "internal: 127.0.0.1 port = 1080\nexternal: 127.0.0.1\n" + text
}

// verdict runs a program that checks a file, and returns its verdict and its output.
func (l *laboratory) verdict(program string, args ...string) (verdict, said string) {
	l.t.Helper()
	// With the race detector a program rests for a second before it ends.
	cmd := l.command([]string{"GORACE=atexit_sleep_ms=0"}, program, args...)
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	switch {
	case err == nil:
		return "taken", string(out)
	case errors.As(err, &exit) && exit.ExitCode() == 1:
		return "refused", string(out)
	}
	return fmt.Sprintf("%v", err), string(out)
}
