package inforce

import (
	"sync"
	"time"

	"usher/cmd/usher/internal/policyfile"
	"usher/limiter"
	"usher/proxy"
	"usher/proxy/admin"
	"usher/proxy/rules"
)

// history is the outcome of the last loads of a policy. It is safe for concurrent
// use.
type history struct {
	mu      sync.Mutex
	current *rules.Set
	loaded  time.Time // when current was loaded
	failure error     // of the last load
	loads   uint64    // so far, failed ones included
}

// use records that set is now in force.
func (h *history) use(set *rules.Set) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.current, h.loaded, h.failure = set, time.Now(), nil
	h.loads++
}

// failed records a failed attempt to load a policy.
func (h *history) failed(err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.failure = err
	h.loads++
}

// inForce returns the rules in force.
func (h *history) inForce() *rules.Set {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.current
}

// show adds the outcome of the last loads to r.
func (h *history) show(r *admin.Rules) {
	h.mu.Lock()
	defer h.mu.Unlock()
	r.Loaded, r.Loads, r.ReloadOK = h.loaded, h.loads, h.failure == nil
	if h.failure != nil {
		r.ReloadErr = h.failure.Error()
	}
}

// showRules returns the generation in force, and the limits of all generations
// with sessions on this replica, current ones first. Reloads of an unchanged file
// are one generation.
func showRules(file string, gens []proxy.Generation, st limiter.Status) admin.Rules {
	out := admin.Rules{File: file, Limits: []admin.RuleLimit{}}
	shown := map[string]bool{}
	for i := len(gens) - 1; i >= 0; i-- {
		g := gens[i]
		if shown[g.Digest] {
			continue
		}
		shown[g.Digest] = true
		if g.Current {
			out.Digest, out.Generation, out.Number = g.Digest, g.Label, g.Number
		}
		for _, r := range policyfile.Limited(g.Rules) {
			out.Limits = append(out.Limits, admin.RuleLimit{
				Rule: r.ID(), Name: r.Label(), Location: r.At(), Generation: g.Label, Pool: r.Session.Pool, Mode: r.Session.Mode(), Current: g.Current,
				Max: r.Session.Max, Sessions: st.Totals[proxy.Counter(g.Digest, r)],
			})
		}
	}
	return out
}
