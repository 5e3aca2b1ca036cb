package proxy

import (
	"context"
	"fmt"
	"strings"
	"time"
)

// Cut describes the sessions that Drain has ended.
type Cut struct {
	Sessions int
	Counts   []Count       // of those that a client-rule had let in
	Longest  time.Duration // how long the oldest of them had lasted
	Oldest   string        // its session id
}

// By returns the counts as text, such as "s1 connect 2, s3 udpassociate 1".
func (c Cut) By() string {
	var parts []string
	for _, n := range c.Counts {
		parts = append(parts, fmt.Sprintf("%s %s %d", n.Rule, n.Command, n.Sessions))
	}
	return strings.Join(parts, ", ")
}

// Drain waits for all sessions to end. When ctx is done, it closes the remaining ones
// without a reply, and returns what they were. When Drain returns, all goroutines of
// sessions have ended and all slots are given back. A connection that is accepted later
// is closed at once.
//
// Call CloseListeners first, or new sessions keep coming until ctx is done.
func (s *Server) Drain(ctx context.Context) Cut {
	select {
	case <-s.table.whenEmpty():
	case <-ctx.Done():
	}
	left, counts := s.table.stop()
	cut := Cut{Sessions: len(left), Counts: counts}
	for _, sess := range left {
		if age := time.Since(sess.began); age >= cut.Longest {
			cut.Longest, cut.Oldest = age, s.sessionID(sess.id)
		}
		sess.sockets.cut(errDrain)
	}
	s.table.running.Wait()
	s.names.Wait()
	return cut
}
