// Package logging opens the destinations of the log and writes to them. Callers
// never wait: each destination has a bounded queue, and lines that do not fit are
// dropped and counted. Lines about sessions have a budget for each client address, so
// that one client cannot fill the log.
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
	"time"

	"github.com/lmittmann/tint"
	"github.com/mattn/go-isatty"

	"usher/cmd/usher/internal/lines"
	"usher/cmd/usher/internal/settings"
	"usher/proxy/printable"
	"usher/proxy/rules"
)

// Logs is the logger and the destinations behind it.
type Logs struct {
	*slog.Logger
	destinations []*destination
	budget       *budget
	stop         chan struct{} // ends reportDrops
}

// destination is one of stderr, stdout and the log files.
type destination struct {
	name     string
	queue    *lines.Queue
	file     *lines.File // nil: stderr or stdout
	handler  slog.Handler
	reported uint64 // dropped lines that the log has mentioned
}

// dropReportPause is the least time between two lines about dropped lines.
const dropReportPause = 10 * time.Second

// Open opens the destinations that the rule file names in logoutput and errorlog:
// stderr, stdout and files; stderr if it names none. errorlog gets errors only.
// There is no system log: syslog means stderr, and the parser warns about it.
func Open(cfg settings.Config, set rules.Settings, stdout, stderr io.Writer) (*Logs, error) {
	l := Logs{stop: make(chan struct{})}
	streams := map[string]io.Writer{"stdout": stdout, "stderr": stderr}
	output, errorsOnly := destinations(set.LogOutput, set.ErrorLog, sameFile(stdout, stderr))
	for i, name := range slices.Concat(output, errorsOnly) {
		level := levels[cfg.LogLevel]
		if i >= len(output) {
			level = slog.LevelError
		}
		if err := l.add(name, streams[name], cfg, level); err != nil {
			return nil, errors.Join(err, l.Close())
		}
	}
	var handlers []slog.Handler
	for _, d := range l.destinations {
		handlers = append(handlers, d.handler)
	}
	l.budget = newBudget(slog.NewMultiHandler(handlers...), cfg.LogBudget, cfg.LogSessions)
	l.Logger = slog.New(l.budget)
	go l.reportDrops()
	return &l, nil
}

// add opens one destination. w is nil for a file, and otherwise a stream.
func (l *Logs) add(name string, w io.Writer, cfg settings.Config, level slog.Level) error {
	d := &destination{name: name}
	terminal := isTerminal(w)
	var reopen func()
	if w != nil {
		w = lines.Stream(w)
	} else {
		f, err := lines.OpenFile(name)
		if err != nil {
			return fmt.Errorf("logoutput or errorlog: %w; name a file that usher can write, or stderr", err)
		}
		d.file, w = f, f
		reopen = func() {
			if err := f.Reopen(); err != nil {
				l.Error("cannot reopen log file, still writing to the old one", "error", err.Error())
			}
		}
	}
	d.queue = lines.NewQueue(w, reopen)
	d.handler = newHandler(d.queue, terminal, cfg, level)
	l.destinations = append(l.destinations, d)
	return nil
}

// destinations returns the destinations of all lines, and those of errors only, each
// once. same says that stdout and stderr are one file. syslog means stderr, unless
// stdout is named too: both usually end in the same collector, and every line would be
// there twice.
func destinations(logOutput, errorLog []string, same bool) (output, errorsOnly []string) {
	system := "stderr"
	if slices.Contains(logOutput, "stdout") {
		system = "stdout"
	}
	add := func(list []string, name string) []string {
		if name == "syslog" || strings.HasPrefix(name, "syslog/") {
			name = system
		}
		twin := map[string]string{"stdout": "stderr", "stderr": "stdout"}[name]
		if slices.Contains(output, name) || slices.Contains(list, name) || same && twin != "" && (slices.Contains(output, twin) || slices.Contains(list, twin)) {
			return list
		}
		return append(list, name)
	}
	for _, name := range logOutput {
		output = add(output, name)
	}
	if len(output) == 0 {
		output = []string{"stderr"}
	}
	for _, name := range errorLog {
		errorsOnly = add(errorsOnly, name)
	}
	return output, errorsOnly
}

// sameFile reports whether both are the same open file, as after 2>&1.
func sameFile(a, b io.Writer) bool {
	f, isFile := a.(*os.File)
	g, areFiles := b.(*os.File)
	if !isFile || !areFiles {
		return false
	}
	x, errX := f.Stat()
	y, errY := g.Stat()
	return errX == nil && errY == nil && os.SameFile(x, y)
}

