package limiter_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"usher/limiter"
	"usher/store"
	"usher/store/memstore"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const ttl = 10 * time.Second

// link is a store with a lease behind a network that fails as it is told to.
type link struct {
	more  []*memstore.Store // further shards
	mu    sync.Mutex
	data  *memstore.Store
	fault func(op string) (before, after error)
	joins atomic.Int64
	slow  atomic.Int64 // nanoseconds that each request takes longer
}

var errCut = errors.New("connection cut")

// lost returns a channel that is closed when g's slot is taken away.
func lost(g *limiter.Grant) <-chan struct{} {
	gone := make(chan struct{})
	g.WhenLost(func() { close(gone) })
	return gone
}

func newLink() *link { return &link{data: memstore.New()} }

func (l *link) set(fault func(op string) (before, after error)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.fault = fault
}

// restart is a server that comes back with nothing.
func (l *link) restart() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.data = memstore.New()
}

func (l *link) down() { l.set(func(string) (error, error) { return errCut, nil }) }
func (l *link) up()   { l.set(nil) }

func (l *link) state(op string) (*memstore.Store, error, error) {
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
	data *memstore.Store
	conn store.Conn
}

func (c *linkConn) RunID() string { return c.conn.RunID() }
func (c *linkConn) Close() error  { return nil }

func through[R any](c *linkConn, op string, do func() (R, error)) (R, error) {
	var none R
	time.Sleep(time.Duration(c.link.slow.Load()))
	data, before, after := c.link.state(op)
	if data != c.data && !slices.Contains(c.link.more, c.data) {
		before = errCut // that server is gone
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
	return through(c, "join", func() (store.JoinReply, error) { return c.conn.Join(ctx, j) })
}

func (c *linkConn) Batch(ctx context.Context, b store.Batch) (store.BatchReply, error) {
	return through(c, "batch", func() (store.BatchReply, error) { return c.conn.Batch(ctx, b) })
}

func (c *linkConn) Observe(ctx context.Context, n []string) (store.Roster, error) {
	return through(c, "observe", func() (store.Roster, error) { return c.conn.Observe(ctx, n) })
}

func (c *linkConn) Reap(ctx context.Context, r store.Reap) (store.ReapReply, error) {
	return through(c, "reap", func() (store.ReapReply, error) { return c.conn.Reap(ctx, r) })
}

func (c *linkConn) Mature(ctx context.Context, m store.Mature) (bool, error) {
	return through(c, "mature", func() (bool, error) { return c.conn.Mature(ctx, m) })
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

// fork is another way to the same data, for a replica that is to be cut off alone.
func (l *link) fork() *link { return &link{data: l.data} }

// crash ends a limiter without a word to the store.
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

func refused(t *testing.T, l *limiter.Limiter, n int64, want error) {
	t.Helper()
	if g, err := l.Admit(t.Context(), limitOf(n)); !errors.Is(err, want) {
		t.Fatalf("Admit: got %v, %v; want %v", g, err, want)
	}
}

func total(l *limiter.Limiter) int64 { return l.Status().Totals["c1aaaa/s1"] }

// mature waits until the store gives out slots.
func mature(t *testing.T, limiters ...*limiter.Limiter) {
	t.Helper()
	for range 200 {
		synctest.Wait()
		ready := true
		for _, l := range limiters {
			s := l.Status()
			ready = ready && s.Joined && !s.Young
		}
		if ready {
			return
		}
		time.Sleep(ttl / 100)
	}
	t.Fatalf("not mature after two TTL: %+v", limiters[0].Status())
}

func TestMemoryIsExactUnderLoad(t *testing.T) {
	l := start(t, memstore.New())
	mustJoin(t, l)
	for range 200 {
		var mu sync.Mutex
		var held []*limiter.Grant
		var tasks sync.WaitGroup
		for range 40 {
			tasks.Go(func() {
				g, err := l.Admit(t.Context(), limitOf(7))
				if err != nil {
					if !errors.Is(err, limiter.ErrFull) {
						t.Errorf("Admit: %v", err)
					}
					return
				}
				mu.Lock()
				defer mu.Unlock()
				held = append(held, g)
			})
		}
		tasks.Wait()
		if len(held) != 7 {
			t.Fatalf("%d of 40 admitted, want exactly 7", len(held))
		}
		for _, g := range held {
			g.Release()
		}
	}
}

// mustJoin waits, on the real clock, for a store without a lease.
func mustJoin(t *testing.T, l *limiter.Limiter) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !l.Status().WasMature; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("memory store not mature: %+v", l.Status())
		}
	}
}

