package redisstore

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
)

// Check reads the settings of the current servers, and returns warnings, one sentence
// each. It connects to the servers. If it cannot ask a server, it fails, and returns
// the warnings about the others.
func (s *Store) Check(ctx context.Context) (warnings []string, err error) {
	defer show(&err)
	var asked []string
	var errs []error
	for shard := range s.Shards() {
		at, err := s.locator.locate(ctx, keysOf(s.cluster, shard).membership())
		if err != nil {
			return warnings, errors.Join(append(errs, err)...)
		}
		if slices.Contains(asked, at.addr) {
			continue
		}
		asked = append(asked, at.addr)
		found, err := s.checkServer(ctx, at.addr)
		if err != nil {
			errs = append(errs, fmt.Errorf("checking the settings of %s: %w", at.addr, err))
		}
		for _, w := range found {
			warnings = append(warnings, OneLine(at.addr+": "+w))
		}
	}
	return warnings, errors.Join(errs...)
}

func (s *Store) checkServer(ctx context.Context, addr string) (warnings []string, err error) {
	l, err := s.location.connect(ctx, addr, s.location.login, s.location.db)
	if err != nil {
		return nil, err
	}
	defer l.Close()
	// Every user of the store needs the right to INFO, but not to CONFIG.
	info, err := l.redis.Info(ctx).Result()
	if err != nil {
		return nil, err
	}
	warnings = checkPersistence(info)
	if policy := infoField(info, "maxmemory_policy"); strings.HasPrefix(policy, "allkeys-") {
		warnings = append(warnings, "maxmemory-policy is "+policy+": Redis may evict what is counted, and each time nothing new "+
			"is admitted for three quarters of the lease TTL; set it to noeviction, or give Usher a Redis of its own")
	} else if policy != "noeviction" {
		warnings = append(warnings, "maxmemory-policy is "+policy+": set it to noeviction; "+
			"what is counted is not evicted, but what has an expiry, such as the window of a rate, may be")
	}
	var more []string
	switch locator := s.locator.(type) {
	case *sentinels:
		more, err = checkReplication(ctx, l.redis, locator)
	case *nodes:
		more, err = checkCoverage(ctx, l.redis)
	}
	return append(warnings, more...), err
}

// unreadable reports whether a server will always refuse a command: the user lacks the
// right (NOPERM), or the command was renamed or removed, as in managed services (ERR).
func unreadable(err error) bool {
	var reply redis.Error
	if !errors.As(err, &reply) {
		return false
	}
	code, _, _ := strings.Cut(reply.Error(), " ")
	return code == "NOPERM" || code == "ERR"
}

// checkCoverage checks that the nodes of a Redis Cluster continue without the others.
func checkCoverage(ctx context.Context, c *redis.Conn) ([]string, error) {
	const setting = "cluster-require-full-coverage"
	const consequence = "while any slot of the cluster has no primary, this node refuses to count, and limited rules admit nobody"
	set, err := c.ConfigGet(ctx, setting).Result()
	switch {
	case unreadable(err):
		return []string{setting + " cannot be read (" + err.Error() + "): set it to no, or " + consequence}, nil
	case err == nil && set[setting] == "yes":
		return []string{setting + " is yes: " + consequence + "; set it to no"}, nil
	}
	return nil, err
}

const persistenceRemedy = `; the store needs no persistence: set save "", appendonly no`

// checkPersistence looks for settings that make the server refuse all writes
// (MISCONF), now or later. INFO does not tell whether it saves snapshots.
func checkPersistence(info string) (warnings []string) {
	if infoField(info, "rdb_last_bgsave_status") == "err" {
		warnings = append(warnings, "the last snapshot could not be saved: while save is set, Redis refuses to count, and limited rules "+
			"admit nobody"+persistenceRemedy+", or stop-writes-on-bgsave-error no")
	}
	if infoField(info, "aof_enabled") == "1" {
		warnings = append(warnings, "appendonly is yes: if Redis cannot write that file, it refuses to count, and limited rules "+
			"then admit nobody"+persistenceRemedy)
	}
	return warnings
}

const minReplicasRemedy = "a primary that is cut off from its replicas goes on counting while another one is promoted, and limits may be exceeded"

// checkReplication checks the settings that prevent two primaries at a time: the old
// one must stop before the new one is promoted.
func checkReplication(ctx context.Context, c *redis.Conn, s *sentinels) ([]string, error) {
	about, _, err := s.primary(ctx)
	if err != nil {
		return nil, err
	}
	text, err := c.Info(ctx, "replication").Result()
	if err != nil {
		return nil, err
	}
	if infoField(text, "min_slaves_good_slaves") == "" { // shown while both are set
		return []string{"min-replicas-to-write or min-replicas-max-lag is 0: " + minReplicasRemedy +
			"; set min-replicas-to-write to 1, and min-replicas-max-lag to " + longestLag(about.downAfter)}, nil
	}
	set, err := c.ConfigGet(ctx, "min-replicas-*").Result()
	if unreadable(err) {
		return []string{"min-replicas-max-lag cannot be read (" + err.Error() + "): make sure that it is at most " +
			longestLag(about.downAfter) + ", or " + minReplicasRemedy}, nil
	}
	if err != nil {
		return nil, err
	}
	lag, err := strconv.Atoi(set["min-replicas-max-lag"])
	if err == nil && time.Duration(lag+1)*time.Second > about.downAfter {
		return []string{fmt.Sprintf("min-replicas-max-lag is %d and down-after-milliseconds of the sentinels is %d: %s; set it to %s",
			lag, about.downAfter.Milliseconds(), minReplicasRemedy, longestLag(about.downAfter))}, nil
	}
	return nil, err
}

// longestLag returns the longest safe min-replicas-max-lag: Redis counts lags in
// whole seconds and checks them once a second.
func longestLag(downAfter time.Duration) string {
	if most := int(downAfter/time.Second) - 1; most >= 1 {
		return strconv.Itoa(most)
	}
	return "1, with down-after-milliseconds of the sentinels at 2000 or more"
}

// infoField returns a field of INFO, "" if it is not there.
func infoField(info, name string) string {
	_, rest, _ := strings.Cut("\n"+info, "\n"+name+":")
	value, _, _ := strings.Cut(rest, "\r")
	return value
}
