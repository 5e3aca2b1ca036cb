package lines

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// gate is a destination that can stall and fail.
type gate struct {
	mu   sync.Mutex // held: stalled
	text bytes.Buffer
	most int // bytes of the largest write
	err  error
}

func (g *gate) Write(p []byte) (int, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.err != nil {
		return 0, g.err
	}
	g.most = max(g.most, len(p))
	return g.text.Write(p)
}

func (g *gate) String() string {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.text.String()
}

// Nobody waits for a stalled reader. It costs bounded memory, and its lost lines are
// counted. Queued lines are written when the reader is back.
func TestQueueOfAStalledReader(t *testing.T) {
	var g gate
	q := NewQueue(&g, nil)
	g.mu.Lock()
	line := []byte(strings.Repeat("x", 1023) + "\n")
	const lines = 3 * queueBytes / 1024
	for range lines {
		if n, err := q.Write(line); n != len(line) || err != nil {
			t.Fatal(n, err)
		}
	}
	if q.Works() {
		t.Error("a full queue is said to work")
	}
	dropped := q.Dropped()
	if dropped < lines-queueBytes/1024-atomicBytes/1024 || dropped > lines-queueBytes/1024 {
		t.Errorf("%d of %d lines dropped", dropped, lines)
	}
	if q.Close(time.Millisecond) {
		t.Error("a stalled destination was closed")
	}
	g.mu.Unlock()
	<-q.ended
	if written := uint64(g.text.Len() / 1024); written+dropped != lines || q.Dropped() != dropped {
		t.Errorf("%d lines written and %d dropped of %d", written, dropped, lines)
	}
	if g.most > atomicBytes {
		t.Errorf("%d bytes written at once, a pipe takes %d", g.most, atomicBytes)
	}
}

func TestQueueThatFails(t *testing.T) {
	g := gate{err: errors.New("broken pipe")}
	q := NewQueue(&g, nil)
	fmt.Fprintln(q, "one")
	fmt.Fprintln(q, "two")
	q.Flush(time.Minute)
	if q.Dropped() != 2 || q.Works() {
		t.Errorf("%d lines dropped, want 2", q.Dropped())
	}
	g.mu.Lock()
	g.err = nil
	g.mu.Unlock()
	fmt.Fprintln(q, "three")
	if !q.Close(time.Minute) || g.text.String() != "three\n" || !q.Works() {
		t.Errorf("written: %q", g.text.String())
	}
	fmt.Fprintln(q, "late")
	if q.Dropped() != 3 {
		t.Error("a line after the end is not counted")
	}
}

// After a rotation, the new file gets no line that was logged before.
func TestQueueReopensBetweenLines(t *testing.T) {
	var g gate
	q := NewQueue(&g, func() { fmt.Fprintln(&g, "reopened") })
	g.mu.Lock()
	fmt.Fprintln(q, "one")
	fmt.Fprintln(q, "two")
	q.Reopen()
	fmt.Fprintln(q, "three")
	g.mu.Unlock()
	q.Close(time.Minute)
	if got := g.text.String(); got != "one\ntwo\nreopened\nthree\n" {
		t.Errorf("%q", got)
	}
}

// A line that is longer than a batch of lines is written at once.
func TestQueueOfLongLines(t *testing.T) {
	var g gate
	q := NewQueue(&g, nil)
	long := strings.Repeat("x", 3*atomicBytes)
	fmt.Fprintln(q, "short")
	fmt.Fprintln(q, long)
	fmt.Fprintln(q, "short")
	q.Close(time.Minute)
	if got := g.text.String(); got != "short\n"+long+"\nshort\n" || g.most != len(long)+1 {
		t.Errorf("%d bytes, at most %d at once", len(got), g.most)
	}
}

// A queue that rests writes the first line at once, and those that come in the rest
// together.
func TestQueueThatRests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var g gate
		q := NewRestingQueue(&g, nil, time.Second)
		fmt.Fprintln(q, "one")
		synctest.Wait()
		if got := g.String(); got != "one\n" {
			t.Errorf("%q, want the first line at once", got)
		}
		for range 5 {
			fmt.Fprintln(q, "x")
		}
		synctest.Wait()
		if got := g.String(); got != "one\n" {
			t.Errorf("%q is written in the rest", got)
		}
		time.Sleep(time.Second)
		synctest.Wait()
		if got := g.String(); got != "one\nx\nx\nx\nx\nx\n" || g.most != 10 {
			t.Errorf("%q, at most %d bytes at once", got, g.most)
		}
		fmt.Fprintln(q, "last")
		if !q.Close(2*time.Second) || !strings.HasSuffix(g.String(), "last\n") {
			t.Errorf("%q in the end", g.String())
		}
	})
}

func TestFlushDoesNotWaitForEver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		stalled := make(chan struct{})
		q := NewQueue(stall(stalled), nil)
		fmt.Fprintln(q, "line")
		q.Flush(time.Second)
		close(stalled)
		q.Close(time.Second)
	})
}

// stall blocks each write until the channel is closed.
type stall chan struct{}

func (s stall) Write(p []byte) (int, error) { <-s; return len(p), nil }
