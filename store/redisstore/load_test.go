package redisstore_test

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"usher/limiter"
	"usher/store/redisstore"
	"usher/store/redisstore/redistest"
)

const (
	loadTTL   = 2 * time.Second
	loadRules = 6
	loadMax   = 4
	loadHold  = 20 * time.Millisecond
)

// load is two replicas that keep limits full: each has one session of each
// rule that stays, and workers whose sessions come and go.
type load struct {
	t        *testing.T
	url      string
	cluster  string
	limiters []*limiter.Limiter
	stores   []*redisstore.Store
	cancel   context.CancelFunc
	workers  sync.WaitGroup

	mu       sync.Mutex
	running  [loadRules]map[*limiter.Grant]bool
	stay     []*limiter.Grant
	admitted [2][loadRules]int // by replica and rule
	worst    int               // sessions of one rule that could relay at a time
}

func startLoad(t *testing.T, url string, strict bool) *load {
	t.Helper()
	l := &load{t: t, url: url, cluster: "load-" + rand.Text()}
	for i := range l.running {
		l.running[i] = map[*limiter.Grant]bool{}
	}
	for range 2 {
		l.limiters = append(l.limiters, l.replica(strict))
	}
	ctx, cancel := context.WithCancel(context.Background())
	l.cancel = cancel
	for i, replica := range l.limiters {
		for rule := range loadRules {
			g := l.eventuallyAdmit(replica, rule)
			l.enter(i, rule, g)
			l.stay = append(l.stay, g)
			for range 2 {
				l.workers.Go(func() { l.work(ctx, i, rule) })
			}
		}
	}
	l.recovers()
	return l
}

func (l *load) replica(strict bool) *limiter.Limiter {
	l.t.Helper()
	s := open(l.t, l.url, l.cluster)
	l.stores = append(l.stores, s)
	r := limiter.New(limiter.Options{Store: s, TTL: loadTTL, Strict: strict, StoreWait: time.Second})
	r.SetSpace("c1aaaa", nil)
	return r
}

func ruleLimit(rule int) limiter.Limit {
	return limiter.Limit{Rule: fmt.Sprint("c1aaaa/s", rule), Max: loadMax}
}

func (l *load) eventuallyAdmit(r *limiter.Limiter, rule int) (g *limiter.Grant) {
	l.t.Helper()
	redistest.Eventually(l.t, 20*time.Second, "a session is admitted", func() bool {
		var err error
		g, err = r.Admit(l.t.Context(), ruleLimit(rule))
		return err == nil
	})
	return g
}

func (l *load) work(ctx context.Context, replica, rule int) {
	pause := time.NewTicker(loadHold)
	defer pause.Stop()
	for ctx.Err() == nil {
		g, err := l.limiters[replica].Admit(ctx, ruleLimit(rule))
		if err == nil {
			l.enter(replica, rule, g)
		}
		select {
		case <-ctx.Done():
		case <-pause.C:
		}
		if err == nil {
			l.exit(rule, g)
		}
	}
}

// enter counts who may relay from now on, this session included.
func (l *load) enter(replica, rule int, g *limiter.Grant) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.admitted[replica][rule]++
	l.running[rule][g] = true
	n := 0
	for other := range l.running[rule] {
		if other.Valid() {
			n++
		}
	}
	l.worst = max(l.worst, n)
}

func (l *load) exit(rule int, g *limiter.Grant) {
	l.mu.Lock()
	delete(l.running[rule], g)
	l.mu.Unlock()
	g.Release()
}

// recovers waits until each replica admits sessions of each rule again.
func (l *load) recovers() {
	l.t.Helper()
	l.mu.Lock()
	before := l.admitted
	l.mu.Unlock()
	redistest.Eventually(l.t, 20*time.Second, "each replica admits sessions of each rule", func() bool {
		l.mu.Lock()
		defer l.mu.Unlock()
		for i := range l.admitted {
			for rule := range l.admitted[i] {
				if l.admitted[i][rule] < before[i][rule]+3 {
					return false
				}
			}
		}
		return true
	})
}

// stop ends the load and holds it to the invariants: the limit was never
// exceeded, the sessions that stay were never cut, and no slot is lost.
func (l *load) stop() {
	l.t.Helper()
	l.cancel()
	l.workers.Wait()
	if l.worst > loadMax {
		l.t.Errorf("%d sessions of one rule could relay at a time, the limit is %d", l.worst, loadMax)
	}
	if l.worst < loadMax {
		l.t.Errorf("at most %d sessions of one rule at a time: the limit %d was never reached", l.worst, loadMax)
	}
	for i, g := range l.stay {
		if !g.Valid() {
			l.t.Errorf("session %d that was to stay has lost its slot", i)
		}
		g.Release()
	}
	for rule := range loadRules {
		l.refill(rule)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	for i, r := range l.limiters {
		if err := errors.Join(r.Close(ctx), l.stores[i].Close()); err != nil {
			l.t.Errorf("closing: %v", err)
		}
	}
}

// refill takes exactly as many slots as there are, spread over the replicas.
func (l *load) refill(rule int) {
	l.t.Helper()
	var held []*limiter.Grant
	for i := range loadMax {
		held = append(held, l.eventuallyAdmit(l.limiters[i%2], rule))
	}
	for _, r := range l.limiters {
		if g, err := r.Admit(l.t.Context(), ruleLimit(rule)); !errors.Is(err, limiter.ErrFull) {
			l.t.Errorf("rule %d, one more than the limit: %v", rule, err)
			g.Release()
		}
	}
	for _, g := range held {
		g.Release()
	}
}
