package redisstore

import (
	"context"
	_ "embed"
	"strconv"
	"strings"
	"sync"

	"github.com/redis/go-redis/v9"
)

// Each script has its own file, which begins with its keys, arguments and results, and
// says why it may be repeated.
var (
	//go:embed history.lua
	historyLua string
	//go:embed common.lua
	commonLua string
	//go:embed entries.lua
	entriesLua string
	//go:embed join.lua
	joinLua string
	//go:embed batch_shortcut.lua
	shortcutLua string
	//go:embed batch.lua
	batchLua string
	//go:embed expire.lua
	expireLua string
	//go:embed end_recovery.lua
	endRecoveryLua string
	//go:embed exchange.lua
	exchangeLua string
	//go:embed show.lua
	showLua string
	//go:embed publish.lua
	publishLua string
)

// scripts are the operations in the form that a server version takes.
type scripts struct{ join, batch, expire, endRecovery, exchange, show *redis.Script }

// publishScript may fail when Redis is out of memory, because no session depends on it.
var publishScript = sync.OnceValue(func() *redis.Script { return redis.NewScript(publishLua) })

var (
	plainScripts = sync.OnceValue(func() *scripts { return newScripts("") })
	// Scripts that count must also run when Redis is out of memory, because they give
	// slots back.
	oomScripts = sync.OnceValue(func() *scripts { return newScripts("#!lua flags=allow-oom\n") })
)

// scriptsFor returns the scripts for a server: script flags came with Redis 7.0.
func scriptsFor(version string) *scripts {
	major, _, _ := strings.Cut(version, ".")
	if n, err := strconv.Atoi(major); err == nil && n >= 7 {
		return oomScripts()
	}
	return plainScripts()
}

func newScripts(head string) *scripts {
	build := func(parts ...string) *redis.Script { return redis.NewScript(head + strings.Join(parts, "")) }
	return &scripts{
		join:        build(historyLua, commonLua, entriesLua, joinLua),
		batch:       build(historyLua, shortcutLua, commonLua, entriesLua, batchLua),
		expire:      build(commonLua, expireLua),
		endRecovery: build(commonLua, endRecoveryLua),
		exchange:    build(exchangeLua),
		show:        build(showLua),
	}
}

// run runs a script, loading it if the server does not have it: scripts do not
// survive a restart, and newer servers may evict them. SCRIPT LOAD, unlike
// EVAL, keeps a script from being evicted.
func (c *conn) run(ctx context.Context, s *redis.Script, keys []string, args []any) (any, error) {
	reply, err := s.EvalSha(ctx, c.redis, keys, args...).Result()
	if err != nil && redis.HasErrorPrefix(err, "NOSCRIPT") {
		if err = s.Load(ctx, c.redis).Err(); err == nil {
			reply, err = s.EvalSha(ctx, c.redis, keys, args...).Result()
		}
	}
	return reply, classify(err)
}
