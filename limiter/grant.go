package limiter

import (
	"context"
	"sync/atomic"

	"usher/limiter/replica"
	"usher/store"
)

// Grant holds a slot of one limit for a session, or nothing if the session has no
// limit. Only the session may call Admit and Move. After they have returned, Valid,
// WhenLost and Release are safe for concurrent use.
type Grant struct {
	limiter *Limiter
	shard   *shard        // of slot; nil without a limit
	slot    *replica.Slot // nil without a limit, and while it waits; see shard.passOn

	answered chan error  // while it waits: gets the answer, unless the wait ends first
	lost     atomic.Bool // slot was taken away
	kept     bool        // the last Move within a pool has left the slot as it was
	whenLost func()      // nil, or called then; guarded by shard.mu
}

// Move gives the slot back and takes one of limit. One request does both, unless the
// rules are in different shards. Move returns the errors of Admit. If it fails, it
// has given the old slot back as well.
func (g *Grant) Move(ctx context.Context, limit Limit) error {
	g.kept = false
	if limit.Rule == "" {
		g.giveUp()
		return nil
	}
	s := g.limiter.shardOf(limit.Rule)
	if g.shard == s && store.InPool(limit.Rule) && s.keep(g, limit) {
		return nil
	}
	asked := g.limiter.now()
	if s.index > 0 {
		first, wait := g.limiter.shards[0], g.limiter.options.StoreWait
		if first.isAway(limit) {
			wait = 0
		}
		err := g.limiter.agree(ctx, asked+wait)
		if err == nil {
			err = g.limiter.upToDate(ctx, asked+wait) //mutate:admitted-elsewhere-without-an-exchange
		}
		if err != nil {
			first.waited(limit, err)
			g.giveUp()
			return s.orLocally(g, limit, err)
		}
	}
	if g.shard != s {
		g.giveUp()
	}
	err := s.takeSlot(ctx, g, limit, asked)
	if err == nil && s.index > 0 && g.limiter.shards[0].renewal() != nil { // it has waited too long
		g.giveUp() //mutate:admitted-elsewhere-after-a-wait-without-an-exchange
		return s.orLocally(g, limit, ErrUnavailable)
	}
	return err
}

// Undo gives back what the last Move has taken. A slot that Move has left as it was,
// because both limits are of one counter of a pool, stays.
func (g *Grant) Undo() {
	if !g.kept {
		g.giveUp()
	}
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

// Valid reports whether the session may write now. Call it immediately before every
// write, because a pause of the process makes an older answer useless. It reads the
// clock, and takes a lock only if a lease of this replica has ended.
func (g *Grant) Valid() bool {
	if g.slot == nil || !g.slot.Leased() || !g.shard.strict {
		return true
	}
	return g.shard.valid(g)
}

// Confirmed reports whether the store has admitted the session. It is false if this
// replica admitted it by its own count (Options.AdmitLocally).
func (g *Grant) Confirmed() bool { return g.slot == nil || !g.slot.Local() }

// Kept reports whether the last Move has left the session its slot, because it was within
// a pool.
func (g *Grant) Kept() bool { return g.kept }

// WouldRefuse returns the limit that would have refused the session at the last Admit or
// Move, if it did not only report (Limit.Report); nil if none would have. It is nil for
// a session that the store has not judged: see Confirmed.
func (g *Grant) WouldRefuse() *LimitError {
	if g.slot == nil || g.kept {
		return nil
	}
	return g.slot.WouldRefuse()
}

// WhenLost calls f when the slot is taken away, or at once if it was taken away before.
// f must wake blocked calls of the session, which then ask Valid. f must not block and
// must not call the limiter, because a lock of the limiter is held. Move and Release
// forget f.
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
