package logging

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"usher/cmd/usher/internal/settings"
	"usher/proxy/rules"
)

// TestSyslogIsStderr also holds that a line is written there once, by
// whatever names stderr is called.
func TestSyslogIsStderr(t *testing.T) {
	for _, set := range []rules.Settings{
		{LogOutput: []string{"syslog"}},
		{LogOutput: []string{"stderr", "syslog/daemon"}},
		{ErrorLog: []string{"syslog"}},
	} {
		var out bytes.Buffer
		l, err := Open(settings.Config{LogFormat: "json", LogLevel: "info"}, set, io.Discard, &out)
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

// TestClientsCannotWriteLines holds that a line stays one line, without bytes
// that a terminal obeys, whatever a client says.
func TestClientsCannotWriteLines(t *testing.T) {
	const evil = "a\nINF session ended user=root\r\x1b[2J\x00\b\"b\x85\xff"
	for _, format := range []string{"text", "json"} {
		var out bytes.Buffer
		l, err := Open(settings.Config{LogFormat: format, LogLevel: "info"}, rules.Settings{}, io.Discard, &out)
		if err != nil {
			t.Fatal(err)
		}
		l.Info("session refused", "user", evil, "target", evil+":80", "error", errors.New(evil))
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		line := strings.TrimSuffix(out.String(), "\n")
		if strings.ContainsFunc(line, unicode.IsControl) || !strings.Contains(line, "session refused") || !utf8.ValidString(line) {
			t.Errorf("%s: %q", format, line)
		}
	}
}
