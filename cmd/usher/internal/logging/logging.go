// Package logging opens the destinations of the log and writes to them.
package logging

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/lmittmann/tint"
	"github.com/mattn/go-isatty"

	"usher/cmd/usher/internal/settings"
	"usher/proxy/rules"
)

// Logs is where log lines go: the logger, and the files behind it.
type Logs struct {
	*slog.Logger
	files []*logFile
}

// Open opens what the rule file's logoutput and errorlog name: stderr,
// stdout or files, and stderr if they name nothing. errorlog gets errors only.
// The system log is not written: syslog means stderr, and the parser warns of it.
func Open(cfg settings.Config, set rules.Settings, stdout, stderr io.Writer) (*Logs, error) {
	var l Logs
	var handlers []slog.Handler
	add := func(name string, level slog.Level) error {
		var w io.Writer
		switch {
		case name == "stderr":
			w = stderr
		case name == "stdout":
			w = stdout
		default:
			f, err := openLogFile(name)
			if err != nil {
				return err
			}
			l.files = append(l.files, f)
			w = f
		}
		handlers = append(handlers, newHandler(w, cfg.LogFormat, level))
		return nil
	}
	level := levels[cfg.LogLevel]
	output := destinations(set.LogOutput)
	if len(output) == 0 {
		output = []string{"stderr"}
	}
	for _, name := range output {
		if err := add(name, level); err != nil {
			return nil, errors.Join(err, l.Close())
		}
	}
	for _, name := range destinations(set.ErrorLog) {
		if slices.Contains(output, name) {
			continue // it has the errors already
		}
		if err := add(name, slog.LevelError); err != nil {
			return nil, errors.Join(err, l.Close())
		}
	}
	l.Logger = slog.New(slog.NewMultiHandler(handlers...))
	return &l, nil
}

// destinations returns each place once; the system log is stderr.
func destinations(names []string) []string {
	var out []string
	for _, name := range names {
		if name == "syslog" || strings.HasPrefix(name, "syslog/") {
			name = "stderr"
		}
		if !slices.Contains(out, name) {
			out = append(out, name)
		}
	}
	return out
}

var levels = map[string]slog.Level{
	"debug": slog.LevelDebug, "info": slog.LevelInfo, "warn": slog.LevelWarn, "error": slog.LevelError,
}

// newHandler writes text for people or JSON for machines to w.
func newHandler(w io.Writer, format string, level slog.Level) slog.Handler {
	terminal := false
	if f, ok := w.(*os.File); ok {
		terminal = isatty.IsTerminal(f.Fd())
	}
	if format == "text" || format == "auto" && terminal {
		return tint.NewTextHandler(w, &tint.Options{Level: level, TimeFormat: time.TimeOnly, NoColor: !terminal})
	}
	return slog.NewJSONHandler(w, &slog.HandlerOptions{Level: level})
}

// Reopen opens the files anew, for those who move them away. A file that
// cannot be opened goes on being written under its old name.
func (l *Logs) Reopen() {
	for _, f := range l.files {
		if err := f.reopen(); err != nil {
			l.Error("log file not opened anew, the old one is written on", "error", err)
		}
	}
}

// Close closes the files. Nothing may be logged afterwards.
func (l *Logs) Close() error {
	var all []error
	for _, f := range l.files {
		all = append(all, f.file.Close())
	}
	return errors.Join(all...)
}

// logFile is a file that is appended to and can be opened anew.
type logFile struct {
	name string

	mu   sync.Mutex
	file *os.File
}

func openLogFile(name string) (*logFile, error) {
	f := &logFile{name: name}
	return f, f.reopen()
}

func (f *logFile) reopen() error {
	file, err := os.OpenFile(f.name, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o640)
	if err != nil {
		return fmt.Errorf("logoutput or errorlog: %w; name a file that usher may write, or stderr", err)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.file != nil {
		f.file.Close()
	}
	f.file = file
	return nil
}

// Write implements io.Writer.
func (f *logFile) Write(line []byte) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.file.Write(line)
}

// Findings writes a line for each finding about the rule file, and one for all
// lines without effect.
func Findings(log *slog.Logger, found []rules.Diagnostic) {
	levels := map[rules.Severity]slog.Level{rules.Error: slog.LevelError, rules.Note: slog.LevelInfo}
	for _, d := range rules.Fold(found) {
		level, ok := levels[d.Severity]
		if !ok {
			level = slog.LevelWarn
		}
		log.Log(context.Background(), level, d.Message, "severity", d.Severity.String(), "place", d.Pos.String(), "remedy", d.Remedy)
	}
}
