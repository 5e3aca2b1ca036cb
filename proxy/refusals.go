package proxy

import (
	"sync"

	"usher/proxy/record"
)

// maxRefusals bounds how many refusals a Server keeps.
const maxRefusals = record.RefusalsKept

// lastRefusals are the last refusals. The zero value has none.
type lastRefusals struct {
	mu   sync.Mutex
	list []record.End // the oldest is at next once there are maxRefusals
	next int
}

// add adds a refusal in place of the oldest one.
func (r *lastRefusals) add(e record.End) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.list) < maxRefusals {
		r.list = append(r.list, e)
		return
	}
	r.list[r.next] = e
	r.next = (r.next + 1) % maxRefusals
}

// newest returns the refusals, the newest first.
func (r *lastRefusals) newest() []record.End {
	r.mu.Lock()
	defer r.mu.Unlock()
	list := make([]record.End, 0, len(r.list))
	for i := range r.list {
		list = append(list, r.list[(r.next+len(r.list)-1-i)%len(r.list)])
	}
	return list
}
