package proxy

import (
	"slices"
	"sync"
	"time"

	"usher/proxy/lately"
	"usher/proxy/record"
)

// Who holds the slots of a full limit is looked up in all sessions. At most so often, and
// the pause is at least so many times as long as the look-up.
const (
	holdersEvery = 100 * time.Millisecond
	holdersShare = 20
)

// limitRefusals are the counters that have refused sessions.
type limitRefusals struct {
	mu       sync.Mutex
	counters map[string]*limitRefusal
	lookUp   time.Time // when holders may be looked up again
}

// limitRefusal is what is known of a counter that has refused a session.
type limitRefusal struct {
	lately lately.Count
	who    holding // as it was looked up last
}

// holding is how many sessions of this replica a counter counts, for one key or for all,
// and whose most of them are.
type holding struct {
	known   bool
	key     string // "": all keys
	here    int
	holders []record.Holder
}

// keep forgets all counters but these, which are sorted.
func (l *limitRefusals) keep(counters []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for c := range l.counters {
		if _, kept := slices.BinarySearch(counters, c); !kept {
			delete(l.counters, c)
		}
	}
}

// lately returns how many sessions a counter has refused in the last minute.
func (l *limitRefusals) lately(counter string, now time.Time) uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	if r := l.counters[counter]; r != nil {
		return r.lately.N(now)
	}
	return 0
}

// add counts a refusal by a counter.
func (l *limitRefusals) add(counter string, now time.Time) *limitRefusal {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.counters == nil {
		l.counters = make(map[string]*limitRefusal)
	}
	r := l.counters[counter]
	if r == nil {
		r = new(limitRefusal)
		l.counters[counter] = r
	}
	r.lately.Add(now)
	return r
}

// holding returns who holds a counter: look says so, if it may be asked now, else the last
// answer for this key. The zero value: neither is there.
func (l *limitRefusals) holding(r *limitRefusal, key string, now time.Time, look func() holding) holding {
	l.mu.Lock()
	who := r.who
	may := !now.Before(l.lookUp)
	if may {
		l.lookUp = now.Add(holdersEvery) // until this look-up ends
	}
	l.mu.Unlock()
	if !may {
		if who.key != key {
			return holding{}
		}
		return who
	}
	who = look()
	l.mu.Lock()
	defer l.mu.Unlock()
	r.who = who
	if after := time.Now(); after.Sub(now) > holdersEvery/holdersShare {
		l.lookUp = after.Add(holdersShare * after.Sub(now))
	}
	return who
}
