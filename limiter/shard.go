package limiter

import (
	"context"
	"errors"
	"math"
	"sync"
	"time"

	"usher/store"
)

// shard drives one replica: it carries out what the replica wants sent, one
// request at a time, and hands the answers back. Whoever finds nothing under
// way sends a batch himself; its goroutine run does all the rest.
type shard struct {
	limiter *Limiter
	index   int
	fenced  bool // sessions end at the fence

	mu      sync.Mutex
	replica *replica
	agreed  bool          // the first shard: limiter.agreed is closed
	rests   time.Duration // run sleeps until then if nobody rouses it; 0: it does not sleep

	conn  store.Conn    // owned by who carries out the request under way
	wake  chan struct{} // something may be due; holds at most one token
	left  chan struct{} // closed when the store is left
	tasks sync.WaitGroup
}

func newShard(l *Limiter, index int, h *replica) *shard {
	s := &shard{
		limiter: l, index: index, replica: h,
		fenced: l.options.Strict && l.options.Store.Leased(),
		wake:   make(chan struct{}, 1), left: make(chan struct{}),
	}
	h.shard = s
	return s
}

func (s *shard) begin(ctx context.Context) {
	s.tasks.Go(func() { s.run(ctx) })
	if s.fenced {
		s.tasks.Go(func() { s.watchFence(ctx) })
	}
}

// run sends what is due until the store is left or ctx ends.
func (s *shard) run(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for ctx.Err() == nil {
		for s.send(ctx, false) {
		}
		pause, over := s.rest()
		if over {
			break
		}
		timer.Reset(pause)
		select {
		case <-ctx.Done():
		case <-s.wake:
		case <-timer.C:
		}
	}
	s.end()
}

// rest returns how long run has nothing to do, and whether that is for ever.
func (s *shard) rest() (pause time.Duration, over bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.limiter.now()
	s.rests = s.replica.restUntil(now)
	return max(s.rests-now, 0), s.replica.phase == left && !s.replica.busy
}

// rouseIfDue rouses run if there is something for it to do before it wakes by
// itself. s.mu is held.
func (s *shard) rouseIfDue() {
	if s.replica.rouses(s.rests) {
		s.rouse()
	}
}

// end waits for a request that somebody else may still have under way: it is
// bounded by its own time limit.
func (s *shard) end() {
	defer close(s.left)
	for {
		s.mu.Lock()
		s.replica.abandon()
		s.rests = math.MaxInt64
		busy, conn := s.replica.busy, s.conn
		s.mu.Unlock()
		if !busy {
			if conn != nil {
				conn.Close()
			}
			return
		}
		<-s.wake
	}
}

// watchFence wakes blocked sessions when the fence has passed, also while a
// request to the store hangs.
func (s *shard) watchFence(ctx context.Context) {
	for {
		s.mu.Lock()
		now := s.limiter.now()
		s.replica.checkFences(now)
		pause := max(s.replica.nextFence()-now, time.Millisecond)
		s.mu.Unlock()
		timer := time.NewTimer(min(pause, s.replica.timing.fence))
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-s.left:
			timer.Stop()
			return
		case <-timer.C:
		}
	}
}

func (s *shard) rouse() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// send carries out one request, if one is due, and reports whether it did.
// batchOnly is for callers that wait for an answer: they send what they wait
// for, and nothing else.
func (s *shard) send(ctx context.Context, batchOnly bool) bool {
	s.mu.Lock()
	if !batchOnly {
		s.rests = 0
	}
	now := s.limiter.now()
	var r *request
	if !batchOnly || s.replica.batchNext(now) {
		r = s.replica.next(now)
	}
	if r == nil {
		if batchOnly {
			s.rouseIfDue() // it takes more than a batch
		}
		s.mu.Unlock()
		return false
	}
	s.mu.Unlock()
	began := s.limiter.now()
	o := s.perform(ctx, r)
	s.limiter.options.Observe(string(r.op), s.limiter.now()-began, o.err)

	s.mu.Lock()
	defer s.mu.Unlock()
	s.replica.handle(s.limiter.now(), r, o)
	if !s.replica.connected && s.conn != nil {
		s.conn.Close()
		s.conn = nil
	}
	if s.index == 0 && !s.agreed && s.replica.phase == live {
		s.agreed = true
		close(s.limiter.agreed)
	}
	if batchOnly {
		s.rouseIfDue()
	}
	return true
}

