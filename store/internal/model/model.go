// Package model is the store contract in the memory of one process. memstore uses it
// as the store of a single replica. Tests use it through storetest: they compare the
// scripts of redisstore with it, and lose its data on purpose.
//
// It keeps the same data under the same names as redisstore does (m, t and r of
// store/redisstore/keys.go) and does the same steps with it, one request at a
// time under a mutex.
package model

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

// New returns an empty store. The windows of rates end by clock, which must
// not go back and is called under the store's lock.
func New(clock func() time.Duration) *Store {
	return &Store{clock: clock, shard: shard{history: newHistory(), r: map[string]*ledger{}}}
}

func newHistory() string {
	var id [16]byte
	rand.Read(id[:])
	return hex.EncodeToString(id[:])
}

// Shards implements store.Store.
func (*Store) Shards() int { return 1 }

// Leased implements store.Store. The data cannot outlive its only replica, so
// nothing has to be renewed.
func (*Store) Leased() bool { return false }

// Dial implements store.Store.
func (s *Store) Dial(context.Context, int) (store.Conn, error) { return conn{s}, nil }

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

func (c conn) Expire(_ context.Context, e store.Expire) (store.ExpireReply, error) {
	c.s.mu.Lock()
	defer c.s.mu.Unlock()
	return c.s.expire(e)
}

func (c conn) EndRecovery(_ context.Context, e store.EndRecovery) (bool, error) {
	c.s.mu.Lock()
	defer c.s.mu.Unlock()
	return c.s.endRecovery(e)
}
