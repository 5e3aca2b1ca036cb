package integration

import (
	"context"
	"fmt"
	"maps"
	"syscall"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"usher/store/redisstore/redistest"
)

// deployment is the Redis that counts for a faultWorld.
type deployment struct {
	db     redis.UniversalClient // directly to the primary, not through a fault proxy
	urls   [3]string             // by replica
	shards int

	// One of these.
	redis     *redistest.Server
	sentinels *redistest.Sentinels
	cluster   *redistest.Cluster

	proxies []*faultProxy // of one server, by replica
}

// oneServer is a server that each replica reaches through a fault proxy.
func oneServer(t *testing.T, seed uint64) deployment {
	d := deployment{redis: redistest.Start(t), shards: 1}
	d.db = redis.NewClient(&redis.Options{Addr: d.redis.Addr, MaxRetries: -1, ReadTimeout: patience})
	t.Cleanup(func() { d.db.Close() })
	for i := range d.urls {
		p := startFaultProxy(t, d.redis.Addr, seed+uint64(i))
		d.proxies, d.urls[i] = append(d.proxies, p), p.url()
	}
	return d
}

// behindSentinels is a primary with two Redis replicas. Sentinels ping once a second.
// With a shorter timeout, they would take a busy server for dead.
func behindSentinels(t *testing.T, _ uint64) deployment {
	d := deployment{sentinels: redistest.StartSentinels(t), shards: 1}
	d.sentinels.SetDownAfter(2000)
	d.db = redis.NewFailoverClient(&redis.FailoverOptions{
		MasterName: redistest.SentinelName, SentinelAddrs: addrs(d.sentinels.Watch), MaxRetries: -1, ReadTimeout: patience,
	})
	t.Cleanup(func() { d.db.Close() })
	for i := range d.urls {
		d.urls[i] = d.sentinels.URL()
	}
	return d
}

// onCluster is three primaries with a Redis replica each. The limits are in shards on
// more than one of them.
func onCluster(t *testing.T, _ uint64) deployment {
	d := deployment{cluster: redistest.StartCluster(t), shards: 5}
	// The client looks up the slots often. By default it would ask a dead node for ten seconds.
	d.db = redis.NewClusterClient(&redis.ClusterOptions{
		Addrs: addrs(d.cluster.Nodes), ClusterStateReloadInterval: faultTTL / 20, DialerRetries: 1, ReadTimeout: patience,
	})
	t.Cleanup(func() { d.db.Close() })
	for i := range d.urls {
		d.urls[i] = fmt.Sprintf("%s?shards=%d", d.cluster.URL(), d.shards)
	}
	return d
}

func addrs(servers []*redistest.Server) (all []string) {
	for _, s := range servers {
		all = append(all, s.Addr)
	}
	return all
}

// names returns the keys of a shard. A script runs on the node of the keys that it
// declares. KEYS alone would run on any node.
func (d deployment) names(ctx context.Context, s shard) ([]string, error) {
	return d.db.Eval(ctx, "return redis.call('KEYS', ARGV[1])", []string{s.members()}, s.key("*")).StringSlice()
}

// shardOf returns the shard that counts a target. The target must have sessions.
func (r *trial) shardOf(target int) (found shard) {
	r.t.Helper()
	eventually(r.t, patience, func() string {
		all, err := r.readAll(r.t.Context())
		for i, l := range all {
			if n, err := r.byLimit(l); err == nil && n[target] > 0 {
				found = shard(i)
				return ""
			}
		}
		return fmt.Sprintf("target %d is counted nowhere: %+v %v", target, all, err)
	})
	return found
}

// primaryOf returns the server that holds a shard.
func (r *trial) primaryOf(s shard) *redistest.Server {
	r.t.Helper()
	if r.sentinels != nil {
		return r.sentinels.Primary()
	}
	return r.cluster.Serving(r.cluster.Slot(s.tag()))
}

// heirsOf returns the servers that may be promoted instead of it.
func (r *trial) heirsOf(primary *redistest.Server) (all []*redistest.Server) {
	r.t.Helper()
	if r.sentinels == nil {
		return append(all, r.cluster.Replica(primary))
	}
	for _, s := range r.sentinels.Servers {
		if s != primary {
			all = append(all, s)
		}
	}
	return all
}