func TestNoLimitNeverTouchesTheStore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newLink()
		s.down()
		l := start(t, s)
		g, err := l.Admit(t.Context(), limiter.Limit{})
		if err != nil || !g.Valid() {
			t.Fatalf("Admit without a limit: %v", err)
		}
		g.Release()
		g.Release()
	})
}

func TestYoungStoreRefusesUntilItMatures(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := start(t, newLink())
		time.Sleep(time.Second)
		begin := time.Now()
		refused(t, l, 5, limiter.ErrYoung)
		if waited := time.Since(begin); waited != 0 {
			t.Errorf("refused after %v: it cannot mature within the wait", waited)
		}
		time.Sleep(ttl*3/4 - 2*time.Second)
		admit(t, l, 5).Release() // waits for the store, which matures in time
	})
}

func TestTwoReplicasShareOneLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newLink()
		a, b := start(t, s), start(t, s)
		mature(t, a, b)
		for range 3 {
			admit(t, a, 5)
		}
		g := admit(t, b, 5)
		admit(t, b, 5)
		refused(t, a, 5, limiter.ErrFull)
		refused(t, b, 5, limiter.ErrFull)
		g.Release()
		synctest.Wait()
		admit(t, a, 5)
		refused(t, b, 5, limiter.ErrFull)
		time.Sleep(ttl / 5)
		if n := total(b); n != 5 {
			t.Errorf("total %d, want 5", n)
		}
	})
}

func TestDeadReplicaGivesBackWithinOneTTL(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newLink()
		way := s.fork()
		a, b := start(t, way), start(t, s)
		mature(t, a, b)
		for range 5 {
			admit(t, a, 5)
		}
		refused(t, b, 5, limiter.ErrFull)
		died := time.Now()
		crash(a, way)
		for {
			_, err := b.Admit(t.Context(), limitOf(5))
			if err == nil {
				break
			}
			if since := time.Since(died); since > ttl {
				t.Fatalf("no slot after %v: %v", since, err)
			}
			time.Sleep(ttl / 100)
		}
		if since := time.Since(died); since < ttl*7/10 {
			t.Errorf("slot given away after %v, before a's fence", since)
		}
	})
}

func TestCloseGivesBackAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newLink()
		a, b := start(t, s), start(t, s)
		mature(t, a, b)
		for range 5 {
			admit(t, a, 5)
		}
		refused(t, b, 5, limiter.ErrFull)
		stop(t, a)
		admit(t, b, 5)
		if _, err := a.Admit(t.Context(), limitOf(5)); !errors.Is(err, limiter.ErrClosed) {
			t.Errorf("Admit after Close: %v", err)
		}
	})
}

func TestLostReplyIsNotCountedTwice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newLink()
		l := start(t, s)
		mature(t, l)
		cuts := 3
		s.set(func(op string) (error, error) {
			if op == "batch" && cuts > 0 {
				cuts--
				return nil, errCut // executed, and the reply is lost
			}
			return nil, nil
		})
		g := admit(t, l, 5)
		time.Sleep(ttl / 5)
		if n := total(l); n != 1 || cuts != 0 {
			t.Errorf("total %d after a reply was lost three times (%d left), want 1", n, cuts)
		}
		g.Release()
		time.Sleep(ttl / 5)
		if n := total(l); n != 0 {
			t.Errorf("total %d after the release, want 0", n)
		}
		if n := s.joins.Load(); n != 1 {
			t.Errorf("%d joins: a resend must do", n)
		}
	})
}

