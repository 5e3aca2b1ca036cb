package admin

import (
	"sync"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
)

// oneAtATime is a Gatherer whose callers share a collection that is under way. A
// collection walks over all sessions, and new ones wait meanwhile.
type oneAtATime struct {
	prometheus.Gatherer

	mu      sync.Mutex
	running *collection // nil: none
}

// collection is the result of one Gather.
type collection struct {
	done     chan struct{} // closed when families and err are set
	families []*dto.MetricFamily
	err      error
}

// Gather implements prometheus.Gatherer. The result must not be changed.
func (g *oneAtATime) Gather() ([]*dto.MetricFamily, error) {
	g.mu.Lock()
	c := g.running
	if c != nil {
		g.mu.Unlock()
		<-c.done
		return c.families, c.err
	}
	c = &collection{done: make(chan struct{})}
	g.running = c
	g.mu.Unlock()
	defer func() {
		g.mu.Lock()
		g.running = nil
		g.mu.Unlock()
		close(c.done)
	}()
	c.families, c.err = g.Gatherer.Gather()
	return c.families, c.err
}
