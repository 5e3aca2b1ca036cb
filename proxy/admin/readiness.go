package admin

import (
	"sync"
	"time"
)

// Readiness decides whether a balancer should send clients here.
//
// The process is ready when its listeners are open, it is not draining, and one
// of these has been true once:
//   - no rule has a limit
//   - the store was joined and ready
//   - two lease TTL have passed since the start
//
// Losing the store later does not make the process unready: all replicas would
// lose it together, and a balancer without servers would also stop rules that
// need no store.
//
// A Readiness is safe for concurrent use.
type Readiness struct {
	deadline time.Time // two TTL after the start

	mu                                sync.Mutex
	listening, drained, draining, met bool
	missing                           string // why the listeners are not open yet, "" if there is no special reason
}

// NewReadiness returns the readiness of a process that started at start, with the
// lease TTL ttl.
func NewReadiness(start time.Time, ttl time.Duration) *Readiness {
	return &Readiness{deadline: start.Add(2 * ttl)}
}

// Listening records that the listeners are open.
func (r *Readiness) Listening() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.listening = true
}

// Missing records why the listeners are not open yet.
func (r *Readiness) Missing(why string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.missing = why
}

// Draining records that the process is draining. It cannot be undone.
func (r *Readiness) Draining() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.draining = true
}

// Drained records that the process takes no new clients for now, or takes them again.
func (r *Readiness) Drained(drained bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.drained = drained
}

// Reasons why a process is not ready.
const (
	Starting     = "starting: the listeners are not open yet"
	Draining     = "draining: the process will stop"
	Drained      = "drained: the process takes no new sessions until usher undrain"
	StorePending = "waiting for the store: not joined and ready yet"
)

// Check returns "" if the process is ready at now, else the reason. limited says
// that a rule in force has a limit, ready that the store was joined and ready
// at least once.
func (r *Readiness) Check(now time.Time, limited, ready bool) (reason string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.met = r.met || !limited || ready || !now.Before(r.deadline)
	switch {
	case r.draining:
		return Draining
	case r.drained:
		return Drained
	case !r.listening && r.missing != "":
		return r.missing
	case !r.listening:
		return Starting
	case !r.met:
		return StorePending
	}
	return ""
}
