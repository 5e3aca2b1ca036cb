// Package accounting writes one JSON object for each session that ended or was refused to
// a file or standard output, apart from the log (USHER_ACCOUNTING). Its keys are a promise,
// see docs/accounting.md. Sessions never wait for it: what the destination does not take
// is dropped and counted. Repeated refusals are summed up, so that a flood of them
// fills no disk.
package accounting

import (
	"fmt"
	"io"
	"log/slog"
	"sync"
	"time"

	"usher/cmd/usher/internal/lines"
	"usher/proxy/record"
)

// Options are where and how to write.
type Options struct {
	To      string    // USHER_ACCOUNTING: a file, "stdout", or "" for nowhere
	Replica string    // named in each line
	Stdout  io.Writer // for "stdout"; one write is one or several whole lines
	Logger  *slog.Logger
}

// Accounting is the destination. It is safe for concurrent use. One that goes nowhere does
// nothing.
type Accounting struct {
	to      string
	replica string
	log     *slog.Logger
	file    *lines.File  // nil: standard output
	queue   *lines.Queue // nil: nowhere
	stop    chan struct{}
	stopped sync.WaitGroup

	mu     sync.Mutex // of what follows
	latest time.Time  // time of the latest line
	second second
	line   line // the latest, whose memory the next one uses

	reported uint64 // dropped lines that the log has mentioned; of one goroutine
}

const (
	dropReportPause = 10 * time.Second // the least time between two lines about dropped lines
	closePatience   = time.Second      // for a destination that is slow or stalled
	writeRest       = 10 * time.Millisecond
)

// Open opens the destination. If it is a FIFO, somebody must read it already.
func Open(o Options) (*Accounting, error) {
	a := &Accounting{to: o.To, replica: o.Replica, log: o.Logger, stop: make(chan struct{})}
	a.second.over = a.endSecond
	switch o.To {
	case "":
		return a, nil
	case stdout:
		a.queue = lines.NewRestingQueue(lines.Stream(o.Stdout), nil, writeRest)
	default:
		file, err := lines.OpenFile(o.To)
		if err != nil {
			return nil, fmt.Errorf("USHER_ACCOUNTING: %w; %s", err, remedy)
		}
		a.file, a.queue = file, lines.NewRestingQueue(file, a.reopen, writeRest)
	}
	a.stopped.Go(a.reportDrops)
	return a, nil
}

// Ended returns what is to be called with the end of each session, in order. It takes
// some microseconds and does no IO. It is nil if the accounting goes nowhere.
func (a *Accounting) Ended() func(record.End) {
	if a.queue == nil {
		return nil
	}
	return a.ended
}

func (a *Accounting) ended(end record.End) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if end.Refused && !a.second.alone(&end) {
		return
	}
	a.writeSession(&end)
}

// endSecond writes the sums of a second of refusals.
func (a *Accounting) endSecond() {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, s := range a.second.end() {
		if s.count == 1 {
			a.writeSession(&s.first)
			continue
		}
		a.line.sum(s, a.replica, a.stamp(time.Now()))
		a.write()
	}
}

// writeSession queues the line of one session. a.mu is held.
func (a *Accounting) writeSession(end *record.End) {
	a.line.session(end, a.replica, a.stamp(end.Time))
	a.write()
}

// stamp returns the time for a line. Sessions end concurrently and report a little later:
// no line has a time before that of the line above. a.mu is held.
func (a *Accounting) stamp(t time.Time) time.Time {
	if t.Before(a.latest) {
		t = a.latest
	}
	a.latest = t
	return t
}

// write queues a.line. a.mu is held.
func (a *Accounting) write() {
	_, _ = a.queue.Write(a.line.text) // a queue does not fail
}

// Reopen opens the file again, for programs that rotate it, once the lines so far are
// written. It does not wait. If that fails, the old file is kept.
func (a *Accounting) Reopen() {
	if a.queue != nil {
		a.queue.Reopen()
	}
}

func (a *Accounting) reopen() {
	if err := a.file.Reopen(); err != nil {
		a.log.Error("cannot reopen accounting file, still writing to the old one", "error", err.Error())
	}
}

// Dropped returns how many lines were not written, because the destination was too slow
// or failed.
func (a *Accounting) Dropped() uint64 {
	if a.queue == nil {
		return 0
	}
	return a.queue.Dropped()
}

// reportDrops logs how many lines were dropped, at most every dropReportPause, and in
// the end.
func (a *Accounting) reportDrops() {
	tick := time.NewTicker(dropReportPause)
	defer tick.Stop()
	for {
		select {
		case <-a.stop:
			return
		case <-tick.C:
			a.reportDropped()
		}
	}
}

func (a *Accounting) reportDropped() {
	n := a.Dropped()
	if n == a.reported {
		return
	}
	a.log.Error("accounting lines dropped", "lines", n-a.reported, "destination", a.to,
		"remedy", "check the program that reads the accounting, and the space for its file")
	a.reported = n
}

// Flush writes the sums so far, and waits at most a second until all lines are written.
func (a *Accounting) Flush() {
	if a.queue != nil {
		a.endSecond()
		a.queue.Flush(closePatience)
	}
}

// Close writes what is left, waits at most a second for that, and closes the file. Later
// lines are dropped. A destination that is stalled is no error: it must not look as if
// the service had failed.
func (a *Accounting) Close() error {
	if a.queue == nil {
		return nil
	}
	close(a.stop)
	a.stopped.Wait()
	a.endSecond()
	written := a.queue.Close(closePatience)
	a.reportDropped()
	if !written {
		a.log.Error("accounting destination is stalled, its last lines may be lost", "destination", a.to)
		return nil
	}
	if a.file == nil {
		return nil
	}
	return a.file.Close()
}
