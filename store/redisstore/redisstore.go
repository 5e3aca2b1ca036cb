// Package redisstore is the store contract on Redis, shared by all replicas.
//
// Each operation is one Lua script over declared keys under one hash tag (see keys.go
// and the .lua files), sent over one connection of its own. The package retries nothing
// silently. After an error, the script may or may not have run. The caller then sends
// the same bytes again over a new connection. Counts have no TTL, and need no clock.
package redisstore

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"strings"

	"github.com/redis/go-redis/v9"

	"usher/store"
)

// Store is one cluster of replicas on one Redis, alone, behind sentinels, or
// a Redis Cluster. It is safe for concurrent use.
type Store struct {
	location *location
	locator  locator
	cluster  string
}

var _ store.Store = (*Store)(nil)

// Open returns the store at a URL for the cluster of replicas of that name,
// which CheckCluster must accept. It does not connect yet, but reads the files
// that it is given. Errors never quote a password.
//
//	redis://[user:password@]host[:port][/db]                    one server
//	unix://[user:password@]/path/of/socket[?db=0]               the same
//	redis+sentinel://[user:password@]host[:port],.../name[/db]  the primary that sentinels know by that name
//	redis+cluster://[user:password@]host[:port],...             a Redis Cluster, by some of its nodes
//
// With rediss instead of redis, connections use TLS. The options ca, cert and key name
// PEM files. skip_verify=true accepts any certificate. Other options: shards (default
// 1, on a Redis Cluster 16; the same on all replicas), db, protocol (2 or 3),
// client_name, sentinel_username, sentinel_password.
//
// No reply of a server may exceed 1 MiB, its lines 64 KiB, its nesting 8 levels: a
// larger one is an error of its request. The errors of all methods are one line of
// printable text, cut after 500 bytes.
func Open(rawURL, cluster string, secrets Secrets) (*Store, error) {
	if err := CheckCluster(cluster); err != nil {
		return nil, err
	}
	l, err := parseURL(rawURL)
	if err != nil {
		return nil, err
	}
	if err := l.use(secrets); err != nil {
		return nil, err
	}
	if _, err := l.files.config(); err != nil {
		return nil, err
	}
	s := &Store{location: l, cluster: cluster}
	switch l.form.kind {
	case behindSentinels:
		s.locator = newSentinels(l)
	case redisCluster:
		s.locator = newNodes(l)
	default:
		s.locator = fixed(l.hosts[0])
	}
	return s, nil
}

var clusterName = regexp.MustCompile(`^[A-Za-z0-9._-]{1,64}$`)

// CheckCluster fails for a name that a cluster of replicas cannot have. The name
// is part of each key in Redis.
func CheckCluster(name string) error {
	if !clusterName.MatchString(name) {
		return errors.New("not a cluster name; use 1 to 64 letters (A-Z, a-z), digits, dots, hyphens and underscores, " +
			"the same name on all replicas")
	}
	return nil
}

// Shards implements store.Store.
func (s *Store) Shards() int { return s.location.shards }

// Leased implements store.Store.
func (*Store) Leased() bool { return true }

// Close implements store.Store. It closes the connections to sentinels and nodes
// that the store asks for primaries. Callers close those to shards.
func (s *Store) Close() error {
	s.locator.close()
	return nil
}

// Dial implements store.Store. Each call looks up where the shard is.
func (s *Store) Dial(ctx context.Context, shard int) (_ store.Conn, err error) {
	defer show(&err)
	keys := keysOf(s.cluster, shard)
	at, err := s.locator.locate(ctx, keys.membership())
	if err != nil {
		return nil, err
	}
	l, err := s.location.connect(ctx, at.addr, s.location.login, s.location.db)
	if err != nil {
		return nil, fmt.Errorf("connecting to %s: %w", at.addr, err)
	}
	c := &conn{link: l, keys: keys, at: at, locator: s.locator}
	if err := c.identify(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("%s: %w", at.addr, err), c.Close())
	}
	return c, nil
}

// conn is one connection to one server.
type conn struct {
	*link
	keys    keys
	at      endpoint
	locator locator
	scripts *scripts
}

// identify reads the version of the server and checks its kind. It is called before any
// other request.
func (c *conn) identify(ctx context.Context) error {
	var server, replication *redis.StringCmd
	_, err := c.redis.Pipelined(ctx, func(p redis.Pipeliner) error {
		server, replication = p.Info(ctx, "server"), p.Info(ctx, "replication")
		return nil
	})
	if err != nil {
		return fmt.Errorf("reading what the server is: %w", classify(err))
	}
	if infoField(replication.Val(), "master_replid") == "" { // history.lua needs it
		return errors.New("INFO replication gave no master_replid; the store must be a Redis or Valkey server")
	}
	c.scripts = scriptsFor(infoField(server.Val(), "redis_version"))
	return nil
}

// checkPrimary fails if the server is known not to be the primary any more.
func (c *conn) checkPrimary() error {
	if c.locator.replaced(c.at) {
		return fmt.Errorf("%w: %s is no longer the primary", store.ErrMoved, c.at.addr)
	}
	return nil
}

// send runs a script, unless the server is known not to be the primary any more.
func (c *conn) send(ctx context.Context, s *redis.Script, keys []string, args []any) (any, error) {
	if err := c.checkPrimary(); err != nil {
		return nil, err
	}
	return c.run(ctx, s, keys, args)
}

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