// TestFaultsSentinels runs the faults of a primary behind sentinels, under replicas
// that end sessions whose lease is lost.
func TestFaultsSentinels(t *testing.T) {
	testFaults(t, faultOptions{net: 5, strict: true, pool: []int{4, 4, 4}, deploy: behindSentinels}, []fault{
		{name: "planned failover", run: failedOver},
		{name: "primary killed", run: primaryKilled},
	})
}

// TestFaultsSentinelsKeep does the same under replicas that keep such sessions.
func TestFaultsSentinelsKeep(t *testing.T) {
	testFaults(t, faultOptions{net: 6, pool: []int{4, 4, 4}, deploy: behindSentinels}, []fault{
		{name: "primary killed, a replica asleep", run: primaryKilledUnseen},
	})
}

// TestFaultsCluster runs the faults of nodes of a Redis Cluster that hold some of the
// limits.
func TestFaultsCluster(t *testing.T) {
	testFaults(t, faultOptions{net: 7, strict: true, pool: []int{4, 4, 4}, deploy: onCluster}, []fault{
		{name: "slot migrated", run: slotMigrated},
		{name: "planned failover", run: failedOver},
		{name: "primary killed", run: primaryKilled},
	})
}

// TestFaultsClusterKeep does the same under replicas that keep such sessions.
func TestFaultsClusterKeep(t *testing.T) {
	testFaults(t, faultOptions{net: 8, pool: []int{4, 4, 4}, deploy: onCluster}, []fault{
		{name: "primary killed", run: primaryKilled},
	})
}

// joiner is the replica that joins later than the others.
const joiner = 2

// moved runs do, which moves the shard of the first target to another server while
// nothing fails. No data is lost. But a replica at the new server knows nothing of
// replicas that are still at the old one. So all replicas must have left the old server
// when a new replica asks where the shard is.
func (r *trial) moved(do func(shard)) {
	r.t.Helper()
	r.longLived()
	s := r.shardOf(0)
	before, old, begin := r.epoch(r.t, s), r.primaryOf(s), r.truth.now()
	do(s)
	eventually(r.t, patience, func() string { // it takes a while until all nodes know
		if r.primaryOf(s) == old {
			return fmt.Sprintf("%s is still at %s", s.tag(), old.Addr)
		}
		return ""
	})
	r.replicas[joiner].kill()
	at := r.truth.now()
	r.endedBy(at, joiner, at)
	r.replicas[joiner] = r.launch[joiner]()
	r.waitNewEpoch(r.t, s, before)
	r.outlived(r.everywhere(), span{begin, r.truth.now()})
	r.waitSettled(r.t)
}

// longLived waits until each target has a session that stays, on another replica than
// the joiner.
func (r *trial) longLived() {
	r.t.Helper()
	eventually(r.t, patience, func() string {
		for i, target := range r.targets {
			stay := r.truth.some(i, func(s proven) bool { return s.key == 0 && s.replica != joiner })
			if len(stay) == 0 && !target.halfDone {
				return fmt.Sprintf("target %d: no session stays", i)
			}
		}
		return ""
	})
}

func failedOver(r *trial) {
	r.moved(func(s shard) {
		if r.sentinels != nil {
			r.sentinels.Failover()
			return
		}
		slot := r.cluster.Slot(s.tag())
		r.cluster.Failover(r.cluster.Serving(slot), slot)
	})
}

// slotMigrated moves the shard to the node that holds the next third of the slots.
func slotMigrated(r *trial) {
	r.moved(func(s shard) {
		const slots = 16384
		slot := r.cluster.Slot(s.tag())
		r.cluster.Migrate(slot, r.cluster.Serving((slot+slots/3)%slots))
	})
}

// primaryKilled kills the primary of the first target's shard. For some time before,
// its Redis replicas did not hear it, so what it acknowledged then is lost. Later it
// comes back. Limits on other nodes are not affected.
func primaryKilled(r *trial) { r.killPrimary(false) }

