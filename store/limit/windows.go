package limit

import (
	"maps"
	"time"
)

// Windows counts the sessions that began in fixed windows, in the memory of
// one process. It has no clock: callers pass the time, on any clock that does
// not go back. The zero value is empty. It is not safe for concurrent use.
type Windows struct {
	open    map[string]window
	sweepAt int // number of windows at which those that ended are dropped
}

type window struct {
	end  time.Duration
	used int64
}

// Used returns how many sessions have begun in the current window of name.
func (w *Windows) Used(now time.Duration, name string) int64 {
	if o, ok := w.open[name]; ok && now < o.end {
		return o.used
	}
	return 0
}

// Use counts n more sessions. If no window is open, they open one of length per.
func (w *Windows) Use(now time.Duration, name string, per time.Duration, n int64) {
	o, ok := w.open[name]
	if !ok || now >= o.end {
		w.sweep(now)
		o = window{end: now + per}
	}
	o.used += n //mutate:a-window-that-every-use-prolongs
	w.open[name] = o
}

// Shorten gives a window that r has used up no more time than r has in all. It has
// more if it was opened by a longer rate. A session that was just refused then waits
// for one window of its own rate at most.
func (w *Windows) Shorten(now time.Duration, name string, r Rate) {
	if r.N == 0 {
		return
	}
	if o, ok := w.open[name]; ok && o.used >= r.N && o.end-now > r.Per {
		o.end = now + r.Per //mutate:a-window-lasts-as-long-as-the-rate-that-opened-it
		w.open[name] = o
	}
}

// sweep drops windows that have ended, because most keys never come back.
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

// Open returns the sessions in each open window, by name.
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
