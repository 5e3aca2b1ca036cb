package main

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	mathrand "math/rand/v2"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/rueidis"

	"usher/limiter"
	"usher/store/redisstore"
)

// limits is how many limits the sessions are spread over, and most what each
// admits: never full, it is the cost of counting that is measured.
const (
	limits = 16
	most   = 1_000_000
)

// Of the limits that are nearly full, nearlyFilled of nearlyMost sessions are
// there before, held by all workers together.
const (
	nearlyMost   = 40_000
	nearlyFilled = 37_000
)

// pair admits a session and returns how to release it.
type pair func(limit int) (release func(), err error)

// work carries out orders from standard input.
func work(addr string, filled int) error {
	w, stop, err := newWorker(addr, filled)
	if err != nil {
		return err
	}
	defer stop()
	in, out := json.NewDecoder(os.Stdin), json.NewEncoder(os.Stdout)
	for {
		var o order
		if err := in.Decode(&o); err != nil {
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		}
		if err := out.Encode(run(w[o.Design], o)); err != nil {
			return err
		}
	}
}

// run has callers admit and release in a closed loop.
func run(do pair, o order) result {
	end := time.Now().Add(o.Length)
	took := make([][]time.Duration, o.Callers)
	errs := make([]error, o.Callers)
	var tasks sync.WaitGroup
	for i := range o.Callers {
		tasks.Go(func() {
			for {
				began := time.Now()
				if began.After(end) {
					return
				}
				release, err := do(mathrand.IntN(limits))
				if err != nil {
					errs[i] = err
					return
				}
				took[i] = append(took[i], time.Since(began))
				release()
			}
		})
	}
	tasks.Wait()
	if err := errors.Join(errs...); err != nil {
		return result{Err: err.Error()}
	}
	all := slices.Concat(took...)
	slices.Sort(all)
	return result{
		PerSecond: float64(len(all)) / o.Length.Seconds(),
		P50:       all[len(all)/2], P99: all[len(all)*99/100],
	}
}

// naiveAdmit is the field's habit: drop who expired, count, add.
const naiveAdmit = `
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)
if redis.call('ZCARD', KEYS[1]) >= tonumber(ARGV[1]) then return 0 end
redis.call('ZADD', KEYS[1], now + ARGV[2], ARGV[3])
return 1`

func newWorker(addr string, filled int) (map[string]pair, func(), error) {
	ctx := context.Background()
	plain := redis.NewClient(&redis.Options{Addr: addr})
	piped, err := rueidis.NewClient(rueidis.ClientOption{InitAddress: []string{addr}, DisableCache: true, AlwaysPipelining: true})
	if err != nil {
		return nil, nil, err
	}
	s, err := redisstore.Open("redis://"+addr+"/0", "bench", redisstore.Secrets{})
	if err != nil {
		return nil, nil, err
	}
	l := limiter.New(limiter.Options{Store: s, TTL: 2 * time.Second, StoreWait: 10 * time.Second})
	l.SetSpace("bench", nil)
	for deadline := time.Now().Add(30 * time.Second); !l.Status().WasReady; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			return nil, nil, errors.New("the store was not ready within 30s")
		}
	}
	if err := fill(ctx, l, filled); err != nil {
		return nil, nil, err
	}
	stop := func() {
		ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
		defer cancel()
		l.Close(ctx)
		plain.Close()
		piped.Close()
	}
	key := func(i int) string { return fmt.Sprint("naive:", i) }
	script, pipedScript := redis.NewScript(naiveAdmit), rueidis.NewLuaScript(naiveAdmit)
	if err := script.Load(ctx, plain).Err(); err != nil {
		return nil, nil, err
	}
	nothing := func() {}
	return map[string]pair{
		"ping":      func(int) (func(), error) { return nothing, plain.Ping(ctx).Err() },
		"ping-pipe": func(int) (func(), error) { return nothing, piped.Do(ctx, piped.B().Ping().Build()).Error() },
		"naive": func(i int) (func(), error) {
			id := rand.Text()
			n, err := script.EvalSha(ctx, plain, []string{key(i)}, most, 10000, id).Int()
			if err == nil && n != 1 {
				err = errors.New("naive: full")
			}
			return func() { plain.ZRem(ctx, key(i), id) }, err
		},
		"naive-pipe": func(i int) (func(), error) {
			id := rand.Text()
			n, err := pipedScript.Exec(ctx, piped, []string{key(i)}, []string{fmt.Sprint(most), "10000", id}).AsInt64()
			if err == nil && n != 1 {
				err = errors.New("naive-pipe: full")
			}
			return func() { piped.Do(ctx, piped.B().Zrem().Key(key(i)).Member(id).Build()) }, err
		},
		"usher":      func(i int) (func(), error) { return admit(ctx, l, i) },
		"usher-full": func(i int) (func(), error) { return admitTo(ctx, l, nearly(i)) },
		"usher-cold": func(int) (func(), error) { return admit(ctx, l, mathrand.IntN(most)) },
	}, stop, nil
}

func admit(ctx context.Context, l *limiter.Limiter, limit int) (release func(), err error) {
	return admitTo(ctx, l, limiter.Limit{Rule: fmt.Sprint("bench/s", limit), Max: most})
}

func admitTo(ctx context.Context, l *limiter.Limiter, limit limiter.Limit) (release func(), err error) {
	g, err := l.Admit(ctx, limit)
	if err != nil {
		return nil, err
	}
	return g.Release, nil
}

func nearly(i int) limiter.Limit {
	return limiter.Limit{Rule: fmt.Sprint("bench/n", i), Max: nearlyMost}
}

// fill admits n sessions that stay to each limit that is to be nearly full.
func fill(ctx context.Context, l *limiter.Limiter, n int) error {
	errs := make([]error, limits)
	var tasks sync.WaitGroup
	for i := range limits {
		tasks.Go(func() {
			for range n {
				if _, err := l.Admit(ctx, nearly(i)); err != nil {
					errs[i] = err
					return
				}
			}
		})
	}
	tasks.Wait()
	return errors.Join(errs...)
}
