package limiter_test

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"usher/limiter"
	"usher/store"
	"usher/store/storetest"
)

// requests records what is sent over a link, including exchanges.
type requests struct {
	mu   sync.Mutex
	list []string
}

func (r *requests) note(op string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.list = append(r.list, op)
}

// take returns what was sent since the last call.
func (r *requests) take() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	list := r.list
	r.list = nil
	return list
}

// An exchange comes before anything else over a new connection, and after that every
// tenth of the TTL. While it fails, nothing is counted and nobody is admitted.
func TestExchangeComesFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLink()
		var seen requests
		l.set(func(op string) (error, error) { seen.note(op); return nil, nil })
		var mu sync.Mutex
		var fails error
		limits := start(t, l, func(o *limiter.Options) {
			o.ID = "me"
			o.Exchange = func(ctx context.Context, c store.Conn) error {
				if _, ok := ctx.Deadline(); !ok || c == nil {
					t.Error("an exchange without a deadline or a connection")
				}
				seen.note("exchange")
				mu.Lock()
				defer mu.Unlock()
				return fails
			}
		})
		waitReady(t, limits)
		if _, ok := limits.Status().Replicas["me"]; !ok {
			t.Error("the store knows this replica by another id")
		}
		list := seen.take()
		if i := slices.Index(list, "exchange"); i != 1 || list[0] != "dial" {
			t.Errorf("before the first exchange: %v", list)
		}
		time.Sleep(ttl)
		looks, exchanges := 0, 0
		for _, op := range seen.take() {
			switch op {
			case "observe":
				looks++
			case "exchange":
				exchanges++
			}
		}
		if exchanges < 9 || looks < exchanges-1 || looks > exchanges+1 {
			t.Errorf("%d exchanges and %d looks in one TTL", exchanges, looks)
		}

		mu.Lock()
		fails = errors.New("no answer")
		mu.Unlock()
		time.Sleep(ttl / 5)
		seen.take()
		time.Sleep(ttl)
		list = seen.take()
		if !slices.Contains(list, "exchange") || slices.Contains(list, "join") || slices.Contains(list, "batch") {
			t.Errorf("while exchanges fail: %v", list)
		}
		requireRefused(t, limits, 3, limiter.ErrUnavailable)
		mu.Lock()
		fails = nil
		mu.Unlock()
		time.Sleep(ttl / 5)
		admit(t, limits, 3).Release()
	})
}

// There is one exchange for all shards.
func TestExchangeIsWithTheFirstShard(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLink()
		l.more = []*storetest.Model{storetest.NewModelInRealTime(), storetest.NewModelInRealTime()}
		var seen requests
		limits := start(t, l, func(o *limiter.Options) {
			o.Exchange = func(context.Context, store.Conn) error { seen.note("exchange"); return nil }
		})
		waitReady(t, limits)
		seen.take()
		time.Sleep(ttl)
		if n := len(seen.take()); n < 9 || n > 12 {
			t.Errorf("%d exchanges in one TTL", n)
		}
	})
}

// elsewhere is a limit that another shard than the first one of three counts.
func elsewhere() limiter.Limit {
	for i := 1; ; i++ {
		rule := fmt.Sprintf("c1aaaa/s%d", i)
		h := fnv.New32a()
		h.Write([]byte(rule))
		if h.Sum32()%3 != 0 {
			return limiter.Limit{Rule: rule, Max: 3}
		}
	}
}

// A replica whose exchanges fail may not know the newest rules. When its lease in the
// first shard has ended, it admits nobody in other shards either, not even sessions
// that asked before. It admits again when exchanges succeed, and admissions wait for
// that.
func TestOtherShardsNeedAnExchange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLink()
		l.more = []*storetest.Model{storetest.NewModelInRealTime(), storetest.NewModelInRealTime()}
		var mu sync.Mutex
		var fails error
		set := func(err error) {
			mu.Lock()
			defer mu.Unlock()
			fails = err
		}
		limits := start(t, l, func(o *limiter.Options) {
			o.StoreWait = ttl
			o.Exchange = func(context.Context, store.Conn) error {
				mu.Lock()
				defer mu.Unlock()
				return fails
			}
		})
		waitReady(t, limits)
		ask := func(want error) {
			t.Helper()
			g, err := limits.Admit(t.Context(), elsewhere())
			if !errors.Is(err, want) {
				t.Errorf("%v, want %v", err, want)
			}
			g.Release()
		}
		ask(nil)
		set(errCut)
		time.Sleep(ttl / 2)
		ask(nil) // the lease is valid yet
		time.Sleep(ttl / 2)
		ask(limiter.ErrUnavailable)
		time.AfterFunc(ttl/2, func() { set(nil) })
		ask(nil) // it waits for that

		time.Sleep(ttl / 5) // the slot is given back
		set(errCut)         // and while it waits for the other shard
		l.set(func(op string) (error, error) {
			if op == "batch" {
				return errCut, nil
			}
			return nil, nil
		})
		time.AfterFunc(ttl*4/5, func() { l.set(nil) })
		ask(limiter.ErrUnavailable)
		set(nil)
		ask(nil)
	})
}
