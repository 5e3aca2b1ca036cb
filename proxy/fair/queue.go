package fair

import (
	"container/heap"
	"container/list"
	"context"
	"net/netip"
	"sync"
)

// Queue bounds how many pieces of work run at a time, in all and for each source. Further
// work waits. The sources that wait take turns: each source gets one piece of work done
// before any source gets another. The fields must not change after the first Acquire. A
// Queue is safe for concurrent use.
type Queue struct {
	Size int // pieces of work at a time; 1 or more
	Each int // pieces of work of one source at a time; 1 or more
	// Rank orders the sources that wait: those with lower ranks go first. nil: all
	// are equal. It is called with the queue locked, so it must not use it.
	Rank func(source netip.Prefix) int

	mu      sync.Mutex
	running int
	turns   uint64
	lines   map[netip.Prefix]*line // those that run or wait
	ready   lineHeap               // those that wait and run less than Each
}

// line holds the work of one source.
type line struct {
	source  netip.Prefix
	running int
	waiting list.List // of chan struct{}, closed when it is that one's turn
	rank    int
	turn    uint64
	index   int // in Queue.ready; -1: it is not there
}

// Acquire waits until a piece of work may begin. The work ends with Release. If ctx ends
// first, Acquire returns its cause, and Release must not be called.
func (q *Queue) Acquire(ctx context.Context, source netip.Prefix) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	turn, place := q.join(source)
	select {
	case <-turn:
		if ctx.Err() == nil {
			return nil
		}
	case <-ctx.Done():
	}
	q.abandon(source, turn, place)
	return context.Cause(ctx)
}

// Try does what Acquire does, for work that must not wait. It reports whether the work
// may begin.
func (q *Queue) Try(source netip.Prefix) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	l := q.line(source)
	begins := q.running < q.Size && l.running < q.Each
	if begins {
		l.running++
		q.running++
	}
	q.settle(l)
	return begins
}

// Release ends one piece of work.
func (q *Queue) Release(source netip.Prefix) {
	q.mu.Lock()
	defer q.mu.Unlock()
	l := q.lines[source]
	if l == nil || l.running == 0 {
		panic("fair: released without Acquire")
	}
	l.running--
	q.running--
	q.settle(l)
	q.dispatch()
}

// Waiting returns the number of pieces of work that wait for their turn.
func (q *Queue) Waiting() (n int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, l := range q.lines {
		n += l.waiting.Len()
	}
	return n
}

// join appends a piece of work to the line of its source. turn is closed when the work
// may begin.
func (q *Queue) join(source netip.Prefix) (turn chan struct{}, place *list.Element) {
	q.mu.Lock()
	defer q.mu.Unlock()
	l := q.line(source)
	turn = make(chan struct{})
	place = l.waiting.PushBack(turn)
	q.settle(l)
	q.dispatch()
	return turn, place
}

// line returns the line of a source. q.mu is held.
func (q *Queue) line(source netip.Prefix) *line {
	l := q.lines[source]
	if l == nil {
		l = &line{source: source, index: -1}
		if q.lines == nil {
			q.lines = make(map[netip.Prefix]*line)
		}
		q.lines[source] = l
	}
	return l
}

// abandon removes a piece of work. It may have begun before its caller knew.
func (q *Queue) abandon(source netip.Prefix, turn chan struct{}, place *list.Element) {
	q.mu.Lock()
	select {
	case <-turn: // its turn had come already
		q.mu.Unlock()
		q.Release(source)
		return
	default:
	}
	defer q.mu.Unlock()
	l := q.lines[source]
	l.waiting.Remove(place)
	q.settle(l)
}

// dispatch begins all work that may begin. q.mu is held.
func (q *Queue) dispatch() {
	for q.running < q.Size && len(q.ready) > 0 {
		l := heap.Pop(&q.ready).(*line)
		close(l.waiting.Remove(l.waiting.Front()).(chan struct{}))
		l.running++
		q.running++
		q.settle(l)
	}
}

// settle updates the place of l in the queue after a change. q.mu is held.
func (q *Queue) settle(l *line) {
	switch wants := l.waiting.Len() > 0 && l.running < q.Each; {
	case wants && l.index < 0:
		if q.Rank != nil {
			l.rank = q.Rank(l.source)
		}
		q.turns++
		l.turn = q.turns
		heap.Push(&q.ready, l)
	case !wants && l.index >= 0:
		heap.Remove(&q.ready, l.index)
	}
	if l.running == 0 && l.waiting.Len() == 0 {
		delete(q.lines, l.source)
	}
}

// lineHeap orders lines by rank, and lines of the same rank by turn.
type lineHeap []*line

func (h lineHeap) Len() int { return len(h) }
func (h lineHeap) Less(i, j int) bool {
	if h[i].rank != h[j].rank {
		return h[i].rank < h[j].rank
	}
	return h[i].turn < h[j].turn
}
func (h lineHeap) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].index, h[j].index = i, j
}

// Push implements heap.Interface.
func (h *lineHeap) Push(x any) {
	l := x.(*line)
	l.index = len(*h)
	*h = append(*h, l)
}

// Pop implements heap.Interface.
func (h *lineHeap) Pop() any {
	last := len(*h) - 1
	l := (*h)[last]
	(*h)[last] = nil
	*h = (*h)[:last]
	l.index = -1
	return l
}
