package main

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"text/tabwriter"
	"time"

	"github.com/redis/go-redis/v9"

	"usher/limiter"
	"usher/store/redisstore"
)

// heldTTL is the lease of what is held; a tenth of it is a heartbeat.
const heldTTL = 2 * time.Second

// held is what sessions cost that are merely there.
type held struct {
	design   string
	sessions int
	bytes    int64         // in Redis, for the sessions
	cpu      time.Duration // of Redis, each tenth of the TTL
}

// measureHeld holds each number of sessions, by Usher and by the naive design,
// and watches Redis for window.
func measureHeld(counts []string, window time.Duration) error {
	ctx := context.Background()
	var all []held
	for _, c := range counts {
		n, err := strconv.Atoi(c)
		if err != nil || n < 1 {
			return fmt.Errorf("held %q: want numbers of sessions, such as 10000,1000000", c)
		}
		for _, d := range []struct {
			name string
			hold func(context.Context, *redis.Client, string, int) (stop func(), err error)
		}{{"usher", holdUsher}, {"naive", holdNaive}} {
			h, err := holdOnce(ctx, n, window, d.hold)
			if err != nil {
				return fmt.Errorf("%s, %d sessions: %w", d.name, n, err)
			}
			h.design = d.name
			all = append(all, h)
		}
	}
	reportHeld(all)
	return nil
}

func reportHeld(all []held) {
	out := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintf(out, "design\tsessions\tbytes in Redis\tRedis CPU a heartbeat\tbytes / first\tCPU / first\t\n")
	first := map[string]held{}
	for _, h := range all {
		if _, ok := first[h.design]; !ok {
			first[h.design] = h
		}
		f := first[h.design]
		fmt.Fprintf(out, "%s\t%d\t%d\t%v\t%.2f\t%.2f\t\n", h.design, h.sessions, h.bytes, h.cpu.Round(time.Microsecond),
			float64(h.bytes)/float64(f.bytes), float64(h.cpu)/float64(f.cpu))
	}
	out.Flush()
}

// holdOnce does so on a server of its own, so that nothing of one design is in
// the figures of another.
func holdOnce(ctx context.Context, n int, window time.Duration, hold func(context.Context, *redis.Client, string, int) (func(), error)) (held, error) {
	addr, stopRedis, err := startRedis()
	if err != nil {
		return held{}, err
	}
	defer stopRedis()
	server := redis.NewClient(&redis.Options{Addr: addr})
	defer server.Close()
	idle, err := cpuOver(ctx, server, window)
	if err != nil {
		return held{}, err
	}
	stop, err := hold(ctx, server, addr, n)
	if err != nil {
		return held{}, err
	}
	defer stop()
	busy, err := cpuOver(ctx, server, window)
	if err != nil {
		return held{}, err
	}
	bytes, err := dataBytes(ctx, server)
	beats := window / (heldTTL / 10)
	return held{sessions: n, bytes: bytes, cpu: (busy - idle) / beats}, err
}

func cpuOver(ctx context.Context, server *redis.Client, window time.Duration) (time.Duration, error) {
	before, err := redisCPU(ctx, server)
	if err != nil {
		return 0, err
	}
	time.Sleep(window)
	after, err := redisCPU(ctx, server)
	return after - before, err
}

// dataBytes is what the keys take, by Redis's own reckoning; connections,
// scripts and what the allocator keeps are not in it.
func dataBytes(ctx context.Context, server *redis.Client) (int64, error) {
	var sum int64
	keys, err := server.Keys(ctx, "*").Result()
	for _, k := range keys {
		n, err := server.MemoryUsage(ctx, k, 0).Result()
		if err != nil {
			return 0, err
		}
		sum += n
	}
	return sum, err
}

// holdUsher has one replica hold n sessions of the limits.
func holdUsher(ctx context.Context, _ *redis.Client, addr string, n int) (func(), error) {
	s, err := redisstore.Open("redis://"+addr+"/0", "bench", redisstore.Secrets{})
	if err != nil {
		return nil, err
	}
	l := limiter.New(limiter.Options{Store: s, TTL: heldTTL, StoreWait: 10 * time.Second})
	stop := func() {
		ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
		defer cancel()
		_ = l.Close(ctx) // the server goes next
		_ = s.Close()
	}
	const callers = 256
	errs := make(chan error, callers)
	var tasks sync.WaitGroup
	for c := range callers {
		tasks.Go(func() {
			for i := c; i < n; i += callers {
				if _, err := admit(ctx, l, i%limits); err != nil {
					errs <- err
					return
				}
			}
		})
	}
	tasks.Wait()
	close(errs)
	if err := <-errs; err != nil {
		stop()
		return nil, err
	}
	return stop, nil
}

// holdNaive holds n members of the sorted sets, and renews each of them every
// tenth of the TTL, in commands of 500 members.
func holdNaive(ctx context.Context, server *redis.Client, _ string, n int) (func(), error) {
	members := make([][]redis.Z, limits)
	for i := range n {
		members[i%limits] = append(members[i%limits], redis.Z{Member: fmt.Sprintf("%026d", i)})
	}
	renew := func() error {
		until := float64(time.Now().Add(heldTTL).UnixMilli())
		for i, set := range members {
			for len(set) > 0 {
				part := set[:min(500, len(set))]
				set = set[len(part):]
				for j := range part {
					part[j].Score = until
				}
				if err := server.ZAdd(ctx, fmt.Sprint("naive:", i), part...).Err(); err != nil {
					return err
				}
			}
		}
		return nil
	}
	if err := renew(); err != nil {
		return nil, err
	}
	over := make(chan struct{})
	var task sync.WaitGroup
	task.Go(func() {
		tick := time.NewTicker(heldTTL / 10)
		defer tick.Stop()
		for {
			select {
			case <-over:
				return
			case <-tick.C: // late, if the renewal takes longer: it then costs less than it should
				if err := renew(); err != nil && !strings.Contains(err.Error(), "closed") {
					fmt.Fprintln(os.Stderr, "bench: naive:", err)
				}
			}
		}
	})
	return func() { close(over); task.Wait() }, nil
}
