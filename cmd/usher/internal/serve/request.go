package serve

import (
	"sync"

	"usher/proxy/admin"
)

// request is the outcome of an operator's last request of one kind. It is safe for
// concurrent use.
type request struct {
	mu  sync.Mutex
	now admin.Request
}

func (r *request) begin() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.now = admin.Request{Asked: r.now.Asked + 1, Running: true}
}

func (r *request) end(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.now.Running = false
	if err != nil {
		r.now.Error = err.Error()
	}
}

func (r *request) show() admin.Request {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.now
}
