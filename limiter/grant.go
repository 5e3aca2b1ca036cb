package limiter

import (
	"context"
	"sync/atomic"

	"usher/limiter/replica"
)

// Grant is what a session holds: a slot of one limit, or nothing if it has no
// limit. Admit and Move are the session's own to call. After they have returned,
// Valid, WhenLost and Release are safe for concurrent use.
type Grant struct {
	limiter *Limiter
	shard   *shard        // of slot; nil without a limit
	slot    *replica.Slot // nil without a limit, and while it waits; see shard.passOn

	answered chan error  // while it waits: gets the answer, unless the wait ends first
	lost     atomic.Bool // slot was taken away
	whenLost func()      // nil, or called then; guarded by shard.mu
}

// Move gives back what the grant holds and takes a slot of limit. Both go to the
// store together, unless their rules are in different shards. If it fails, the
// old slot is given back all the same. It fails as Admit does.
func (g *Grant) Move(ctx context.Context, limit Limit) error {
	if limit.Rule == "" {
		g.giveUp()
		return nil
	}
	s := g.limiter.shardOf(limit.Rule)
	asked := g.limiter.now()
	if s.index > 0 {
		first, wait := g.limiter.shards[0], g.limiter.options.StoreWait
		if first.isAway() {
			wait = 0
		}
		if err := g.limiter.agree(ctx, asked+wait); err != nil {
			first.waited(err)
			g.giveUp()
			return s.orLocally(g, limit, err)
		}
	}
	if g.shard != s {
		g.giveUp()
	}
	return s.admit(ctx, g, limit, asked)
}

// Release gives the slot back. It is idempotent and never waits for the store.
func (g *Grant) Release() {
	if g.slot != nil {
		g.shard.release(g.slot)
	}
}

// giveUp releases the slot and forgets it.
func (g *Grant) giveUp() {
	g.Release()
	g.shard, g.slot = nil, nil
}

// Valid reports whether a write may be started for the session now. Ask it
// before every write, and never earlier: after a pause of the process an older
// answer is worth nothing. It reads the clock, and takes a lock only where a
// lease of this replica has ended.
func (g *Grant) Valid() bool {
	if g.slot == nil || !g.slot.Counted() || !g.shard.strict {
		return true
	}
	return g.shard.valid(g)
}

// Confirmed reports whether the store was asked: it is false for a session that
// Options.AdmitLocally let in.
func (g *Grant) Confirmed() bool { return g.slot == nil || !g.slot.Local() }

// WhenLost calls f when the slot is taken away, at once if it was already. It
// only wakes what is blocked; Valid is what decides. f is called with a lock
// of the limiter held: it must not block, nor call the limiter. Move and
// Release forget f.
func (g *Grant) WhenLost(f func()) {
	s := g.shard
	if g.slot == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if g.lost.Load() {
		f()
		return
	}
	g.whenLost = f
}
