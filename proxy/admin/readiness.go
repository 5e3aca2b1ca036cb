package admin

import (
	"sync"
	"time"
)

// Readiness decides whether a balancer should send clients here.
//
// The process is ready when its listeners are open, it is not draining, and
// one of three things holds: no rule has a limit, the store was joined and
// ready once since the process started, or two lease TTL have passed since
// the start. The third part latches: a store that is lost later never makes
// the process unready, for all replicas lose it together, and a balancer
// without servers would stop the rules that need no store as well.
//
// It is safe for concurrent use.
type Readiness struct {
	deadline time.Time // two TTL after the start

	mu                       sync.Mutex
	listening, draining, met bool
}

// NewReadiness returns the readiness of a process that started at start and
// whose lease lives for ttl.
func NewReadiness(start time.Time, ttl time.Duration) *Readiness {
	return &Readiness{deadline: start.Add(2 * ttl)}
}

// Listening says that clients can connect.
func (r *Readiness) Listening() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.listening = true
}

// Draining says that the process is about to stop. It is never taken back.
func (r *Readiness) Draining() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.draining = true
}

// Reasons for which a process is not ready.
const (
	Starting     = "starting: the listeners are not open yet"
	Draining     = "draining: the process is about to stop"
	StorePending = "waiting for the store: it was not joined and ready yet"
)

// Check returns "" if the process is ready at now, else the reason. limited
// says that a rule in force has a limit, ready that the store was joined and
// ready once since the process started.
func (r *Readiness) Check(now time.Time, limited, ready bool) (reason string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.met = r.met || !limited || ready || !now.Before(r.deadline)
	switch {
	case r.draining:
		return Draining
	case !r.listening:
		return Starting
	case !r.met:
		return StorePending
	}
	return ""
}