// primaryKilledUnseen also stops a replica meanwhile. When the new primary is joined,
// nobody counts the sessions of that replica. So the store must admit nobody until the
// replica could wake and claim them.
func primaryKilledUnseen(r *trial) { r.killPrimary(true) }

func (r *trial) killPrimary(asleep bool) {
	r.t.Helper()
	r.longLived()
	s := r.shardOf(0)
	primary, before := r.primaryOf(s), r.epoch(r.t, s)
	heirs, elsewhere := r.heirsOf(primary), r.elsewhere(primary)
	r.fallBehind(s, primary, heirs)
	if asleep {
		r.halt(r.replicas[joiner].proc.cmd.Process.Pid)
	}
	primary.Kill()
	down := r.truth.now()
	r.waitNewEpoch(r.t, s, before)
	outage := span{down, r.truth.now()}
	if asleep {
		r.replicas[joiner].signal(syscall.SIGCONT)
	}
	for _, h := range heirs {
		h.Follow()
	}
	primary.Start()
	r.t.Logf("%s has a new epoch after %v", s.tag(), (outage.until - down).Round(time.Millisecond))
	r.admitted(elsewhere, outage)
	if r.strict { // whether those of this shard live depends on how long it takes
		r.outlived(elsewhere, outage)
	} else {
		r.outlived(r.everywhere(), outage)
	}
}

// fallBehind keeps the Redis replicas of a shard's primary from hearing it, until they
// lack something that it has acknowledged.
func (r *trial) fallBehind(s shard, primary *redistest.Server, heirs []*redistest.Server) {
	r.t.Helper()
	members := func(server *redistest.Server) map[string]string {
		c := server.Client().Conn()
		defer c.Close()
		c.ReadOnly(r.t.Context()) // else a node of a cluster refuses to read
		members, err := c.HGetAll(r.t.Context(), s.members()).Result()
		if err != nil {
			r.t.Fatalf("%s: %v", server.Addr, err)
		}
		return members
	}
	has := make([]map[string]string, len(heirs))
	for i, h := range heirs {
		h.Unfollow()
		if has[i] = members(h); len(has[i]) == 0 {
			r.t.Errorf("%s never heard the primary", h.Addr)
		}
	}
	r.last(faultTTL / 4)
	eventually(r.t, patience, func() string {
		now := members(primary)
		for i, h := range heirs {
			if maps.Equal(has[i], now) {
				return h.Addr + " lacks nothing"
			}
		}
		return ""
	})
	for i, h := range heirs {
		if now := members(h); !maps.Equal(has[i], now) {
			r.t.Errorf("%s still hears the primary: it had %v, and has %v", h.Addr, has[i], now)
		}
	}
}

func (r *trial) everywhere() (targets []int) {
	for i := range r.targets {
		targets = append(targets, i)
	}
	return targets
}

// elsewhere returns the targets that other servers count.
func (r *trial) elsewhere(primary *redistest.Server) (targets []int) {
	r.t.Helper()
	for i := range r.targets {
		if r.primaryOf(r.shardOf(i)) != primary {
			targets = append(targets, i)
		}
	}
	if r.cluster != nil && len(targets) == 0 {
		r.t.Error("all limits are on one node: another number of shards may spread them")
	}
	return targets
}

// admitted checks after the run that sessions for each of the targets began in a
// period.
func (r *trial) admitted(targets []int, during span) {
	r.atEnd = append(r.atEnd, func() {
		for _, i := range targets {
			n := len(r.truth.some(i, func(s proven) bool { return s.asked > during.from && s.from < during.until }))
			r.t.Logf("target %d: %d were admitted meanwhile", i, n)
			if n == 0 {
				r.t.Errorf("target %d: nobody was admitted meanwhile", i)
			}
		}
	})
}

// outlived checks after the run that each of the targets had a session that could relay
// before and after a period.
func (r *trial) outlived(targets []int, during span) {
	r.atEnd = append(r.atEnd, func() {
		for _, i := range targets {
			n := len(r.truth.some(i, func(s proven) bool { return s.from <= during.from && s.until >= during.until }))
			if n == 0 && !r.targets[i].halfDone {
				r.t.Errorf("target %d: no session outlived it", i)
			}
		}
	})
}
