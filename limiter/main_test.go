package limiter_test

import (
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"usher/limiter"
	"usher/store"
	"usher/store/storetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const ttl = 10 * time.Second

// link is a leased store behind a network that fails as a test tells it to.
type link struct {
	more  []*storetest.Model // further shards
	mu    sync.Mutex
	data  *storetest.Model
	fault func(op string) (before, after error)
	joins atomic.Int64
	slow  atomic.Int64 // by how many nanoseconds each request is delayed

	entries  atomic.Int64 // counters stated, in joins and batches
	canceled atomic.Int64 // requests whose sender gave them up
}

var errCut = errors.New("connection cut")

// lost returns a channel that is closed when g's slot is taken away.
func lost(g *limiter.Grant) <-chan struct{} {
	gone := make(chan struct{})
	g.WhenLost(func() { close(gone) })
	return gone
}

func newLink() *link { return &link{data: storetest.NewModelInRealTime()} }

func (l *link) set(fault func(op string) (before, after error)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.fault = fault
}

// restart replaces the server with one that has no data.
func (l *link) restart() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.data = storetest.NewModelInRealTime()
}

func (l *link) down() { l.set(func(string) (error, error) { return errCut, nil }) }
func (l *link) up()   { l.set(nil) }

func (l *link) state(op string) (*storetest.Model, error, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.fault == nil {
		return l.data, nil, nil
	}
	before, after := l.fault(op)
	return l.data, before, after
}

func (l *link) Shards() int { return 1 + len(l.more) }
func (*link) Leased() bool  { return true }
func (*link) Close() error  { return nil }

func (l *link) Dial(ctx context.Context, shard int) (store.Conn, error) {
	data, before, _ := l.state("dial")
	if before != nil {
		return nil, before
	}
	if shard > 0 {
		data = l.more[shard-1]
	}
	c, err := data.Dial(ctx, shard)
	return &linkConn{l, data, c}, err
}

type linkConn struct {
	link *link
	data *storetest.Model
	conn store.Conn
}

func (c *linkConn) Close() error { return nil }

func through[R any](ctx context.Context, c *linkConn, op string, do func() (R, error)) (R, error) {
	var none R
	time.Sleep(time.Duration(c.link.slow.Load()))
	if errors.Is(ctx.Err(), context.Canceled) {
		c.link.canceled.Add(1)
	}
	data, before, after := c.link.state(op)
	if data != c.data && !slices.Contains(c.link.more, c.data) {
		before = errCut // that server no longer exists
	}
	if before != nil {
		return none, before
	}
	r, err := do()
	if after != nil {
		return none, after
	}
	return r, err
}

func (c *linkConn) Join(ctx context.Context, j store.Join) (store.JoinReply, error) {
	c.link.joins.Add(1)
	c.link.entries.Add(int64(len(j.Entries)))
	return through(ctx, c, "join", func() (store.JoinReply, error) { return c.conn.Join(ctx, j) })
}

func (c *linkConn) Batch(ctx context.Context, b store.Batch) (store.BatchReply, error) {
	c.link.entries.Add(int64(len(b.Entries)))
	return through(ctx, c, "batch", func() (store.BatchReply, error) { return c.conn.Batch(ctx, b) })
}

func (c *linkConn) Observe(ctx context.Context, n []string) (store.Membership, error) {
	return through(ctx, c, "observe", func() (store.Membership, error) { return c.conn.Observe(ctx, n) })
}

func (c *linkConn) Expire(ctx context.Context, r store.Expire) (store.ExpireReply, error) {
	return through(ctx, c, "expire", func() (store.ExpireReply, error) { return c.conn.Expire(ctx, r) })
}

func (c *linkConn) EndRecovery(ctx context.Context, m store.EndRecovery) (bool, error) {
	return through(ctx, c, "end_recovery", func() (bool, error) { return c.conn.EndRecovery(ctx, m) })
}

// start returns a limiter that is closed with the test.
func start(t *testing.T, s store.Store, change ...func(*limiter.Options)) *limiter.Limiter {
	o := limiter.Options{Store: s, TTL: ttl, StoreWait: 3 * time.Second}
	for _, c := range change {
		c(&o)
	}
	l := limiter.New(o)
	l.SetSpace("c1aaaa", []string{"c1aaaa/s1"})
	t.Cleanup(func() { stop(t, l) })
	return l
}

func stop(t *testing.T, l *limiter.Limiter) {
	ctx, cancel := context.WithTimeout(context.Background(), ttl)
	defer cancel()
	if err := l.Close(ctx); err != nil {
		t.Errorf("Close: %v", err)
	}
}

// fork returns another way to the same data, to cut off one replica alone.
func (l *link) fork() *link { return &link{data: l.data} }

// crash ends a limiter without telling the store.
func crash(l *limiter.Limiter, way *link) {
	way.down()
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	l.Close(ctx)
}

func strict(o *limiter.Options) { o.Strict = true }

func limitOf(n int64) limiter.Limit { return limiter.Limit{Rule: "c1aaaa/s1", Max: n} }

func admit(t *testing.T, l *limiter.Limiter, n int64) *limiter.Grant {
	t.Helper()
	g, err := l.Admit(t.Context(), limitOf(n))
	if err != nil {
		t.Fatalf("Admit: %v", err)
	}
	return g
}

func requireRefused(t *testing.T, l *limiter.Limiter, n int64, want error) {
	t.Helper()
	if g, err := l.Admit(t.Context(), limitOf(n)); !errors.Is(err, want) {
		t.Fatalf("Admit: got %v, %v; want %v", g, err, want)
	}
}

func total(l *limiter.Limiter) int64 { return l.Status().Totals["c1aaaa/s1"] }

// waitReady waits until the store admits new sessions.
func waitReady(t *testing.T, limiters ...*limiter.Limiter) {
	t.Helper()
	for range 200 {
		synctest.Wait()
		ready := true
		for _, l := range limiters {
			s := l.Status()
			ready = ready && s.Joined && !s.Recovering
		}
		if ready {
			return
		}
		time.Sleep(ttl / 100)
	}
	t.Fatalf("not ready after two TTL: %+v", limiters[0].Status())
}

// mustJoin waits, on the real clock, until a store without a lease is joined.
func mustJoin(t *testing.T, l *limiter.Limiter) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !l.Status().WasReady; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("the memory store is not ready: %+v", l.Status())
		}
	}
}
