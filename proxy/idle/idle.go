// Package idle ends sessions in which no data has moved for a limit.
package idle

import (
	"sync"
	"sync/atomic"
	"time"
)

// start is the zero of the times in a Stamp. A time.Time would need more memory, and
// every session has a Stamp.
var start = time.Now()

// Stamp is when something has moved last. The zero Stamp stands for the start of this
// process. A Stamp is safe for concurrent use.
type Stamp struct{ at atomic.Int64 } // nanoseconds since start

// Touch records that something moves now.
func (s *Stamp) Touch() { s.at.Store(int64(time.Since(start))) }

// Idle returns for how long nothing has moved.
func (s *Stamp) Idle() time.Duration { return time.Since(start) - time.Duration(s.at.Load()) }

// Timer calls a function when nothing has moved for a limit. Touch only stores the
// time, in a Stamp. The timer is set again when it fires, so a busy relay pays one clock
// read for a write. The zero Timer has no limit. A Timer is safe for concurrent use after Start.
type Timer struct {
	moved  *Stamp        // nil before Start
	limit  time.Duration // guarded by mu; 0: none
	expire func()

	mu      sync.Mutex
	timer   *time.Timer // nil: there is no limit, or it is over
	stopped bool
}

// Start sets the limit, 0 for none, and touches moved. When nothing has moved for that
// time, the Timer calls expire once, in a goroutine of its own. Start must be called
// once.
func (t *Timer) Start(limit time.Duration, moved *Stamp, expire func()) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.moved, t.expire = moved, expire
	t.set(limit)
}

// Shorten sets a limit that counts from now on, if there is no limit or a longer one. It
// reports whether it did. 0 means no limit. Shorten has no effect after Stop.
func (t *Timer) Shorten(limit time.Duration) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := t.limit
	if t.stopped || limit == 0 || now != 0 && now <= limit {
		return false
	}
	if t.timer != nil {
		t.timer.Stop()
	}
	t.set(limit)
	return true
}

// set touches the stamp, and sets the limit and the timer. t.mu is held.
func (t *Timer) set(limit time.Duration) {
	t.moved.Touch()
	if limit == 0 {
		return
	}
	t.limit = limit
	t.timer = time.AfterFunc(limit, t.check)
}

// Touch records that something moves now.
func (t *Timer) Touch() {
	if t.moved != nil {
		t.moved.Touch()
	}
}

// Stop ends the Timer. It may be called again.
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

// over reports whether the limit is over. If it is not, over sets the timer to the rest.
func (t *Timer) over() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.timer == nil {
		return false
	}
	idle, limit := t.moved.Idle(), t.limit
	if idle >= limit {
		t.timer, t.stopped = nil, true
		return true
	}
	t.timer.Reset(limit - idle)
	return false
}
