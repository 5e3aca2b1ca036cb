package limiter

import (
	"context"
	"math"
	"sync"
	"sync/atomic"
	"time"

	"usher/limiter/replica"
	"usher/store"
)

// shard drives the state machine of one shard. It executes the requests of the machine
// one at a time, and returns the outcomes to it. If no request is under way, a caller
// sends its batch itself. The goroutine run sends everything else.
type shard struct {
	limiter *Limiter
	index   int
	strict  bool // sessions end at the lease deadline

	mu         sync.Mutex
	machine    *replica.Machine
	agreed     bool          // the first shard: limiter.agreed is closed
	sleepUntil time.Duration // run sleeps until then, or until wake; 0: it does not sleep
	away       bool          // a request got no answer, and the store has answered none since
	renewed    chan struct{} // the first shard: not nil while somebody waits for its lease, see renewal

	// deadline is machine.NextDeadline, for readers without mu.
	deadline atomic.Int64

	conn  store.Conn    // belongs to the goroutine that executes the request under way
	wake  chan struct{} // something may be due; holds at most one token
	left  chan struct{} // closed when the store is left
	tasks sync.WaitGroup
}

func newShard(l *Limiter, index int, m *replica.Machine) *shard {
	s := &shard{
		limiter: l, index: index, machine: m,
		strict: l.options.Strict && l.options.Store.Leased(),
		wake:   make(chan struct{}, 1), left: make(chan struct{}),
	}
	s.deadline.Store(int64(m.NextDeadline()))
	return s
}

func (s *shard) begin(ctx context.Context) {
	s.tasks.Go(func() { s.run(ctx) })
	if s.strict {
		s.tasks.Go(func() { s.watchDeadlines(ctx) })
	}
}

// run sends requests that are due, until this replica has left the store or ctx ends.
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

// rest returns how long run may pause, and whether run must end.
func (s *shard) rest() (pause time.Duration, over bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.limiter.now()
	s.sleepUntil = s.machine.SleepUntil(now)
	return max(s.sleepUntil-now, 0), s.machine.Left() && !s.machine.Busy()
}

// wakeIfDue wakes run if a request is due before run wakes by itself. s.mu is held.
func (s *shard) wakeIfDue() {
	if s.machine.NeedsWake(s.sleepUntil) {
		s.wakeUp()
	}
}

func (s *shard) wakeUp() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// end waits for the request of another goroutine, if one is under way. The time limit
// of a request bounds the wait.
func (s *shard) end() {
	defer close(s.left)
	for {
		s.mu.Lock()
		s.machine.Abandon()
		s.sleepUntil = math.MaxInt64 //mutate:the-end-does-not-hear-of-a-requests-end
		busy, conn := s.machine.Busy(), s.conn
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

// watchDeadlines wakes blocked sessions when their lease has ended, also while
// a request to the store hangs.
func (s *shard) watchDeadlines(ctx context.Context) {
	for {
		s.mu.Lock()
		now := s.limiter.now()
		s.machine.CheckDeadlines(now)
		s.passOn()
		pause := max(s.machine.NextDeadline()-now, time.Millisecond)
		s.mu.Unlock()
		timer := time.NewTimer(min(pause, s.machine.LeaseTime()))
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

// passOn passes the decisions of the machine on to the grants. Every section under s.mu
// in which the machine takes a step must end with it.
func (s *shard) passOn() {
	for _, e := range s.machine.Effects() {
		g := e.Owner.(*Grant)
		switch {
		case !e.Lost:
			g.slot = e.Slot
			g.answered <- e.Err
		case g.slot == e.Slot: // else it has moved on
			g.lost.Store(true)
			if g.whenLost != nil {
				g.whenLost()
			}
		}
	}
	// After the above: whoever reads the new deadline sees what was lost.
	s.deadline.Store(int64(s.machine.NextDeadline()))
}

// send executes one request, if one is due, and reports whether it did. With batchOnly
// it sends only batches, for callers that wait for the answer to theirs.
func (s *shard) send(ctx context.Context, batchOnly bool) bool {
	r := s.next(batchOnly)
	if r == nil {
		return false
	}
	began := s.limiter.now()
	o := s.perform(ctx, r)
	s.limiter.options.Observe(string(r.Op), s.limiter.now()-began, o.Err)

	s.mu.Lock()
	defer s.mu.Unlock()
	s.machine.Handle(s.limiter.now(), r, o)
	if o.Err == nil && (r.Op == replica.Join || r.Op == replica.Batch) {
		// It may have answered other requests meanwhile, and refused these.
		s.away = false //mutate:an-outage-never-ends-for-those-who-wait
	}
	s.passOn()
	if !s.machine.Connected() && s.conn != nil {
		s.conn.Close()
		s.conn = nil
	}
	s.tellRenewal()
	if s.index == 0 && !s.agreed && s.machine.Live() {
		s.agreed = true
		close(s.limiter.agreed)
	}
	if batchOnly {
		s.wakeIfDue()
	}
	return true
}

// next returns the request to send, or nil.
func (s *shard) next(batchOnly bool) *replica.Request {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.limiter.now()
	if !batchOnly {
		s.sleepUntil = 0
	} else if !s.machine.BatchNext(now) {
		s.wakeIfDue() // run must send what comes first
		return nil
	}
	r := s.machine.Next(now)
	s.passOn()
	if r == nil && batchOnly {
		s.wakeIfDue()
	}
	return r
}

// perform sends a request to the store and returns its outcome.
func (s *shard) perform(ctx context.Context, r *replica.Request) (o replica.Outcome) {
	timeout := s.machine.RequestTimeout()
	if r.Op == replica.Dial {
		timeout *= 2 // with a name to resolve and a TLS handshake
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	switch r.Op {
	case replica.Dial:
		if s.conn, o.Err = s.limiter.options.Store.Dial(ctx, s.index); o.Err != nil {
			s.conn = nil
		} else {
			o.Err = s.exchange(ctx)
		}
	case replica.Join:
		o.Join, o.Err = s.conn.Join(ctx, r.Join)
	case replica.Batch:
		o.Batch, o.Err = s.conn.Batch(ctx, r.Batch)
	case replica.Observe:
		if o.Members, o.Err = s.conn.Observe(ctx, r.Watch); o.Err == nil {
			o.Err = s.exchange(ctx)
		}
	case replica.Expire:
		o.Expire, o.Err = s.conn.Expire(ctx, r.Expire)
	case replica.EndRecovery:
		o.Recovering, o.Err = s.conn.EndRecovery(ctx, r.EndRecovery)
	}
	return o
}

// exchange calls Options.Exchange.
func (s *shard) exchange(ctx context.Context) error {
	if f := s.limiter.options.Exchange; f != nil && s.index == 0 {
		return f(ctx, s.conn)
	}
	return nil
}

func (s *shard) setSpace(space string, watch []string) {
	s.mu.Lock()
	s.machine.SetSpace(space, watch)
	s.mu.Unlock()
	s.wakeUp() //mutate:another-space-is-told-late
}

func (s *shard) mismatched() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.machine.Mismatched()
}

func (s *shard) leave() {
	s.mu.Lock()
	s.machine.Leave()
	s.passOn()
	s.mu.Unlock()
	s.wakeUp() //mutate:the-end-is-told-late
}

func (s *shard) highest(counter string) replica.Highest {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.machine.Highest(counter)
}

func (s *shard) status() Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.machine.Status(s.limiter.now())
}
