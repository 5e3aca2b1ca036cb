package limiter_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"usher/limiter"
	"usher/store/memstore"
	"usher/store/storetest"
)

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

func TestRecoveringStoreRefusesUntilReady(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := start(t, newLink())
		time.Sleep(time.Second)
		begin := time.Now()
		requireRefused(t, l, 5, limiter.ErrRecovering)
		if waited := time.Since(begin); waited != 0 {
			t.Errorf("refused after %v: the recovery cannot end within the wait", waited)
		}
		time.Sleep(ttl*3/4 - 2*time.Second)
		admit(t, l, 5).Release() // waits for the recovery, which ends in time
	})
}

func TestTwoReplicasShareOneLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newLink()
		a, b := start(t, s), start(t, s)
		waitReady(t, a, b)
		for range 3 {
			admit(t, a, 5)
		}
		g := admit(t, b, 5)
		admit(t, b, 5)
		requireRefused(t, a, 5, limiter.ErrFull)
		requireRefused(t, b, 5, limiter.ErrFull)
		g.Release()
		synctest.Wait()
		admit(t, a, 5)
		requireRefused(t, b, 5, limiter.ErrFull)
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
		waitReady(t, a, b)
		for range 5 {
			admit(t, a, 5)
		}
		requireRefused(t, b, 5, limiter.ErrFull)
		died := time.Now()
		crash(a, way)
		freedWithinOneTTL(t, b, died)
	})
}

// TestAllDeadGiveBackWithinOneTTLOfTheNextStart: nobody can witness that a replica
// is silent before another one starts.
func TestAllDeadGiveBackWithinOneTTLOfTheNextStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newLink()
		way := s.fork()
		a := start(t, way)
		waitReady(t, a)
		for range 5 {
			admit(t, a, 5)
		}
		crash(a, way)
		time.Sleep(10 * ttl)
		started := time.Now()
		freedWithinOneTTL(t, start(t, s), started)
	})
}

// freedWithinOneTTL waits until the slots of a dead replica, five of five, are free
// at l. It requires that this happens within one TTL of since, and not before the
// dead replica's lease has ended.
func freedWithinOneTTL(t *testing.T, l *limiter.Limiter, since time.Time) {
	t.Helper()
	for {
		_, err := l.Admit(t.Context(), limitOf(5))
		took := time.Since(since)
		switch {
		case err == nil && took < ttl*7/10:
			t.Errorf("slot given away after %v, before the lease deadline", took)
			return
		case err == nil:
			return
		case took > ttl:
			t.Fatalf("no slot after %v: %v", took, err)
		}
		time.Sleep(ttl / 100)
	}
}

// TestTombstonesAreDropped: the tombstone of a replica refuses its late messages for
// four TTL, and does not stay for ever.
func TestTombstonesAreDropped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newLink()
		a, b := start(t, s), start(t, s)
		waitReady(t, a, b)
		c, err := s.data.Dial(t.Context(), 0)
		if err != nil {
			t.Fatal(err)
		}
		left := func() int {
			r, err := c.Observe(t.Context(), nil)
			if err != nil {
				t.Fatal(err)
			}
			return len(r.Tombstones)
		}
		stop(t, a)
		for stopped := time.Now(); time.Since(stopped) < 4*ttl; time.Sleep(ttl / 100) {
			if n := left(); n != 1 {
				t.Fatalf("%d tombstones %v after one replica has stopped, want 1", n, time.Since(stopped))
			}
		}
		time.Sleep(ttl / 2) // one look to see it first, another to see that it is time
		if n := left(); n != 0 {
			t.Errorf("%d tombstones are left", n)
		}
	})
}

func TestCloseGivesBackAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newLink()
		a, b := start(t, s), start(t, s)
		waitReady(t, a, b)
		for range 5 {
			admit(t, a, 5)
		}
		requireRefused(t, b, 5, limiter.ErrFull)
		stop(t, a)
		admit(t, b, 5)
		if _, err := a.Admit(t.Context(), limitOf(5)); !errors.Is(err, limiter.ErrClosed) {
			t.Errorf("Admit after Close: %v", err)
		}
	})
}

func TestOtherSettingsAreRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newLink()
		way := s.fork()
		a := start(t, way)
		waitReady(t, a)
		b := start(t, s, func(o *limiter.Options) { o.TTL = 2 * ttl })
		time.Sleep(ttl)
		requireRefused(t, b, 5, limiter.ErrMismatch)
		if m := b.Status().Mismatch; m != "v1 ttl=10000 loss=keep shards=1" {
			t.Errorf("mismatch %q", m)
		}
		crash(a, way)
		time.Sleep(2 * ttl) // 0.75 of b's own, longer TTL, and two looks
		admit(t, b, 5)      // dead replicas with other settings do not keep it out
	})
}

func TestMoveGivesBackEvenWhenRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := start(t, newLink())
		waitReady(t, l)
		first, second := limitOf(1), limiter.Limit{Rule: "c1aaaa/s2", Max: 1}
		g, err := l.Admit(t.Context(), first)
		if err != nil {
			t.Fatal(err)
		}
		replica, err := l.Admit(t.Context(), second)
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
		replica.Release()
		if err := h.Move(t.Context(), second); err != nil {
			t.Fatal(err)
		}
	})
}

func TestPerKeyAndRuleTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newLink()
		a, b := start(t, s), start(t, s)
		waitReady(t, a, b)
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
		waitReady(t, l)
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
		waitReady(t, a, b)
		if n := a.Status().Generation; n != 1 {
			t.Errorf("generation %d, want 1", n)
		}
		a.SetSpace("c1bbbb", nil)
		time.Sleep(ttl / 5)
		if n, m := a.Status().Generation, b.Status().Generation; n != 2 || m != 1 {
			t.Errorf("generations %d and %d, want 2 and 1", n, m)
		}
		spaces := map[string]int{}
		for _, space := range b.Status().Replicas {
			spaces[space]++
		}
		if len(spaces) != 2 {
			t.Errorf("spaces of the members: %v", spaces)
		}
	})
}

// TestOtherNumberOfShards: a replica with more shards than the others would count
// most rules where they do not look.
func TestOtherNumberOfShards(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		one := newLink()
		two := one.fork()
		two.more = []*storetest.Model{storetest.NewModelInRealTime()}
		a := start(t, one)
		waitReady(t, a)
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
		s.more = []*storetest.Model{storetest.NewModelInRealTime()}
		l := start(t, s)
		waitReady(t, l)
		for i := range 8 {
			if _, err := l.Admit(t.Context(), limiter.Limit{Rule: fmt.Sprint("c1aaaa/s", i), Max: 1}); err != nil {
				t.Errorf("rule %d: %v", i, err)
			}
		}
		s.down()
		time.Sleep(ttl)
		if n := l.Status().LeasesLost; n != 2 {
			t.Errorf("%d leases lost, want that of each shard", n)
		}
	})
}
