// Package counting holds the store of a running replica, the limiter that counts in it,
// and the watch over both.
package counting

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"usher/cmd/usher/internal/settings"
	"usher/cmd/usher/internal/stores"
	"usher/cmd/usher/internal/storewatch"
	"usher/limiter"
	"usher/store"
)

// Options are what Start needs beside the configuration. Logger and Observe are
// required.
type Options struct {
	Logger *slog.Logger
	// Observe is told about each request to the store.
	Observe func(op string, took time.Duration, err error)
	// ID and Exchange are those of limiter.Options, or zero.
	ID       string
	Exchange func(context.Context, store.Conn) error
}

// Counting is safe for concurrent use after Start.
type Counting struct {
	Store   store.Store
	Limiter *limiter.Limiter // nil before Start

	watch   *storewatch.Watch
	unwatch context.CancelFunc
	running sync.WaitGroup // the goroutines that watch
}

// Open opens the store of the configuration, which connects later.
func Open(cfg settings.Config) (*Counting, error) {
	st, err := stores.Open(cfg)
	if err != nil {
		return nil, err
	}
	return &Counting{Store: st, unwatch: func() {}}, nil
}

// Start joins the store, and watches it. It is called once.
func (c *Counting) Start(cfg settings.Config, o Options) {
	c.watch = storewatch.New(o.Logger, cfg)
	redis.SetLogger(storewatch.RedisLog{Logger: o.Logger})
	c.Limiter = limiter.New(limiter.Options{
		Store: c.Store, TTL: cfg.LeaseTTL, Strict: cfg.LeaseLoss == "close", StoreWait: cfg.StoreWait,
		AdmitLocally: cfg.StoreDown == "admit",
		MaxKeys:      int64(cfg.ThrottleKeys),
		Observe: func(op string, took time.Duration, err error) {
			o.Observe(op, took, err)
			c.watch.Observe(op, took, err)
		},
		ID: o.ID, Exchange: o.Exchange,
	})
	ctx, cancel := context.WithCancel(context.Background())
	c.unwatch = cancel
	if cfg.Store == settings.Memory { // it cannot fail
		return
	}
	c.running.Go(func() { c.watch.Run(ctx, c.Limiter.Status) })
	if checked, ok := c.Store.(interface {
		Check(context.Context) ([]string, error)
	}); ok {
		c.running.Go(func() { c.watch.Check(ctx, checked.Check) })
	}
}

// Trouble returns the present failure of the store and when it began, or "" if there is
// none.
func (c *Counting) Trouble() (failure string, since time.Time) { return c.watch.Trouble() }

// Leave frees the slots in the store. The limiter admits nothing more. The store stays
// open.
func (c *Counting) Leave(ctx context.Context) error {
	c.watch.Leave()
	return c.Limiter.Close(ctx)
}

// Close ends the watch and closes the store.
func (c *Counting) Close() error {
	c.unwatch()
	err := c.Store.Close()
	c.running.Wait()
	return err
}
