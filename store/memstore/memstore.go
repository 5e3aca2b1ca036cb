// Package memstore is the store contract inside one process: the store of a
// single replica, and the model to which the scripts of redisstore are held.
//
// It keeps the same data under the same names as redisstore does (m, t and r
// of store/redisstore/keys.go) and works the same steps on it, one request at
// a time under a mutex. Nothing survives the process, and nothing has to: a
// counter is only about sessions of the process itself.
package memstore

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"sync"
	"time"

	"usher/store"
)

// Store is a store with one shard. It is safe for concurrent use; the zero
// value is not usable, see New.
type Store struct {
	mu    sync.Mutex
	clock func() time.Duration
	shard
}

// New returns an empty store. Its windows end by the monotonic clock.
func New() *Store {
	start := time.Now()
	return NewOn(func() time.Duration { return time.Since(start) })
}

// NewOn returns an empty store whose windows end by the given clock, which
// must not go back. It is called under the store's lock.
func NewOn(clock func() time.Duration) *Store {
	return &Store{clock: clock, shard: shard{history: newHistory(), r: map[string]*ledger{}}}
}

func newHistory() string {
	var id [16]byte
	rand.Read(id[:])
	return hex.EncodeToString(id[:])
}

// Shards implements store.Store.
func (*Store) Shards() int { return 1 }

// Leased implements store.Store: the data cannot outlive its replica, so that
// nothing has to be renewed.
func (*Store) Leased() bool { return false }

// Dial implements store.Store.
func (s *Store) Dial(context.Context, int) (store.Conn, error) {
	return conn{s}, nil
}

// Close implements store.Store.
func (*Store) Close() error { return nil }

// conn cannot break: it leads to the process's own memory.
type conn struct{ s *Store }

func (conn) Close() error { return nil }

func (c conn) Join(_ context.Context, j store.Join) (store.JoinReply, error) {
	c.s.mu.Lock()
	defer c.s.mu.Unlock()
	return c.s.join(j)
}

func (c conn) Batch(_ context.Context, b store.Batch) (store.BatchReply, error) {
	c.s.mu.Lock()
	defer c.s.mu.Unlock()
	return c.s.batch(c.s.clock(), b)
}

func (c conn) Observe(_ context.Context, counters []string) (store.Membership, error) {
	c.s.mu.Lock()
	defer c.s.mu.Unlock()
	return c.s.observe(counters), nil
}

func (c conn) Expire(_ context.Context, r store.Expire) (store.ExpireReply, error) {
	c.s.mu.Lock()
	defer c.s.mu.Unlock()
	return c.s.expire(r)
}

func (c conn) EndRecovery(_ context.Context, m store.EndRecovery) (bool, error) {
	c.s.mu.Lock()
	defer c.s.mu.Unlock()
	return c.s.mature(m)
}
