package serve

import (
	"context"
	"errors"
	"time"

	"usher/proxy"
)

// leaveTimeout bounds how long a stopping process waits for the store to free its
// slots. After that, they are freed when the lease ends.
const leaveTimeout = 5 * time.Second

// stop drains: it reports not ready, waits for the grace, closes the listeners,
// waits for sessions, cuts the rest and frees the slots. When ctx ends, every wait
// ends.
func (s *service) stop(ctx context.Context) error {
	s.monitor.Ready.Draining()
	s.policy.CancelLint()
	select {
	case <-time.After(s.cfg.DrainGrace):
	case <-ctx.Done():
	}
	return s.finish(ctx)
}

// finish is stop after the grace.
func (s *service) finish(ctx context.Context) error {
	if err := s.proxy.CloseListeners(); err != nil {
		s.log.Warn("cannot close a listener", "error", err.Error())
	}
	patience, cancel := context.WithTimeout(ctx, s.cfg.DrainTimeout)
	defer cancel()
	cut := s.proxy.Drain(patience)

	leaving, cancel := context.WithTimeout(context.WithoutCancel(ctx), leaveTimeout)
	defer cancel()
	if err := s.counting.Leave(leaving); err != nil {
		s.log.Warn("cannot leave the store", "error", err.Error(), "effect", "slots are freed when the lease ends")
	}
	s.policy.LeavePublished(leaving, s.counting.Store)
	s.tasks.cancel()
	s.events.Close()
	err := errors.Join(s.monitor.Close(leaving), s.sockets.Close(), s.counting.Close())
	s.policy.Close()
	s.tasks.wait()
	s.loops.Wait()
	err = errors.Join(err, s.accounting.Close())
	s.log.Info("stopped", describeCut(cut)...)
	return errors.Join(err, s.log.Close())
}

// describeCut returns log attributes about the sessions that a drain has cut.
func describeCut(cut proxy.Cut) []any {
	attrs := []any{"cut", cut.Sessions}
	if cut.Sessions > 0 {
		attrs = append(attrs, "cut_by_rule", cut.By(), "longest_session", cut.Oldest, "longest_seconds", cut.Longest.Seconds())
	}
	return attrs
}

// leave ends this process after another one has taken its place.
func (s *service) leave() error {
	if s.replicas != nil {
		s.replicas.Retire("it was upgraded in place, and answers no more while its last sessions end")
	}
	s.events.Close()
	closing, cancel := context.WithTimeout(context.Background(), leaveTimeout)
	defer cancel()
	err := errors.Join(s.proxy.CloseListeners(), s.monitor.Close(closing))
	return errors.Join(err, s.finish(context.Background()))
}
