package logging

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
	"unicode"
	"unicode/utf8"

	"usher/cmd/usher/internal/settings"
	"usher/proxy/rules"
)

func TestDestinations(t *testing.T) {
	for _, c := range []struct {
		logOutput, errorLog string
		same                bool // stdout and stderr are one file
		output, errorsOnly  string
	}{
		{"", "", false, "stderr", ""},
		{"syslog", "", false, "stderr", ""},
		{"stderr syslog/daemon", "", false, "stderr", ""},
		{"syslog stdout", "", false, "stdout", ""},
		{"stdout syslog", "syslog", false, "stdout", ""},
		{"stdout", "syslog", false, "stdout", ""},
		{"/a /a", "/a /b syslog", false, "/a", "/b stderr"},
		{"/a syslog", "", false, "/a stderr", ""},
		{"stdout stderr", "", false, "stdout stderr", ""},
		{"stdout stderr", "stderr", true, "stdout", ""},
		{"", "stdout", true, "stderr", ""},
	} {
		output, errorsOnly := destinations(strings.Fields(c.logOutput), strings.Fields(c.errorLog), c.same)
		if !slices.Equal(output, strings.Fields(c.output)) || !slices.Equal(errorsOnly, strings.Fields(c.errorsOnly)) {
			t.Errorf("logoutput: %s, errorlog: %s: %v and %v, want %q and %q", c.logOutput, c.errorLog, output, errorsOnly, c.output, c.errorsOnly)
		}
	}
}

func TestSameFile(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	_, other, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	if !sameFile(w, w) || sameFile(w, other) || sameFile(w, io.Discard) {
		t.Error("pipes are told apart wrongly")
	}
}

// A line is written once, by whatever names stderr is called.
func TestSyslogIsStderr(t *testing.T) {
	for _, set := range []rules.Settings{
		{LogOutput: []string{"syslog"}},
		{LogOutput: []string{"stderr", "syslog/daemon"}},
		{LogOutput: []string{"syslog", "stdout"}},
		{LogOutput: []string{"stdout"}, ErrorLog: []string{"syslog"}},
		{ErrorLog: []string{"syslog"}},
	} {
		var out bytes.Buffer
		l, err := Open(settings.Config{LogFormat: "json", LogLevel: "info"}, set, &out, &out)
		if err != nil {
			t.Fatal(err)
		}
		l.Error("a mistake")
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		if n := strings.Count(out.String(), "a mistake"); n != 1 {
			t.Errorf("%+v: written %d times", set, n)
		}
	}
}

// A line stays one line, without anything that a terminal obeys or a reader cannot
// see, whatever a client says.
func TestClientsCannotWriteLines(t *testing.T) {
	const evil = "a\nINF session ended user=root\r\x1b[2J\x00\b\"b\x85\xff \x7f \u009b31m \u202e \u2066 \u200b \ufeff \u2028 \u00a0"
	for _, format := range []string{"text", "json"} {
		var out bytes.Buffer
		l, err := Open(settings.Config{LogFormat: format, LogLevel: "info"}, rules.Settings{}, io.Discard, &out)
		if err != nil {
			t.Fatal(err)
		}
		l.Info("session refused"+evil, "user", evil, "target", evil+":80", "error", errors.New(evil))
		l.Info("del alone", "user", "a\x7fb")
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		lines := strings.Split(strings.TrimSuffix(out.String(), "\n"), "\n")
		if len(lines) != 2 {
			t.Fatalf("%s: %d lines: %q", format, len(lines), lines)
		}
		for _, line := range lines {
			if strings.ContainsFunc(line, func(r rune) bool { return !unicode.IsPrint(r) }) || !utf8.ValidString(line) {
				t.Errorf("%s: %q", format, line)
			}
		}
		var parsed map[string]string
		if format == "json" && (json.Unmarshal([]byte(lines[1]), &parsed) != nil || parsed["user"] != "a\x7fb") {
			t.Errorf("JSON lost the value: %q", lines[1])
		}
	}
}

// A destination that fails is reported to those that work, once for each failure.
func TestDropsAreReported(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		good, bad := new(gate), &gate{err: errors.New("no space")}
		l, err := Open(settings.Config{LogFormat: "json", LogLevel: "info"}, rules.Settings{LogOutput: []string{"stdout", "stderr"}}, good, bad)
		if err != nil {
			t.Fatal(err)
		}
		l.Info("one")
		l.Info("two")
		time.Sleep(5 * dropReportPause)
		synctest.Wait()
		if unwritten, overBudget := l.Dropped(); unwritten != 2 || overBudget != 0 {
			t.Errorf("%d lines unwritten, %d over budget", unwritten, overBudget)
		}
		if err := l.Close(); err != nil {
			t.Error(err)
		}
		if text := good.text.String(); strings.Count(text, "log lines dropped") != 1 || !strings.Contains(text, `"lines":2,"destination":"stderr"`) {
			t.Errorf("the drops are reported as\n%s", text)
		}
	})
}

// A FIFO that nobody reads is an error at once, at the start and at a reopen.
func TestFIFOWithoutReader(t *testing.T) {
	name := filepath.Join(t.TempDir(), "fifo")
	if err := syscall.Mkfifo(name, 0o600); err != nil {
		t.Skip("no FIFO here:", err)
	}
	_, err := Open(settings.Config{LogFormat: "json", LogLevel: "info"}, rules.Settings{LogOutput: []string{name}}, io.Discard, io.Discard)
	if err == nil || !strings.Contains(err.Error(), name) {
		t.Errorf("error %v", err)
	}
}
