package redisstore

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"
)

// lookEvery is how often the sentinels are asked whether the primary is still
// the same. After a planned failover, the old primary takes writes for some seconds.
// Replicas that stay with it and replicas that join the new one count apart. The new
// one admits nothing for 0.75 TTL, and all replicas must have moved well before that.
const lookEvery = 200 * time.Millisecond

// sentinels locate the primary of one name. After the first question, a goroutine
// continues to ask until close.
type sentinels struct {
	master string
	peers  []*peer

	latest atomic.Pointer[endpoint] // what the goroutine saw last
	begin  sync.Once
	stop   context.CancelFunc // nil if it never began
	task   sync.WaitGroup
}

func newSentinels(l *location) *sentinels {
	s := &sentinels{master: l.master}
	for _, h := range l.hosts {
		s.peers = append(s.peers, newPeer(h, func(ctx context.Context, addr string) (*link, error) {
			return l.connect(ctx, addr, l.sentinel, 0)
		}))
	}
	return s
}

// primary is what a sentinel says about a primary.
type primary struct {
	addr      string
	downAfter time.Duration // how long it must be silent before it is replaced
}

func (s *sentinels) primary(ctx context.Context) (primary, uint64, error) {
	p, epoch, err := newest(ctx, s.peers, func(ctx context.Context, _ *peer, c *redis.Conn) (primary, uint64, error) {
		addr := redis.NewStringSliceCmd(ctx, "SENTINEL", "GET-MASTER-ADDR-BY-NAME", s.master)
		about := redis.NewMapStringStringCmd(ctx, "SENTINEL", "MASTER", s.master)
		_, err := c.Pipelined(ctx, func(p redis.Pipeliner) error {
			return errors.Join(p.Process(ctx, addr), p.Process(ctx, about))
		})
		switch {
		case errors.Is(err, redis.Nil):
			return primary{}, 0, fmt.Errorf("knows no primary named %q", s.master)
		case err != nil:
			return primary{}, 0, err
		case len(addr.Val()) != 2:
			return primary{}, 0, fmt.Errorf("gave %q as the address of the primary", addr.Val())
		}
		epoch, err := strconv.ParseUint(about.Val()["config-epoch"], 10, 64)
		down, _ := strconv.ParseInt(about.Val()["down-after-milliseconds"], 10, 64)
		return primary{net.JoinHostPort(addr.Val()[0], addr.Val()[1]), time.Duration(down) * time.Millisecond}, epoch, err
	})
	if err != nil {
		return primary{}, 0, fmt.Errorf("no sentinel gave the address of the primary: %w", err)
	}
	return p, epoch, nil
}

func (s *sentinels) locate(ctx context.Context, _ string) (endpoint, error) {
	s.begin.Do(func() {
		ctx, stop := context.WithCancel(context.Background())
		s.stop = stop
		s.task.Go(func() { s.look(ctx) })
	})
	p, epoch, err := s.primary(ctx)
	return endpoint{p.addr, epoch}, err
}

func (s *sentinels) look(ctx context.Context) {
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		bounded, cancel := context.WithTimeout(ctx, 2*lookEvery)
		if p, epoch, err := s.primary(bounded); err == nil {
			s.latest.Store(&endpoint{p.addr, epoch})
		}
		cancel()
	}
}

func (s *sentinels) replaced(e endpoint) bool {
	now := s.latest.Load()
	return now != nil && now.addr != e.addr && now.epoch > e.epoch
}

func (s *sentinels) close() {
	s.begin.Do(func() {})
	if s.stop != nil {
		s.stop()
	}
	s.task.Wait()
	for _, p := range s.peers {
		p.close()
	}
}
