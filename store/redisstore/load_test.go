package redisstore_test

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	mathrand "math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"usher/limiter"
	"usher/store/redisstore"
	"usher/store/redisstore/redistest"
)

const (
	loadTTL   = 5 * time.Second
	strictTTL = 15 * time.Second // a busy machine may stall for seconds, and no lease may end of that
	loadWait  = 10 * time.Second
	loadRules = 6
	loadMax   = 4
	loadHold  = 40 * time.Millisecond
)

// load is replicas that keep limits full. Two of them have a permanent session of each
// rule. On all of them, workers begin and end sessions.
type load struct {
	t        *testing.T
	url      string
	cluster  string
	ttl      time.Duration
	strict   bool
	limiters []*limiter.Limiter
	stores   []*redisstore.Store
	ctx      context.Context // of the workers
	cancel   context.CancelFunc
	workers  sync.WaitGroup

	mu       sync.Mutex
	running  [loadRules]map[*limiter.Grant]bool
	stay     []*limiter.Grant
	admitted [][loadRules]int // by replica and rule
	worst    int              // sessions of one rule that could relay at a time
}

func startLoad(t *testing.T, url string, strict bool) *load {
	t.Helper()
	l := &load{t: t, url: url, cluster: "load-" + rand.Text(), ttl: loadTTL, strict: strict}
	if strict {
		l.ttl = strictTTL
	}
	l.ctx, l.cancel = context.WithCancel(t.Context())
	for i := range l.running {
		l.running[i] = map[*limiter.Grant]bool{}
	}
	for i := range 2 {
		l.join()
		for rule := range loadRules {
			g := l.eventuallyAdmit(l.limiters[i], rule)
			l.enter(i, rule, g)
			l.stay = append(l.stay, g)
		}
	}
	l.recovers()
	return l
}

// join adds a replica, and workers on it.
func (l *load) join() {
	l.t.Helper()
	s := open(l.t, l.url, l.cluster)
	r := limiter.New(limiter.Options{Store: s, TTL: l.ttl, Strict: l.strict, StoreWait: loadWait})
	r.SetSpace("c1aaaa", nil)
	l.mu.Lock()
	i := len(l.limiters)
	l.stores, l.limiters = append(l.stores, s), append(l.limiters, r)
	l.admitted = append(l.admitted, [loadRules]int{})
	l.mu.Unlock()
	for rule := range loadRules {
		for range 2 {
			l.workers.Go(func() { l.work(r, i, rule) })
		}
	}
}

func ruleLimit(rule int) limiter.Limit {
	return limiter.Limit{Rule: fmt.Sprint("c1aaaa/s", rule), Max: loadMax}
}

func (l *load) eventuallyAdmit(r *limiter.Limiter, rule int) (g *limiter.Grant) {
	l.t.Helper()
	redistest.Eventually(l.t, time.Minute, "a session is admitted", func() bool {
		var err error
		g, err = r.Admit(l.t.Context(), ruleLimit(rule))
		return err == nil
	})
	return g
}

// work asks whenever it has no session, but not immediately after its own last session
// has ended: it would always be first.
func (l *load) work(r *limiter.Limiter, replica, rule int) {
	for pause(l.ctx) {
		g, err := r.Admit(l.ctx, ruleLimit(rule))
		if err != nil {
			continue
		}
		l.enter(replica, rule, g)
		pause(l.ctx)
		l.exit(rule, g)
	}
}

// pause takes a moment, and reports whether ctx goes on.
func pause(ctx context.Context) bool {
	timer := time.NewTimer(mathrand.N(loadHold))
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}

// enter counts the sessions that may relay from now on, including this one.
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
	before := slices.Clone(l.admitted)
	l.mu.Unlock()
	redistest.Eventually(l.t, time.Minute, "each replica admits sessions of each rule", func() bool {
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

// stop ends the load and checks the invariants: the limit was never exceeded, permanent
// sessions were never cut, and no slot is lost.
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
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	for i, r := range l.limiters {
		if err := errors.Join(r.Close(ctx), l.stores[i].Close()); err != nil {
			l.t.Errorf("closing: %v", err)
		}
	}
}

// refill takes exactly as many slots as the limits have, spread over the replicas.
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
