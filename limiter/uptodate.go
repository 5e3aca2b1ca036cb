package limiter

import (
	"context"
	"time"
)

// Options.Exchange has only the connection to the first shard. A replica that does not
// reach this shard does not learn, for example, that the rules have changed. So it
// admits nobody in other shards either, once its lease in the first shard has ended.

// upToDate waits until the lease in the first shard is valid. Each message that renews
// it follows an exchange by two tenths of the TTL at most. It fails as awaitAgreed does.
func (l *Limiter) upToDate(ctx context.Context, deadline time.Duration) error {
	for {
		renewed := l.shards[0].renewal()
		if renewed == nil {
			return nil
		}
		if err := l.waitFor(ctx, renewed, deadline); err != nil {
			return err
		}
	}
}

// renewal returns nil if the lease is valid or nothing is exchanged, else what is closed
// when the lease is valid again.
func (s *shard) renewal() <-chan struct{} {
	if s.limiter.options.Exchange == nil {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.machine.HasLease(s.limiter.now()) {
		return nil
	}
	if s.renewed == nil {
		s.renewed = make(chan struct{})
	}
	return s.renewed
}

// tellRenewal ends the waits for a renewal if the lease is valid. s.mu is held.
func (s *shard) tellRenewal() {
	if s.renewed != nil && s.machine.HasLease(s.limiter.now()) {
		close(s.renewed)
		s.renewed = nil
	}
}
