package proxy

import (
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

// Refusals returns the last refusals, the newest first, 1000 at most.
func (s *Server) Refusals() []record.End { return s.refused.newest() }

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
