package fair

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

var errLate = errors.New("too late")

// order starts work of these sources one after the other, and returns the order
// in which it is done, a second each.
func order(t *testing.T, q *Queue, sources ...int) (done []int) {
	t.Helper()
	var mu sync.Mutex
	var group sync.WaitGroup
	for _, n := range sources {
		group.Go(func() {
			if err := q.Acquire(t.Context(), source(n)); err != nil {
				t.Error(err)
				return
			}
			mu.Lock()
			done = append(done, n)
			mu.Unlock()
			time.Sleep(time.Second)
			q.Release(source(n))
		})
		synctest.Wait() // it runs, or waits in its line
	}
	group.Wait()
	if q.running != 0 || len(q.lines) != 0 || len(q.ready) != 0 {
		t.Errorf("something is left: %+v", q)
	}
	return done
}

// A source with much to do waits for its turn with each piece of it.
func TestSourcesTakeTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		got := order(t, &Queue{Size: 1, Each: 1}, 1, 1, 1, 1, 2, 3, 2)
		if want := []int{1, 2, 3, 1, 2, 1, 1}; !slices.Equal(got, want) {
			t.Errorf("done in the order %v, want %v", got, want)
		}
	})
}

// Work that must not wait begins only if there is room for its source.
func TestTry(t *testing.T) {
	q := &Queue{Size: 3, Each: 2}
	for i, want := range []bool{true, true, false} {
		if q.Try(source(1)) != want {
			t.Errorf("try %d: want %v", i, want)
		}
	}
	if !q.Try(source(2)) || q.Try(source(3)) {
		t.Error("not as many at a time as the size")
	}
	for _, n := range []int{1, 2, 1} {
		q.Release(source(n))
	}
	if q.running != 0 || len(q.lines) != 0 {
		t.Errorf("something is left: %+v", q)
	}
}

// One source may do only so much at a time, which leaves room for others at once.
func TestEachSourceIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		got := order(t, &Queue{Size: 4, Each: 2}, 1, 1, 1, 1, 2, 3, 1)
		if want := []int{1, 1, 2, 3, 1, 1, 1}; !slices.Equal(got, want) {
			t.Errorf("done in the order %v, want %v", got, want)
		}
	})
}

func TestLowerRanksGoFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		bad := map[netip.Prefix]int{source(1): 3, source(2): 1}
		q := &Queue{Size: 1, Each: 1, Rank: func(s netip.Prefix) int { return bad[s] }}
		got := order(t, q, 1, 1, 2, 3, 4)
		if want := []int{1, 3, 4, 2, 1}; !slices.Equal(got, want) {
			t.Errorf("done in the order %v, want %v", got, want)
		}
	})
}

// Work whose context ends is forgotten, and takes no turn.
func TestAbandonedWork(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := &Queue{Size: 1, Each: 1}
		if err := q.Acquire(t.Context(), source(1)); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeoutCause(t.Context(), time.Second, errLate)
		defer cancel()
		var group sync.WaitGroup
		for range 3 {
			group.Go(func() {
				if err := q.Acquire(ctx, source(2)); !errors.Is(err, errLate) {
					t.Errorf("%v, want %v", err, errLate)
				}
			})
		}
		synctest.Wait()
		if n := q.Waiting(); n != 3 {
			t.Errorf("%d wait, want 3", n)
		}
		group.Wait()
		if err := q.Acquire(ctx, source(3)); !errors.Is(err, errLate) {
			t.Errorf("%v, want %v", err, errLate)
		}
		if q.Waiting() != 0 || len(q.lines) != 1 || len(q.ready) != 0 {
			t.Errorf("something waits: %+v", q)
		}
		q.Release(source(1))
		if len(q.lines) != 0 || q.running != 0 {
			t.Errorf("something is left: %+v", q)
		}
	})
}

// TestQueueUnderLoad: if turns come while contexts end, no turn is lost or given twice.
func TestQueueUnderLoad(t *testing.T) {
	q := &Queue{Size: 3, Each: 2}
	var mu sync.Mutex
	now, each := 0, map[int]int{}
	work := func(n, by int) {
		mu.Lock()
		defer mu.Unlock()
		now += by
		each[n] += by
		if now > q.Size || each[n] > q.Each {
			t.Errorf("%d at a time, %d of source %d", now, each[n], n)
		}
	}
	var group sync.WaitGroup
	for i := range 16 {
		n := i % 5
		group.Go(func() {
			for round := range 500 {
				ctx, cancel := context.WithCancel(t.Context())
				if round%3 == 0 {
					go cancel()
				}
				if q.Acquire(ctx, source(n)) == nil {
					work(n, 1)
					work(n, -1)
					q.Release(source(n))
				}
				cancel()
			}
		})
	}
	group.Wait()
	if q.running != 0 || len(q.lines) != 0 || len(q.ready) != 0 {
		t.Errorf("something is left: %+v", q)
	}
}

// A source that comes last waits for the running piece of work only, however much 30
// others with higher ranks have to do. If all ranks are the same, it waits for one
// piece of each.
func TestLastSourceWaitsForOnePieceOfEach(t *testing.T) {
	const flooding, each, honest = 30, 8, 31
	var work []int
	for i := range flooding * each {
		work = append(work, 1+i%flooding)
	}
	work = append(work, honest)
	for name, c := range map[string]struct {
		rank func(netip.Prefix) int
		most int
	}{
		"all alike":    {nil, flooding},
		"higher ranks": {func(s netip.Prefix) int { return map[bool]int{true: 0, false: 1}[s == source(honest)] }, 1},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				got := order(t, &Queue{Size: 1, Each: 1, Rank: c.rank}, work...)
				if before := slices.Index(got, honest); before > c.most || before < 0 {
					t.Errorf("%d pieces of work were done before, want at most %d: %v", before, c.most, got)
				}
			})
		})
	}
}
