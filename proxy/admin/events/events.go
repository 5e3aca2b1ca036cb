// Package events tells clients of the API what changes in the cluster, by server-sent
// events.
package events

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"sync"
	"time"

	"usher/proxy/admin/api"
	"usher/proxy/printable"
)

// Bounds of streams.
const (
	MaxStreams = 16                     // at a time
	every      = 700 * time.Millisecond // between two looks at the cluster
	heartbeat  = 10 * time.Second       // between two lines at most
	writeTime  = 10 * time.Second       // for a client to take a line
)

// Hub looks at the cluster while there are streams. It is safe for concurrent use.
type Hub struct {
	source api.Source
	ctx    context.Context // ends with Close
	close  context.CancelFunc
	every  time.Duration

	mu      sync.Mutex
	streams map[*stream]struct{}
	looking bool // the goroutine look runs
	running sync.WaitGroup
}

// New returns a Hub. The caller must call Close.
func New(source api.Source) *Hub {
	ctx, cancel := context.WithCancel(context.Background())
	return &Hub{source: source, ctx: ctx, close: cancel, every: every, streams: map[*stream]struct{}{}}
}

// Close ends all streams. It may be called again.
func (h *Hub) Close() {
	h.mu.Lock()
	h.close()
	h.mu.Unlock()
	h.running.Wait()
}

// enter adds a stream. It reports false if there are MaxStreams, or after Close.
func (h *Hub) enter(s *stream) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.streams) >= MaxStreams || h.ctx.Err() != nil {
		return false
	}
	h.streams[s] = struct{}{}
	if !h.looking {
		h.looking = true
		h.running.Go(h.look)
	}
	return true
}

func (h *Hub) leave(s *stream) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.streams, s)
}

// look looks at the cluster until there are no streams.
func (h *Hub) look() {
	tick := time.NewTicker(h.every)
	defer tick.Stop()
	for {
		now := see(h.ctx, h.source)
		h.mu.Lock()
		for s := range h.streams {
			s.show(now)
		}
		if len(h.streams) == 0 || h.ctx.Err() != nil {
			h.looking = false
			h.mu.Unlock()
			return
		}
		h.mu.Unlock()
		select {
		case <-tick.C:
		case <-h.ctx.Done():
		}
	}
}

// ServeHTTP answers with a stream.
func (h *Hub) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s := newStream()
	if !h.enter(s) {
		w.Header().Set("Retry-After", "5")
		api.WriteError(w, http.StatusServiceUnavailable, api.Error{
			Error: fmt.Sprintf("there are %d streams of events already, or this replica is stopping", MaxStreams), Remedy: "try again later, or ask another replica",
		})
		return
	}
	defer h.leave(s)
	to := http.NewResponseController(w)
	_ = to.SetReadDeadline(time.Time{}) // of the whole request; its error is that of a writer without deadlines
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("X-Accel-Buffering", "no") // for proxies
	write := func(text []byte) bool {
		_ = to.SetWriteDeadline(time.Now().Add(writeTime))
		_, err := w.Write(text)
		return err == nil && to.Flush() == nil
	}
	beat := time.NewTicker(heartbeat)
	defer beat.Stop()
	for text := []byte("retry: 1000\n\n"); write(text); {
		select {
		case <-s.news:
			text = s.take()
		case <-beat.C:
			text = []byte(":\n\n")
		case <-r.Context().Done():
			return
		case <-h.ctx.Done():
			return
		}
	}
}

// event returns the text of an event.
func event(name string, data any) []byte {
	text, err := json.Marshal(data)
	if err != nil {
		text = []byte("{}") // no value of ours fails
	}
	return fmt.Appendf(nil, "event: %s\ndata: %s\n\n", name, printable.JSON(text))
}
