package monitor

import (
	"sync"

	"usher/proxy/admin"
)

// Request is the outcome of an operator's last request of one kind. It is safe for
// concurrent use.
type Request struct {
	mu  sync.Mutex
	now admin.Request
}

// Begin records that a request is worked on.
func (r *Request) Begin() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.now = admin.Request{Asked: r.now.Asked + 1, Running: true}
}

// End records the result: nil means that it was done.
func (r *Request) End(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.now.Running = false
	if err != nil {
		r.now.Error = err.Error()
	}
}

// Show returns what the status tells.
func (r *Request) Show() admin.Request {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.now
}
