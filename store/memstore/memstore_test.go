package memstore_test

import (
	"testing"

	"usher/store"
	"usher/store/memstore"
	"usher/store/storetest"
)

func TestContract(t *testing.T) {
	storetest.Run(t, func(*testing.T) store.Store { return memstore.New() })
	storetest.RunLosses(t, func(*testing.T) (store.Store, func(string)) {
		s := storetest.NewModelInRealTime()
		return s, s.Drop
	})
}

func TestHistory(t *testing.T) {
	s := storetest.NewModelInRealTime()
	storetest.RunHistory(t, s, func() { s.Restart(s.Snapshot()) })
}