// perform is where the store is spoken to.
func (s *shard) perform(ctx context.Context, r *request) (o outcome) {
	limit := s.replica.timing.request
	if r.op == opDial {
		limit *= 2 // with a name to resolve and a TLS handshake
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	switch r.op {
	case opDial:
		if s.conn, o.err = s.limiter.options.Store.Dial(ctx, s.index); o.err != nil {
			s.conn = nil
		}
	case opJoin:
		o.join, o.err = s.conn.Join(ctx, r.join)
	case opBatch:
		o.batch, o.err = s.conn.Batch(ctx, r.batch)
	case opObserve:
		o.membership, o.err = s.conn.Observe(ctx, r.watch)
	case opExpire:
		o.expire, o.err = s.conn.Expire(ctx, r.expire)
	case opEndRecovery:
		o.recovering, o.err = s.conn.EndRecovery(ctx, r.mature)
	}
	return o
}

// admit gives back old, if any, and takes a slot of limit. It waits for the
// store, counted from when the question was asked.
func (s *shard) admit(ctx context.Context, old *slot, limit Limit, asked time.Duration) (*slot, error) {
	s.mu.Lock()
	wait := s.limiter.options.StoreWait
	if s.replica.phase == live && s.replica.connected {
		// It answers, as far as we know: nobody is refused for having no time for
		// one round trip.
		wait = max(wait, s.replica.timing.request)
	}
	deadline := asked + wait
	got, w, err := s.replica.move(s.limiter.now(), old, limit, deadline)
	if w == nil {
		s.rouseIfDue() // for old
		s.mu.Unlock()
		return s.orAlone(limit, got, err)
	}
	s.mu.Unlock()
	// A request is everybody's, so ctx does not end it: whoever sends it may be
	// kept for its time limit, a tenth of the TTL.
	s.send(context.WithoutCancel(ctx), true)
	a, answered := s.await(ctx, w, deadline)
	if err := ctx.Err(); err != nil {
		a.slot.release()
		return nil, err
	}
	if !answered {
		a.err = s.whyNot(w)
	}
	return s.orAlone(limit, a.slot, a.err)
}

// await waits for a waiter's answer until the deadline, or takes him back.
func (s *shard) await(ctx context.Context, w *waiter, deadline time.Duration) (a answer, answered bool) {
	if left := deadline - s.limiter.now(); left > 0 {
		timer := time.NewTimer(left)
		defer timer.Stop()
		select {
		case a = <-w.done:
			return a, true
		case <-ctx.Done():
		case <-timer.C:
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.replica.withdraw(w) {
		return answer{}, false
	}
	return <-w.done, true
}

// orAlone is what becomes of an admission that the store could not be asked about.
func (s *shard) orAlone(limit Limit, got *slot, err error) (*slot, error) {
	o := s.limiter.options
	if !o.AdmitLocally || o.Strict || !errors.Is(err, ErrUnavailable) && !errors.Is(err, ErrRecovering) {
		return got, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	got, err = s.replica.admitAlone(s.limiter.now(), limit)
	s.rouseIfDue()
	return got, err
}

// whyNot says why a waiter got no answer.
func (s *shard) whyNot(w *waiter) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.replica.recovering && w.counter.counted {
		return ErrRecovering
	}
	return ErrUnavailable
}

func (s *shard) setSpace(space string, watch []string) {
	s.mu.Lock()
	s.replica.space, s.replica.watch = space, watch
	s.mu.Unlock()
	s.rouse()
}

func (s *shard) mismatched() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.replica.apart()
}

func (s *shard) leave() {
	s.mu.Lock()
	s.replica.leave()
	s.mu.Unlock()
	s.rouse()
}

func (s *shard) status() Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	h := s.replica
	out := Status{
		Joined: h.phase == live || h.phase == reclaiming, WasReady: h.ripe, Recovering: h.recovering,
		Replicas: map[string]string{}, Totals: map[string]int64{}, LeasesLost: h.lapsed,
	}
	if h.apart() {
		out.Mismatch = h.rivals.settings.String()
	}
	if h.space == h.spaceKnown {
		out.Generation = h.number
	}
	for _, m := range h.membership.Members {
		out.Replicas[m.Replica] = m.Space
	}
	for _, c := range h.watch {
		out.Totals[c] = h.membership.Totals[c]
	}
	return out
}
