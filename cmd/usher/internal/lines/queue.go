// Package lines writes whole lines to destinations that may be slow, stalled or broken,
// so that callers never wait. The log and the accounting share it.
package lines

import (
	"bytes"
	"errors"
	"io"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// queueBytes bounds the lines of one destination that wait to be written.
const queueBytes = 4 << 20

// atomicBytes is how much is written at a time, if that is several lines. A pipe
// takes as much (PIPE_BUF of Linux) without lines of other processes in between.
const atomicBytes = 4096

// Queue writes lines to one destination, in their order. It drops and counts the lines
// that do not fit, and those that the destination did not take. It is safe for
// concurrent use.
type Queue struct {
	out    io.Writer
	reopen func()        // runs between two writes; nil if the destination has none
	rest   time.Duration // after the lines so far are written
	// patience is how long the lines before a reopen may take: a reader that takes none
	// would hold the reopen up for ever.
	patience time.Duration

	mu        sync.Mutex
	pending   bytes.Buffer // whole lines
	wanted    int          // bytes of pending after which to reopen, -1: no reopen
	writing   bool         // a write or reopen is under way
	failing   bool         // the last write failed
	closed    bool
	changed   *sync.Cond // of the fields above
	unwritten atomic.Uint64
	ended     chan struct{}

	lines []byte // that are being written; of the goroutine
}

// NewQueue starts a goroutine that writes to out until Close. It calls reopen for Reopen,
// between two writes; nil: the destination has none. A Write of out that fails has
// written the lines that its result counts.
func NewQueue(out io.Writer, reopen func()) *Queue { return NewRestingQueue(out, reopen, 0) }

// NewRestingQueue is NewQueue with a rest after all lines are written. Lines that come
// meanwhile are written together, which costs less than to wake up for each of them. The
// first line after a pause is written at once.
func NewRestingQueue(out io.Writer, reopen func(), rest time.Duration) *Queue {
	q := &Queue{out: out, reopen: reopen, rest: rest, patience: time.Second, wanted: -1, ended: make(chan struct{})}
	q.changed = sync.NewCond(&q.mu)
	go q.run()
	return q
}

// Write queues one line, with its line end. It never waits for the destination and never
// fails.
func (q *Queue) Write(line []byte) (int, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed || q.pending.Len()+len(line) > queueBytes {
		q.unwritten.Add(1)
		return len(line), nil
	}
	q.pending.Write(line)
	q.changed.Broadcast()
	return len(line), nil
}

// Reopen calls reopen once the lines so far are written. If out is a File that does not
// take them within a second, they go to what is opened then.
func (q *Queue) Reopen() {
	if q.reopen == nil {
		return
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	q.wanted = q.pending.Len()
	q.changed.Broadcast()
	if file, ok := q.out.(*File); ok {
		time.AfterFunc(q.patience, func() { q.hurry(file) })
	}
}

// hurry ends the wait for a reopen.
func (q *Queue) hurry(file *File) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.wanted >= 0 { // so the file is not being reopened
		file.Interrupt()
	}
}

// run writes until Close, and then what is left.
func (q *Queue) run() {
	defer close(q.ended)
	q.mu.Lock()
	defer q.mu.Unlock()
	for {
		switch {
		case q.wanted == 0:
			q.wanted = -1
			q.unlocked(q.reopen)
		case q.pending.Len() > 0:
			q.take()
			q.unlocked(q.write)
			if q.rest > 0 && q.pending.Len() == 0 && !q.closed {
				q.mu.Unlock()
				time.Sleep(q.rest)
				q.mu.Lock()
			}
		case q.closed:
			return
		default:
			q.changed.Wait()
		}
	}
}

// unlocked runs f without the lock.
func (q *Queue) unlocked(f func()) {
	q.writing = true
	q.mu.Unlock()
	f()
	q.mu.Lock()
	q.writing = false
	q.changed.Broadcast()
}

// take moves the first lines from pending to lines: as many as can be written at
// once, at least one, and none from behind a reopen. q.mu is held.
func (q *Queue) take() {
	text := q.pending.Bytes()
	if q.wanted > 0 {
		text = text[:q.wanted]
	}
	n := bytes.IndexByte(text, '\n') + 1
	if end := bytes.LastIndexByte(text[:min(atomicBytes, len(text))], '\n') + 1; end > n {
		n = end
	}
	if q.wanted > 0 {
		q.wanted -= n
	}
	q.lines = append(q.lines[:0], q.pending.Next(n)...)
}

func (q *Queue) write() {
	n, err := q.out.Write(q.lines)
	q.mu.Lock()
	defer q.mu.Unlock()
	q.failing = err != nil
	if errors.Is(err, os.ErrDeadlineExceeded) {
		q.putBack(q.lines[bytes.LastIndexByte(q.lines[:n], '\n')+1:])
		return
	}
	if err != nil {
		q.unwritten.Add(uint64(bytes.Count(q.lines[n:], []byte("\n"))))
	}
}

// putBack puts lines before all others, and the reopen before them. q.mu is held.
func (q *Queue) putBack(lines []byte) {
	rest := slices.Concat(lines, q.pending.Bytes())
	q.pending.Reset()
	q.pending.Write(rest)
	q.wanted = 0
}

// Works reports whether a further line is likely to be written soon.
func (q *Queue) Works() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return !q.failing && q.pending.Len() < queueBytes/2
}

// Dropped returns how many lines were not written.
func (q *Queue) Dropped() uint64 { return q.unwritten.Load() }

// Flush waits until all lines are written, at most for patience.
func (q *Queue) Flush(patience time.Duration) {
	late := false
	timer := time.AfterFunc(patience, func() {
		q.mu.Lock()
		defer q.mu.Unlock()
		late = true
		q.changed.Broadcast()
	})
	defer timer.Stop()
	q.mu.Lock()
	defer q.mu.Unlock()
	for (q.pending.Len() > 0 || q.writing) && !late {
		q.changed.Wait()
	}
}

// Close stops taking lines and waits until those it has are written, at most for
// patience. It reports false if the destination is stalled: the goroutine then
// stays in its write.
func (q *Queue) Close(patience time.Duration) bool {
	q.mu.Lock()
	q.closed = true
	q.changed.Broadcast()
	q.mu.Unlock()
	select {
	case <-q.ended:
		return true
	case <-time.After(patience):
		return false
	}
}
