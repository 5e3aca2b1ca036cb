package storetest

import (
	"time"

	"usher/store/internal/model"
)

// Model is the store of package memstore with doors for tests: they read all of
// its data (Dump, Ledger, Audit) and do to it what can befall the data of a
// store (Flush, Drop, Snapshot, Restart).
type Model = model.Store

// Snapshot is a copy of a model's data at one moment. The zero value is no data.
type Snapshot = model.Snapshot

// NewModel returns an empty model. The windows of rates end by clock, which
// must not go back.
func NewModel(clock func() time.Duration) *Model { return model.New(clock) }

// NewModelInRealTime returns an empty model whose windows end by the monotonic
// clock, which is a virtual one in a bubble of testing/synctest.
func NewModelInRealTime() *Model {
	start := time.Now()
	return model.New(func() time.Duration { return time.Since(start) })
}
