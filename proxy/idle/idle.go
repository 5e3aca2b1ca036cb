// Package idle ends what has been silent for too long.
package idle

import (
	"sync"
	"sync/atomic"
	"time"
)

// start is what times are counted from: a Timer is part of every session, and
// time.Time is large.
var start = time.Now()

// Timer calls a function once nothing has moved for a limit. Every Touch leaves
// its time, and the timer is only set when it goes off, so a busy relay pays one
// clock read for a write. The zero Timer has no limit. It is safe for concurrent
// use, after Start.
type Timer struct {
	limit  time.Duration
	expire func()
	moved  atomic.Int64 // when something last moved: nanoseconds since start

	mu    sync.Mutex
	timer *time.Timer // nil: stopped
}

// Start lets the Timer call expire, in a goroutine of its own and at most once,
// when nothing has moved for limit. 0 is no limit. It is called once.
func (t *Timer) Start(limit time.Duration, expire func()) {
	if limit == 0 {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.limit, t.expire = limit, expire
	t.moved.Store(int64(time.Since(start)))
	t.timer = time.AfterFunc(limit, t.check)
}

// Touch says that something has moved.
func (t *Timer) Touch() {
	if t.limit != 0 {
		t.moved.Store(int64(time.Since(start)))
	}
}

// Idle returns for how long nothing has moved.
func (t *Timer) Idle() time.Duration { return time.Since(start) - time.Duration(t.moved.Load()) }

// Stop ends the Timer. Twice is fine.
func (t *Timer) Stop() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.timer != nil {
		t.timer.Stop()
		t.timer = nil
	}
}

func (t *Timer) check() {
	if t.over() {
		t.expire()
	}
}

// over reports whether the limit is over, and waits for the rest of it if not.
func (t *Timer) over() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.timer == nil {
		return false
	}
	idle := t.Idle()
	if idle >= t.limit {
		t.timer = nil
		return true
	}
	t.timer.Reset(t.limit - idle)
	return false
}
