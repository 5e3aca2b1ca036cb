package redisstore_test

import (
	"crypto/rand"
	"testing"

	"usher/store"
	"usher/store/redisstore"
	"usher/store/redisstore/redistest"
	"usher/store/storetest"
)

func TestContract(t *testing.T) {
	server := redistest.Start(t)
	storetest.Run(t, func(t *testing.T) store.Store {
		s, err := redisstore.Open(server.URL(), "test-"+rand.Text())
		if err != nil {
			t.Fatal(err)
		}
		return s
	})
}
