package memstore_test

import (
	"testing"

	"usher/store"
	"usher/store/memstore"
	"usher/store/storetest"
)

func TestContract(t *testing.T) {
	storetest.Run(t, func(*testing.T) store.Store { return memstore.New() })
}

func TestHistory(t *testing.T) {
	s := memstore.New()
	storetest.RunHistory(t, s, func() { s.Restart(s.Snapshot()) })
}
