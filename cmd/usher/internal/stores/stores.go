// Package stores opens the store that the environment names.
package stores

import (
	"fmt"

	"usher/cmd/usher/internal/settings"
	"usher/store"
	"usher/store/memstore"
	"usher/store/redisstore"
)

// Open returns the store of USHER_STORE. It connects later.
func Open(cfg settings.Config) (store.Store, error) {
	if cfg.Store == settings.Memory {
		return memstore.New(), nil
	}
	st, err := redisstore.Open(string(cfg.Store), string(cfg.Cluster), redisstore.Secrets{
		User: cfg.StoreUser, Password: cfg.StorePass,
		SentinelUser: cfg.SentinelUser, SentinelPassword: cfg.SentinelPass,
	})
	if err != nil {
		return nil, fmt.Errorf("USHER_STORE: %w", err)
	}
	return st, nil
}
