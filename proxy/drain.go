package proxy

import "context"

// Drain waits for all sessions to end. When ctx is done it ends those that are
// left, closing them without a reply, and returns how many that were. All
// goroutines of sessions have ended and all their slots are given back when it
// returns; a connection that is accepted after that is closed at once.
//
// Call CloseListeners first, or new sessions keep coming until ctx is done.
func (s *Server) Drain(ctx context.Context) (cut int) {
	select {
	case <-s.table.whenEmpty():
	case <-ctx.Done():
	}
	left := s.table.stop()
	for _, sess := range left {
		sess.sockets.cut(errDrain)
	}
	s.table.running.Wait()
	s.names.Wait()
	return len(left)
}
