package events

import (
	"bytes"
	"context"
	"encoding/json"
	"maps"
	"slices"
	"sync"
	"time"

	"usher/proxy/admin/api"
	"usher/proxy/record"
)

// maxNews bounds how many refusals one event tells.
const maxNews = 100

// maxKnown is how many refusals a stream knows again, about.
const maxKnown = 10 * maxNews

// view is what the cluster looks like at one moment.
type view struct {
	cluster  api.Cluster
	rules    api.Rules // without the rules themselves
	limits   api.Limits
	sessions api.SessionsChanged
	refusals api.Refusals
}

// see asks source for all of it.
func see(ctx context.Context, source api.Source) *view {
	v := &view{}
	var all sync.WaitGroup
	all.Go(func() { v.cluster = source.Cluster(ctx) })
	all.Go(func() {
		v.rules = source.Rules(ctx)
		for i := range v.rules.Generations {
			v.rules.Generations[i].Rules = []api.Rule{}
		}
	})
	all.Go(func() { v.limits = source.Limits(ctx) })
	all.Go(func() {
		newest := source.Sessions(ctx, api.Query{Sort: "began", Descending: true, Limit: 1})
		v.sessions = api.SessionsChanged{Answer: newest.Answer, Total: newest.Total, Newest: newest.Sessions}
	})
	all.Go(func() { v.refusals = source.Refusals(ctx, api.Query{Limit: maxNews}) })
	all.Wait()
	return v
}

// stream is what one client has still to be told. It is safe for concurrent use.
type stream struct {
	news chan struct{} // has a token while there is something to take

	mu     sync.Mutex
	before map[string][]byte    // by event: what was shown last, without times
	limits map[string][]byte    // by limit: the same
	last   map[string]time.Time // ids of refusals that were shown, and when they were made

	pending map[string][]byte // by event: its text
	changed map[string]api.Limit
	refused []record.End
}

func newStream() *stream {
	return &stream{
		news: make(chan struct{}, 1), before: map[string][]byte{}, limits: map[string][]byte{}, last: map[string]time.Time{},
		pending: map[string][]byte{}, changed: map[string]api.Limit{},
	}
}

// show adds to what the client is to be told.
func (s *stream) show(v *view) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.compare("cluster", v.cluster, stillCluster(v.cluster))
	s.compare("rules", v.rules, stillRules(v.rules))
	s.compare("sessions", v.sessions, stillSessions(v.sessions))
	s.compareLimits(v.limits)
	s.compareRefusals(v.refusals)
	if len(s.pending) == 0 {
		return
	}
	select {
	case s.news <- struct{}{}:
	default:
	}
}

// compare makes an event if still is not what it was.
func (s *stream) compare(name string, data, still any) {
	text, err := json.Marshal(still)
	if err != nil || bytes.Equal(text, s.before[name]) && s.before[name] != nil {
		return
	}
	s.before[name] = text
	s.pending[name] = event(name, data)
}

// compareLimits makes an event of the limits that have changed, also of those that the
// client has not taken yet.
func (s *stream) compareLimits(now api.Limits) {
	first := len(s.limits) == 0
	old := s.limits
	s.limits = make(map[string][]byte, len(now.Limits))
	for _, l := range now.Limits {
		id := l.Digest + " " + l.Rule
		text, err := json.Marshal(l)
		if err != nil {
			continue
		}
		s.limits[id] = text
		if !bytes.Equal(old[id], text) {
			s.changed[id] = l
		}
	}
	if len(s.changed) == 0 && !(first && s.before["limits"] == nil) {
		return
	}
	s.before["limits"] = []byte{}
	now.Limits = []api.Limit{}
	for _, l := range s.changed {
		now.Limits = append(now.Limits, l)
	}
	slices.SortFunc(now.Limits, func(a, b api.Limit) int {
		return bytes.Compare([]byte(a.Digest+" "+a.Rule), []byte(b.Digest+" "+b.Rule))
	})
	s.pending["limits"] = event("limits", now)
}

// compareRefusals makes an event of the new refusals, and of those that the client has
// not taken yet.
func (s *stream) compareRefusals(now api.Refusals) {
	first := s.before["refusals"] == nil
	seen := make(map[string]time.Time, len(now.Refusals))
	var fresh []record.End
	for _, e := range now.Refusals {
		seen[e.ID] = e.Time
		if !s.last[e.ID].Equal(e.Time) {
			fresh = append(fresh, e)
		}
	}
	if len(s.last) > maxKnown {
		s.last = seen
	}
	maps.Copy(s.last, seen) // also those of a replica that answers again
	if len(fresh) == 0 && !first {
		return
	}
	s.before["refusals"] = []byte{}
	s.refused = append(fresh, s.refused...)
	s.refused = s.refused[:min(len(s.refused), maxNews)]
	now.Refusals = append([]record.End{}, s.refused...)
	s.pending["refusals"] = event("refusals", now)
}

// take returns what there is to tell, and forgets it.
func (s *stream) take() (text []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, name := range []string{"cluster", "rules", "limits", "sessions", "refusals"} {
		text = append(text, s.pending[name]...)
	}
	clear(s.pending)
	clear(s.changed)
	s.refused = nil
	return text
}

// What follows removes from an answer what changes all the time.

func stillCluster(c api.Cluster) api.Cluster {
	c.Time = time.Time{}
	c.Replicas = slices.Clone(c.Replicas)
	for i := range c.Replicas {
		c.Replicas[i].Seen = time.Time{}
	}
	return c
}

func stillRules(r api.Rules) api.Rules {
	r.Time = time.Time{}
	return r
}

func stillSessions(s api.SessionsChanged) any {
	id := ""
	if len(s.Newest) > 0 {
		id = s.Newest[0].ID
	}
	return []any{s.Total, id, s.Missing}
}
