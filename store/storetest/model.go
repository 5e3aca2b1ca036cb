package storetest

import (
	"time"

	"usher/store/internal/model"
)

// Model is the store of package memstore, with methods for tests. Dump, Ledger and
// Audit read all of its data. Flush, Drop, Snapshot and Restart damage the data as real
// stores may.
type Model = model.Store

// Snapshot is a copy of a model's data at one moment. The zero value is no data.
type Snapshot = model.Snapshot

// NewModel returns an empty model. clock times the windows of rates, and must not go
// back.
func NewModel(clock func() time.Duration) *Model { return model.New(clock) }

// NewModelInRealTime returns an empty model that times windows by the monotonic clock.
// In a bubble of testing/synctest, this clock is virtual.
func NewModelInRealTime() *Model {
	start := time.Now()
	return model.New(func() time.Duration { return time.Since(start) })
}