func TestOutageKeep(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newLink()
		a, b := start(t, s), start(t, s)
		mature(t, a, b)
		g := admit(t, a, 3)
		admit(t, b, 3)
		s.down()
		begin := time.Now()
		refused(t, a, 3, limiter.ErrUnavailable)
		if waited := time.Since(begin); waited != 3*time.Second {
			t.Errorf("refused after %v, want the store wait", waited)
		}
		time.Sleep(5 * ttl)
		if !g.Valid() || a.Status().Joined {
			t.Errorf("after the outage: valid %v, %+v", g.Valid(), a.Status())
		}
		s.up()
		mature(t, a, b)
		time.Sleep(ttl)
		if n := total(a); n != 2 {
			t.Errorf("total %d after the outage, want both sessions", n)
		}
		admit(t, b, 3)
		refused(t, a, 3, limiter.ErrFull)
	})
}

func TestOutageStrictClosesAtTheFence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newLink()
		l := start(t, s, strict)
		mature(t, l)
		g := admit(t, l, 3)
		s.down()
		cut := time.Now()
		time.Sleep(ttl * 5 / 10)
		if !g.Valid() {
			t.Error("not valid before the fence")
		}
		<-lost(g)
		if since := time.Since(cut); since > ttl*7/10 {
			t.Errorf("lost after %v", since)
		}
		<-lost(g) // who asks late is told at once
		if g.Valid() {
			t.Error("valid after the fence")
		}
		g.Release()
		s.up()
		mature(t, l)
		admit(t, l, 1)
	})
}

func TestStoreThatLostItsData(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newLink()
		a, b := start(t, s), start(t, s)
		mature(t, a, b)
		first := admit(t, a, 5)
		admit(t, a, 5)
		admit(t, a, 5)
		admit(t, b, 5)
		s.restart()
		time.Sleep(ttl * 4 / 10) // a heartbeat fails, both join, a looks
		if n := total(a); n != 4 || !a.Status().Young {
			t.Errorf("re-claimed %d of 4, %+v", n, a.Status())
		}
		refused(t, a, 5, limiter.ErrYoung)
		first.Release()
		admit(t, a, 5) // a slot that is ours may be used again
		refused(t, a, 5, limiter.ErrYoung)
		mature(t, a, b)
		admit(t, b, 5)
		refused(t, a, 5, limiter.ErrFull)
	})
}

func TestCutOffReplicaDrainsAndIsNotRefilled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sa := newLink()
		sb := sa.fork()
		a, b := start(t, sa), start(t, sb)
		mature(t, a, b)
		mine := admit(t, a, 2)
		other := admit(t, a, 2)
		sa.down()
		time.Sleep(2 * ttl)
		admit(t, b, 2)
		theirs := admit(t, b, 2)
		sa.up()
		mature(t, a, b)
		time.Sleep(ttl / 5)
		if n := total(b); n != 4 {
			t.Errorf("total %d, want 4: two kept, two given to others", n)
		}
		mine.Release()
		refused(t, a, 2, limiter.ErrFull)
		other.Release()
		refused(t, a, 2, limiter.ErrFull)
		theirs.Release()
		synctest.Wait()
		admit(t, a, 2)
		refused(t, b, 2, limiter.ErrFull)
	})
}

func TestOtherSettingsAreRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newLink()
		way := s.fork()
		a := start(t, way)
		mature(t, a)
		b := start(t, s, func(o *limiter.Options) { o.TTL = 2 * ttl })
		time.Sleep(ttl)
		refused(t, b, 5, limiter.ErrMismatch)
		if m := b.Status().Mismatch; m != "v1 ttl=10000 loss=keep shards=1" {
			t.Errorf("mismatch %q", m)
		}
		crash(a, way)
		time.Sleep(2 * ttl) // 0.75 of b's own, longer TTL, and two looks
		admit(t, b, 5)      // the dead with other settings do not keep it out
	})
}

func TestMoveGivesBackEvenWhenRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := start(t, newLink())
		mature(t, l)
		first, second := limitOf(1), limiter.Limit{Rule: "c1aaaa/s2", Max: 1}
		g, err := l.Admit(t.Context(), first)
		if err != nil {
			t.Fatal(err)
		}
		holder, err := l.Admit(t.Context(), second)
		if err != nil {
			t.Fatal(err)
		}
		if err := g.Move(t.Context(), second); !errors.Is(err, limiter.ErrFull) {
			t.Fatalf("Move: %v", err)
		}
		h, err := l.Admit(t.Context(), first)
		if err != nil {
			t.Fatalf("the slot before the move is not free: %v", err)
		}
		g.Release()
		if err := h.Move(t.Context(), limiter.Limit{}); err != nil {
			t.Fatal(err)
		}
		holder.Release()
		if err := h.Move(t.Context(), second); err != nil {
			t.Fatal(err)
		}
	})
}

func TestPerKeyAndRuleTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newLink()
		a, b := start(t, s), start(t, s)
		mature(t, a, b)
		of := func(key string) limiter.Limit {
			return limiter.Limit{Rule: "c1aaaa/s1", Max: 3, Key: key, KeyMax: 2}
		}
		for _, step := range []struct {
			l    *limiter.Limiter
			key  string
			want error
		}{
			{a, "192.0.2.1", nil}, {b, "192.0.2.1", nil}, {a, "192.0.2.1", limiter.ErrFull},
			{b, "192.0.2.2", nil}, {a, "192.0.2.3", limiter.ErrFull},
		} {
			if _, err := step.l.Admit(t.Context(), of(step.key)); !errors.Is(err, step.want) {
				t.Errorf("%s: %v, want %v", step.key, err, step.want)
			}
		}
		time.Sleep(ttl / 5)
		if n := total(a); n != 3 {
			t.Errorf("rule total %d, want 3", n)
		}
	})
}

func TestClientThatLeavesWhileWaiting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newLink()
		l := start(t, s)
		mature(t, l)
		s.down()
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() {
			_, err := l.Admit(ctx, limitOf(1))
			done <- err
		}()
		time.Sleep(time.Second)
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("Admit: %v", err)
		}
		s.up()
		time.Sleep(ttl / 2)
		admit(t, l, 1)
	})
}

func TestReloadNumbersTheSpaces(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newLink()
		a, b := start(t, s), start(t, s)
		mature(t, a, b)
		if n := a.Status().Generation; n != 1 {
			t.Errorf("generation %d, want 1", n)
		}
		a.SetSpace("c1bbbb", nil)
		time.Sleep(ttl / 5)
		if n, m := a.Status().Generation, b.Status().Generation; n != 2 || m != 1 {
			t.Errorf("generations %d and %d, want 2 and 1", n, m)
		}
		spaces := map[string]int{}
		for _, space := range b.Status().Holders {
			spaces[space]++
		}
		if len(spaces) != 2 {
			t.Errorf("spaces on the roster: %v", spaces)
		}
	})
}

// TestClaimsStayOnTheOldFence: after the store lost its data, a session is
// covered by the new lease only once its own counter was confirmed.
func TestClaimsStayOnTheOldFence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newLink()
		l := start(t, s, strict)
		mature(t, l)
		var grants []*limiter.Grant
		for i := range store.MaxEntries + 6 {
			g, err := l.Admit(t.Context(), limiter.Limit{Rule: fmt.Sprintf("c1aaaa/s%03d", i), Max: 1})
			if err != nil {
				t.Fatal(err)
			}
			grants = append(grants, g)
		}
		s.set(func(op string) (error, error) {
			if op == "batch" {
				return errCut, nil // the join gets through, the claims after it do not
			}
			return nil, nil
		})
		s.restart()
		began := time.Now()
		<-lost(grants[store.MaxEntries])
		if since := time.Since(began); since > ttl*7/10 {
			t.Errorf("an unconfirmed session lived %v after the loss, longer than its old lease", since)
		}
		for i, g := range grants {
			if confirmed := i < store.MaxEntries; g.Valid() != confirmed {
				t.Errorf("session %d: valid %v, want %v", i, g.Valid(), confirmed)
			}
		}
		s.up()
	})
}