var levels = map[string]slog.Level{
	"debug": slog.LevelDebug, "info": slog.LevelInfo, "warn": slog.LevelWarn, "error": slog.LevelError,
}

func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && isatty.IsTerminal(f.Fd())
}

// newHandler formats lines as text or JSON, and escapes what is not printable. JSON
// lines name the replica, because the lines of several replicas are usually collected
// together.
func newHandler(w io.Writer, terminal bool, cfg settings.Config, level slog.Level) slog.Handler {
	if cfg.LogFormat == "text" || cfg.LogFormat == "auto" && terminal {
		return tint.NewTextHandler(w, &tint.Options{Level: level, TimeFormat: time.TimeOnly, NoColor: !terminal, ReplaceAttr: printableAttr})
	}
	h := slog.NewJSONHandler(printableJSON{w}, &slog.HandlerOptions{Level: level})
	if cfg.Replica == "" {
		return h
	}
	return h.WithAttrs([]slog.Attr{slog.String("replica", string(cfg.Replica))})
}

// printableAttr escapes what is not printable in texts and errors.
func printableAttr(_ []string, a slog.Attr) slog.Attr {
	switch a.Value.Kind() {
	case slog.KindString:
		a.Value = slog.StringValue(printable.Text(a.Value.String()))
	case slog.KindAny:
		if err, ok := a.Value.Any().(error); ok {
			a.Value = slog.StringValue(printable.Text(err.Error()))
		}
	}
	return a
}

// printableJSON escapes what is not printable in JSON lines.
type printableJSON struct{ w io.Writer }

func (p printableJSON) Write(line []byte) (int, error) {
	if _, err := p.w.Write(printable.JSON(line)); err != nil {
		return 0, err
	}
	return len(line), nil
}

// Reopen reopens the files, for programs that rotate them. It does not wait: each
// file is reopened after the lines before. If that fails, the old file is kept.
func (l *Logs) Reopen() {
	for _, d := range l.destinations {
		d.queue.Reopen()
	}
}

// Dropped returns how many lines were not written, because a destination was too
// slow or failed, and because the budget was used up.
func (l *Logs) Dropped() (unwritten, overBudget uint64) {
	for _, d := range l.destinations {
		unwritten += d.queue.Dropped()
	}
	return unwritten, l.budget.dropped()
}

// reportDrops logs, at most every dropReportPause, how many lines a destination
// lacks, to the destinations that work.
func (l *Logs) reportDrops() {
	tick := time.NewTicker(dropReportPause)
	defer tick.Stop()
	for {
		select {
		case <-l.stop:
			return
		case now := <-tick.C:
			for _, d := range l.destinations {
				l.reportDropsOf(d, now)
			}
		}
	}
}

func (l *Logs) reportDropsOf(d *destination, now time.Time) {
	n := d.queue.Dropped() - d.reported
	if n == 0 {
		return
	}
	line := slog.NewRecord(now, slog.LevelError, "log lines dropped", 0)
	line.AddAttrs(slog.Uint64("lines", n), slog.String("destination", d.name),
		slog.String("remedy", "check the program that reads the log, and the space for log files"))
	for _, to := range l.destinations {
		if to.queue.Works() {
			d.reported += n
			n = 0
			_ = to.handler.Handle(context.Background(), line) // a queue does not fail
		}
	}
}

// flushPatience bounds the wait for a destination that is slow or stalled.
const flushPatience = time.Second

// Flush waits until the lines so far are written, at most a second for each
// destination.
func (l *Logs) Flush() {
	for _, d := range l.destinations {
		d.queue.Flush(flushPatience)
	}
}

// Close writes what is left, waits at most a second for each destination, and
// closes the files. Later lines are dropped.
func (l *Logs) Close() error {
	if l.budget != nil {
		l.budget.close()
		close(l.stop)
	}
	var all []error
	for _, d := range l.destinations {
		if d.queue.Close(flushPatience) && d.file != nil {
			all = append(all, d.file.Close())
		}
	}
	return errors.Join(all...)
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
		attrs := []any{"severity", d.Severity.String()}
		if d.Pos.File != "" { // else it is about a variable
			attrs = append(attrs, "location", d.Pos.String())
		}
		log.Log(context.Background(), level, d.Message, append(attrs, "remedy", d.Remedy)...)
	}
}
