// Package idle ends sessions in which no data moved for too long.
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
	limit  atomic.Int64 // nanoseconds; 0: none
	expire func()
	moved  atomic.Int64 // when something last moved: nanoseconds since start

	mu      sync.Mutex
	timer   *time.Timer // nil: there is no limit, or it is over
	stopped bool
}

// Start lets the Timer call expire, in a goroutine of its own and at most once,
// when nothing has moved for limit. 0 is no limit. It is called once.
func (t *Timer) Start(limit time.Duration, expire func()) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.expire = expire
	t.set(limit)
}

// Shorten sets a limit that counts from now on, if there is none or a longer one,
// and reports whether it did. 0 is no limit. It has no effect after Stop.
func (t *Timer) Shorten(limit time.Duration) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := time.Duration(t.limit.Load())
	if t.stopped || limit == 0 || now != 0 && now <= limit {
		return false
	}
	if t.timer != nil {
		t.timer.Stop()
	}
	t.set(limit)
	return true
}

// set sets the limit and the timer. t.mu is held.
func (t *Timer) set(limit time.Duration) {
	if limit == 0 {
		return
	}
	t.limit.Store(int64(limit))
	t.moved.Store(int64(time.Since(start)))
	t.timer = time.AfterFunc(limit, t.check)
}

// Touch says that something has moved.
func (t *Timer) Touch() {
	if t.limit.Load() != 0 {
		t.moved.Store(int64(time.Since(start)))
	}
}

// Idle returns for how long nothing has moved.
func (t *Timer) Idle() time.Duration { return time.Since(start) - time.Duration(t.moved.Load()) }

// Stop ends the Timer. Twice is fine.
func (t *Timer) Stop() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.stopped = true
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
	idle, limit := t.Idle(), time.Duration(t.limit.Load())
	if idle >= limit {
		t.timer, t.stopped = nil, true
		return true
	}
	t.timer.Reset(limit - idle)
	return false
}