func TestStoreDownAdmit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newLink()
		way := s.fork()
		alone := func(o *limiter.Options) { o.AdmitAlone = true }
		a, b := start(t, s, alone), start(t, way, alone)
		mature(t, a, b)
		if g := admit(t, a, 2); !g.Confirmed() {
			t.Error("an admission by the store is not confirmed")
		}
		s.down()
		way.down()
		begin := time.Now()
		first := admit(t, a, 2)
		if waited := time.Since(begin); waited != 3*time.Second || first.Confirmed() {
			t.Errorf("admitted after %v, confirmed %v; want the store wait, and not", waited, first.Confirmed())
		}
		refused(t, a, 2, limiter.ErrFull) // by its own count
		tooMany := admit(t, b, 2)
		time.Sleep(2 * ttl)
		s.up()
		way.up()
		mature(t, a, b)
		time.Sleep(ttl / 2)
		if n := total(a); n != 3 {
			t.Errorf("total %d, want 3: all are counted now", n)
		}
		tooMany.Release()
		first.Release()
		time.Sleep(ttl / 5)
		admit(t, b, 2)
		refused(t, a, 2, limiter.ErrFull)
		refused(t, b, 2, limiter.ErrFull)
	})
}

// TestNothingIsRefilledAfterTheFence: a replica that was cut off does not know
// what others were given meanwhile, and a young store does not know yet.
func TestNothingIsRefilledAfterTheFence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sa := newLink()
		sb := sa.fork()
		a, b := start(t, sa), start(t, sb)
		mature(t, a, b)
		mine := admit(t, a, 2)
		admit(t, a, 2)
		sa.down()
		time.Sleep(2 * ttl)
		admit(t, b, 2)
		admit(t, b, 2)
		sb.down()
		sa.data.Restart(memstore.Snapshot{})
		sa.up()
		time.Sleep(ttl / 5)
		if !a.Status().Young || total(a) != 2 {
			t.Fatalf("a is to be alone on a young store: %+v", a.Status())
		}
		mine.Release()
		refused(t, a, 2, limiter.ErrYoung) // b's two, of which nobody knows, still live
		sb.up()
		mature(t, a, b)
		time.Sleep(ttl / 5)
		if n := total(a); n != 3 {
			t.Errorf("total %d, want 3: one of a's left, two of b's", n)
		}
		refused(t, b, 2, limiter.ErrFull)
	})
}

// TestOtherNumberOfShards: who spreads rules over more shards than we do would
// count most of them where we do not look.
func TestOtherNumberOfShards(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		one := newLink()
		two := one.fork()
		two.more = []*memstore.Store{memstore.New()}
		a := start(t, one)
		mature(t, a)
		b := start(t, two)
		time.Sleep(ttl)
		for i := range 8 { // some are in the second shard
			if _, err := b.Admit(t.Context(), limiter.Limit{Rule: fmt.Sprint("c1aaaa/s", i), Max: 1}); !errors.Is(err, limiter.ErrMismatch) {
				t.Errorf("rule %d: %v, want a mismatch", i, err)
			}
		}
	})
}

func TestTwoShards(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newLink()
		s.more = []*memstore.Store{memstore.New()}
		l := start(t, s)
		mature(t, l)
		for i := range 8 {
			if _, err := l.Admit(t.Context(), limiter.Limit{Rule: fmt.Sprint("c1aaaa/s", i), Max: 1}); err != nil {
				t.Errorf("rule %d: %v", i, err)
			}
		}
	})
}
