// Package redisstore is the store contract on Redis, shared by all replicas.
//
// Each operation is one Lua script over declared keys under one hash tag (see
// keys.go and the .lua files), sent over one connection of its own. Nothing is
// retried behind the caller's back: an error after which the script may or may
// not have run comes back as it is, and the caller resends the same bytes over
// a new connection. The store keeps no clock and no TTL on what it counts.
package redisstore

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"

	"usher/store"
)

// Store is one cluster of replicas on one Redis. It is safe for concurrent use.
type Store struct {
	options *redis.Options
	cluster string
}

var _ store.Store = (*Store)(nil)

// Open returns the store at a URL (redis://, rediss:// or unix://, as
// go-redis reads them) for the cluster of replicas of that name, which must
// not contain braces. It does not connect yet.
func Open(rawURL, cluster string) (*Store, error) {
	if cluster == "" || strings.ContainsAny(cluster, "{}") {
		return nil, fmt.Errorf("redisstore: cluster name %q must be non-empty and without braces", cluster)
	}
	o, err := redis.ParseURL(rawURL)
	if err != nil {
		return nil, fmt.Errorf("redisstore: %w", withoutSecrets(err, rawURL))
	}
	o.MaxRetries = -1   // a silent retry would hide an unknown outcome
	o.DialerRetries = 1 // the limiter paces its attempts itself
	o.ContextTimeoutEnabled = true
	o.DialTimeout = 5 * time.Second // the context of Dial is what bounds it
	o.ReadTimeout, o.WriteTimeout = -1, -1
	o.PoolSize, o.MinIdleConns = 1, 0
	o.DisableIdentity = true // fewer commands for the ACL to allow
	o.MaintNotificationsConfig = &maintnotifications.Config{Mode: maintnotifications.ModeDisabled}
	return &Store{options: o, cluster: cluster}, nil
}

// withoutSecrets drops an error's text if it quotes the URL, password and all.
func withoutSecrets(err error, rawURL string) error {
	if u, perr := url.Parse(rawURL); perr != nil || u.User != nil && strings.Contains(err.Error(), u.User.String()) {
		return errors.New("malformed store URL (not shown, it may hold a password)")
	}
	return err
}

// Shards implements store.Store.
func (*Store) Shards() int { return 1 }

// Leased implements store.Store.
func (*Store) Leased() bool { return true }

// Close implements store.Store: connections are the callers', nothing else is held.
func (*Store) Close() error { return nil }

// Dial implements store.Store. Each connection is a client of its own, so
// that closing it leaves no pooled connection to be picked up by the next.
func (s *Store) Dial(ctx context.Context, shard int) (store.Conn, error) {
	o := *s.options
	client := redis.NewClient(&o)
	c := &conn{client: client, redis: client.Conn(), keys: keysOf(s.cluster, shard)}
	if err := c.identify(ctx); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return c, nil
}

// conn is one connection to one server process.
type conn struct {
	client  *redis.Client
	redis   *redis.Conn
	keys    keys
	runID   string
	scripts *scripts
}

// identify reads who the server is, before anything else is said to it.
func (c *conn) identify(ctx context.Context) error {
	info, err := c.redis.Info(ctx, "server").Result()
	if err != nil {
		return fmt.Errorf("redisstore: reading the server's run id: %w", classify(err))
	}
	field := func(name string) string {
		_, rest, _ := strings.Cut(info, "\n"+name+":")
		value, _, _ := strings.Cut(rest, "\r")
		return value
	}
	if c.runID = field("run_id"); c.runID == "" {
		return errors.New("redisstore: INFO server gave no run_id; the store must be a Redis or Valkey server")
	}
	c.scripts = scriptsFor(field("redis_version"))
	return nil
}

func (c *conn) RunID() string { return c.runID }

func (c *conn) Close() error { return errors.Join(c.redis.Close(), c.client.Close()) }

// classify tells errors that say "not executed" from those of unknown outcome.
func classify(err error) error {
	if err == nil {
		return nil
	}
	text := err.Error()
	word, _, _ := strings.Cut(text, " ")
	switch word {
	case "MOVED", "READONLY", "LOADING", "CLUSTERDOWN", "MASTERDOWN", "NOREPLICAS":
		return fmt.Errorf("%w: %s", store.ErrMoved, text)
	case "ASK", "TRYAGAIN", "BUSY", "NOSCRIPT":
		return fmt.Errorf("%w: %s", store.ErrBusy, text)
	}
	return err
}
