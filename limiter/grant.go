package limiter

import (
	"context"
	"sync/atomic"
	"time"
)

// Grant is what a session holds: a slot of one limit, or nothing if no limit
// applies, or none but a rate. Admit and Move are the session's own to call;
// Valid, WhenLost and Release are safe for concurrent use after them.
type Grant struct {
	limiter *Limiter
	slot    *slot // nil: no limit
}

// slot is one unit of a counter's live sessions, or of none.
type slot struct {
	shard   *shard
	counter *counter    // nil: only that the session began was counted
	order   uint64      // in which it was admitted
	alone   bool        // admitted without the store
	ended   bool        // released or taken away; guarded by shard.mu
	dead    atomic.Bool // taken away
	lost    func()      // nil, or called when it is taken away; guarded by shard.mu
}

// lease is the right of a replica to what it was told it may hold, until the
// fence. A counter moves to a new lease only when the store confirmed it there.
type lease struct {
	fence atomic.Int64 // on the limiter's clock
	ended bool         // the replica has seen it pass
}

func (l *lease) passed(now time.Duration) bool { return int64(now) >= l.fence.Load() }

// Move gives back what the grant holds and asks for a slot of limit; both go
// to the store together, unless their rules are in different shards. If it is
// refused, the old slot is gone all the same. It fails as Admit does.
func (g *Grant) Move(ctx context.Context, limit Limit) error {
	old := g.slot
	g.slot = nil
	if limit.Rule == "" {
		old.release()
		return nil
	}
	s := g.limiter.shardOf(limit.Rule)
	asked := g.limiter.now()
	if s.index > 0 {
		if err := g.limiter.agree(ctx, asked+g.limiter.options.StoreWait); err != nil {
			old.release()
			g.slot, err = s.orAlone(limit, nil, err)
			return err
		}
	}
	if old != nil && old.shard != s {
		old.release()
		old = nil
	}
	var err error
	g.slot, err = s.admit(ctx, old, limit, asked)
	return err
}

// Release gives the slot back. It is idempotent and never waits for the store.
func (g *Grant) Release() { g.slot.release() }

// Valid reports whether a write may be started for the session now: one clock
// read against the fence, no lock. Ask it before every write, and never ahead
// of one: after a pause of the process an older answer is worth nothing.
func (g *Grant) Valid() bool {
	s := g.slot
	if s == nil || s.counter == nil || !s.shard.fenced {
		return true
	}
	return !s.dead.Load() && !s.counter.lease.Load().passed(g.limiter.now())
}

// Confirmed reports whether the store was asked: it is false for what
// Options.AdmitLocally let in.
func (g *Grant) Confirmed() bool { return g.slot == nil || !g.slot.alone }

// WhenLost calls f when the slot is taken away, at once if it was already. It
// only wakes what is blocked; Valid is what decides. f is called with a lock
// of the limiter held: it must not block, nor call the limiter. Move and
// Release forget f.
func (g *Grant) WhenLost(f func()) {
	s := g.slot
	if s == nil {
		return
	}
	s.shard.mu.Lock()
	defer s.shard.mu.Unlock()
	if s.dead.Load() {
		f()
		return
	}
	s.lost = f
}

func (s *slot) release() {
	if s == nil {
		return
	}
	sh := s.shard
	sh.mu.Lock()
	defer sh.mu.Unlock()
	sh.replica.release(sh.limiter.now(), s)
	sh.rouseIfDue()
}
