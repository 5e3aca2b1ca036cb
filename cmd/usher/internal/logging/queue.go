package logging

import (
	"bytes"
	"io"
	"sync"
	"sync/atomic"
	"time"
)

// queueBytes bounds the lines of a destination that wait to be written.
const queueBytes = 4 << 20

// atomicBytes is how much is written at a time, if that is several lines. A pipe
// takes as much (PIPE_BUF of Linux) without lines of other processes in between.
const atomicBytes = 4096

// queue writes lines to a destination that may be slow, stalled or broken, so that
// callers never wait. It drops and counts the lines that do not fit.
type queue struct {
	out    io.Writer
	reopen func() // runs between two writes; nil if the destination has none

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

// newQueue starts a goroutine that writes to out until close.
func newQueue(out io.Writer, reopen func()) *queue {
	q := &queue{out: out, reopen: reopen, wanted: -1, ended: make(chan struct{})}
	q.changed = sync.NewCond(&q.mu)
	go q.run()
	return q
}

// Write queues one line. It never waits for the destination and never fails.
func (q *queue) Write(line []byte) (int, error) {
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

// Reopen calls reopen once the lines so far are written.
func (q *queue) Reopen() {
	if q.reopen == nil {
		return
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	q.wanted = q.pending.Len()
	q.changed.Broadcast()
}

// run writes until close, and then what is left.
func (q *queue) run() {
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
		case q.closed:
			return
		default:
			q.changed.Wait()
		}
	}
}

// unlocked runs f without the lock.
func (q *queue) unlocked(f func()) {
	q.writing = true
	q.mu.Unlock()
	f()
	q.mu.Lock()
	q.writing = false
	q.changed.Broadcast()
}

// take moves the first lines from pending to lines: as many as can be written at
// once, at least one, and none from behind a reopen. q.mu is held.
func (q *queue) take() {
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

func (q *queue) write() {
	n, err := q.out.Write(q.lines)
	if err != nil {
		q.unwritten.Add(uint64(bytes.Count(q.lines[n:], []byte("\n"))))
	}
	q.mu.Lock()
	q.failing = err != nil
	q.mu.Unlock()
}

// works reports whether a further line is likely to be written soon.
func (q *queue) works() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return !q.failing && q.pending.Len() < queueBytes/2
}

// dropped returns how many lines were not written.
func (q *queue) dropped() uint64 { return q.unwritten.Load() }

// flush waits until all lines are written, at most for patience.
func (q *queue) flush(patience time.Duration) {
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

// close stops taking lines and waits until those it has are written, at most for
// patience. It reports false if the destination is stalled: the goroutine then
// stays in its write.
func (q *queue) close(patience time.Duration) bool {
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
