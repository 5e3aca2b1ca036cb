package store

import (
	"maps"
	"time"
)

// Rate is how many sessions may begin in a window of time. The window is
// fixed: the first session begins it, N may begin in it, and the next one
// after its end begins another. The zero Rate is no limit.
type Rate struct {
	N   int64
	Per time.Duration // whole milliseconds
}

// Windows counts what began in fixed windows, in the memory of one process.
// It has no clock: callers say what time it is, on any clock that does not go
// back. The zero value is empty. It is not safe for concurrent use.
type Windows struct {
	open    map[string]window
	sweepAt int // how many windows there are when those that ended are dropped
}

type window struct {
	end  time.Duration
	used int64
}

// Used returns how many have begun in the window of name that runs now.
func (w *Windows) Used(now time.Duration, name string) int64 {
	if o, ok := w.open[name]; ok && now < o.end {
		return o.used
	}
	return 0
}

// Use counts n more; the first of them begin a window of length per.
func (w *Windows) Use(now time.Duration, name string, per time.Duration, n int64) {
	o, ok := w.open[name]
	if !ok || now >= o.end {
		w.sweep(now)
		o = window{end: now + per}
	}
	o.used += n
	w.open[name] = o
}

// sweep drops windows that have ended: most keys never come back.
func (w *Windows) sweep(now time.Duration) {
	if w.open == nil {
		w.open = map[string]window{}
	}
	if len(w.open) < w.sweepAt {
		return
	}
	maps.DeleteFunc(w.open, func(_ string, o window) bool { return now >= o.end })
	w.sweepAt = 64 + 2*len(w.open)
}

// Open returns how much of each window that runs now is used, by name.
func (w *Windows) Open(now time.Duration) map[string]int64 {
	out := map[string]int64{}
	for name, o := range w.open {
		if now < o.end {
			out[name] = o.used
		}
	}
	return out
}

// Drop forgets the window of name.
func (w *Windows) Drop(name string) { delete(w.open, name) }

// Clone returns a copy.
func (w *Windows) Clone() Windows { return Windows{open: maps.Clone(w.open), sweepAt: w.sweepAt} }
