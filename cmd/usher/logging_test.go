package main

import (
	"bytes"
	"strings"
	"testing"

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
		l, err := openLogs(config{LogFormat: "json", LogLevel: "info"}, set, system{stderr: &out})
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
