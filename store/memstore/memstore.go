// Package memstore is the store of a single replica. It counts in the memory of the
// process. The counts end with the process, and so do all sessions that it counts.
package memstore

import (
	"context"
	"time"

	"usher/store"
	"usher/store/internal/model"
)

// Store is a store with one shard. It is safe for concurrent use; the zero
// value is not usable, see New.
type Store struct{ model *model.Store }

// New returns an empty store. The windows of rates end by the monotonic clock.
func New() *Store {
	start := time.Now()
	return &Store{model.New(func() time.Duration { return time.Since(start) })}
}

// Shards implements store.Store.
func (s *Store) Shards() int { return s.model.Shards() }

// Leased implements store.Store: there is no lease to renew.
func (s *Store) Leased() bool { return s.model.Leased() }

// Dial implements store.Store. It does not fail, and its connections do not break.
func (s *Store) Dial(ctx context.Context, shard int) (store.Conn, error) {
	return s.model.Dial(ctx, shard)
}

// Close implements store.Store.
func (s *Store) Close() error { return s.model.Close() }
