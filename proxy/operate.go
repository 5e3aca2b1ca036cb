package proxy

import (
	"cmp"
	"context"
	"log/slog"
	"slices"
	"time"

	"usher/proxy/record"
)

// What an operator sees of the sessions, and does to them.

// Running returns the sessions that a client-rule has passed, in no order. Those that
// negotiate are among them. Their user and target are not known yet.
func (s *Server) Running() []record.Running {
	seen, now := s.table.seen(), time.Now()
	list := make([]record.Running, 0, len(seen))
	for _, v := range seen {
		list = append(list, v.running(now))
	}
	return list
}

// Bounds of LogRunning: lines at a time, the pause after them, and lines in all.
const (
	listedAtOnce = 500
	listPause    = 100 * time.Millisecond
	maxListed    = 20_000
)

// LogRunning logs each session that a client-rule has passed, the oldest first, and then
// how many there are. It logs 5000 lines a second, and the 20,000 oldest sessions, so
// that it displaces no other lines. It ends with ctx.
func (s *Server) LogRunning(ctx context.Context) {
	list := s.table.seen()
	slices.SortFunc(list, func(a, b seen) int { return cmp.Compare(a.session.id, b.session.id) })
	listed := 0
	for i, v := range list[:min(len(list), maxListed)] {
		if i%listedAtOnce == 0 && i > 0 {
			select {
			case <-time.After(listPause):
			case <-ctx.Done():
				return
			}
		}
		if !s.table.lives(v.session) {
			continue // its last line is in the log
		}
		r := v.running(time.Now())
		s.opts.Logger.LogAttrs(ctx, slog.LevelInfo, "session running", runningAttrs(&r)...)
		listed++
	}
	s.opts.Logger.LogAttrs(ctx, slog.LevelInfo, "sessions listed", slog.Int("sessions", len(list)), slog.Int("listed", listed))
}

// runningAttrs returns the keys of the line about a running session.
func runningAttrs(r *record.Running) []slog.Attr {
	return append(sessionAttrs(&r.Session, "", ""),
		slog.String("state", r.State), slog.Int64("bytes_up", r.BytesUp), slog.Int64("bytes_down", r.BytesDown),
		slog.Float64("seconds", r.Seconds), slog.Float64("idle_seconds", r.IdleSeconds))
}

// Refusals returns the last refusals, the newest first, 1000 at most.
func (s *Server) Refusals() []record.End { return s.refused.newest() }

// RefusedLately returns how many sessions a counter (see Counter) has refused here in the
// last minute.
func (s *Server) RefusedLately(counter string) uint64 {
	return s.table.refused.lately(counter, time.Now())
}

// End ends the sessions with these ids, with the reason "ended", and returns the ids of
// those that were running. It does not wait for their end.
func (s *Server) End(ids ...string) (ended []string) {
	wanted := make(map[string]bool, len(ids))
	for _, id := range ids {
		wanted[id] = true
	}
	for _, v := range s.table.seen() {
		if id := s.sessionID(v.session.id); wanted[id] {
			v.session.sockets.cut(errEnded)
			ended = append(ended, id)
		}
	}
	return ended
}
