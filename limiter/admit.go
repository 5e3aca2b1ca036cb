package limiter

import (
	"context"
	"errors"
	"time"

	"usher/limiter/replica"
)

// How a grant gets a slot, checks it and returns it.

// takeSlot returns the slot that g holds in this shard, if any, and takes one of limit
// for it. It waits for the store for Options.StoreWait at most, counted from asked.
func (s *shard) takeSlot(ctx context.Context, g *Grant, limit Limit, asked time.Duration) error {
	w, deadline, err := s.ask(g, limit, asked)
	if w == nil {
		return s.orLocally(g, limit, err)
	}
	// A batch contains the requests of several sessions, so ctx does not end it. Its
	// sender may have to wait for its time limit, a tenth of the TTL.
	s.send(context.WithoutCancel(ctx), true) //mutate:a-client-that-leaves-takes-the-request-along
	err, answered := s.await(ctx, g, w, deadline)
	g.answered = nil // a session keeps its grant for long
	if gone := ctx.Err(); gone != nil {
		g.giveUp() //mutate:a-client-that-left-keeps-a-slot
		return gone
	}
	if !answered {
		err = s.unanswered(w)
		s.waited(limit, err)
	}
	return s.orLocally(g, limit, err) //mutate:refused-during-a-recovery-and-not-admitted-locally
}

// ask asks the machine for a slot. The machine answers at once or returns a waiter.
func (s *shard) ask(g *Grant, limit Limit, asked time.Duration) (w *replica.Waiter, deadline time.Duration, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	wait := s.limiter.options.StoreWait
	if s.machine.Live() && s.machine.Connected() {
		// As far as we know, the store answers. Then no session is refused because
		// its wait is shorter than one round trip.
		wait = max(wait, s.machine.RequestTimeout())
	}
	if s.away && s.limiter.options.locally(limit) { //mutate:each-session-of-an-outage-waits
		wait = 0
	}
	deadline = asked + wait
	old := s.begins(g)
	g.slot, w, err = s.machine.Ask(s.limiter.now(), g, old, limit.want(s.limiter.options.MaxKeys), deadline)
	if w != nil {
		g.answered = make(chan error, 1)
	} else {
		s.wakeIfDue() // for old //mutate:a-move-tells-late-what-it-gave-back
	}
	s.passOn()
	return w, deadline, err
}

// begins prepares g for a slot of this shard, and returns its old slot. s.mu is held.
func (s *shard) begins(g *Grant) (old *replica.Slot) {
	old = g.slot
	g.shard, g.slot, g.whenLost = s, nil, nil
	g.lost.Store(false)
	return old
}

// keep reports whether g keeps its slot, because the limit is of the same counter of a
// pool. That needs no store, so it does not matter which shards are away.
func (s *shard) keep(g *Grant, limit Limit) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	old := g.slot
	if g.kept = s.machine.Keeps(s.limiter.now(), old, limit.want(s.limiter.options.MaxKeys)); g.kept {
		s.begins(g)
		g.slot = old
	}
	s.passOn()
	return g.kept
}

// await waits for the answer until the deadline. Without an answer, it withdraws the
// request.
func (s *shard) await(ctx context.Context, g *Grant, w *replica.Waiter, deadline time.Duration) (err error, answered bool) {
	if left := deadline - s.limiter.now(); left > 0 {
		select {
		case err = <-g.answered: // mostly by send: no timer
			return err, true
		default:
		}
		timer := time.NewTimer(left)
		defer timer.Stop()
		select {
		case err = <-g.answered:
			return err, true
		case <-ctx.Done():
		case <-timer.C:
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.machine.Withdraw(w) {
		return nil, false
	}
	s.passOn()
	return <-g.answered, true //mutate:a-late-answer-is-lost
}

// orLocally decides about an admission that failed with err. If the store did not
// answer, this replica may admit the session by its own count.
func (s *shard) orLocally(g *Grant, limit Limit, err error) error {
	if !s.limiter.options.locally(limit) || !errors.Is(err, ErrUnavailable) && !errors.Is(err, ErrRecovering) &&
		(!limit.Report || !errors.Is(err, ErrMismatch)) {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.begins(g)
	g.slot, err = s.machine.AdmitLocally(s.limiter.now(), g, limit.want(s.limiter.options.MaxKeys))
	s.passOn()
	s.wakeIfDue() //mutate:a-local-admission-is-told-late
	return err
}

// waited records that a wait for limit ended with err. Of the sessions that this replica
// may admit by itself, only the first one of an outage waits.
func (s *shard) waited(limit Limit, err error) {
	if !s.limiter.options.locally(limit) || !errors.Is(err, ErrUnavailable) {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.away = true
}

// isAway reports whether the next session of limit should not wait for the store.
func (s *shard) isAway(limit Limit) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.away && s.limiter.options.locally(limit)
}

// unanswered returns the reason why a waiter got no answer.
func (s *shard) unanswered(w *replica.Waiter) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.machine.Unanswered(w)
}

func (s *shard) release(slot *replica.Slot) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.machine.Release(s.limiter.now(), slot)
	s.passOn()
	s.wakeIfDue()
}

// valid reports whether a session may write now. Before the next deadline of any lease,
// a slot is valid unless it was taken away.
func (s *shard) valid(g *Grant) bool {
	now := s.limiter.now()
	before := int64(now) < s.deadline.Load() // read before lost, which passOn writes first
	if g.lost.Load() {                       //mutate:a-slot-that-was-taken-is-valid-again
		return false
	}
	if before {
		return true
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.machine.Valid(now, g.slot)
}
