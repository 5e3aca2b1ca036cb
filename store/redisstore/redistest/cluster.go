package redistest

import (
	"context"
	"net"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
)

// Cluster is a Redis Cluster of three primaries with a replica each.
type Cluster struct {
	Nodes []*Server // three that began as primaries, then the replica of each
	t     testing.TB
}

// slots is how many slots a Redis Cluster has.
const slots = 16384

// StartCluster starts a cluster, and returns when all nodes agree that it is complete.
// Nodes take a second of silence for a failure. With certificates, the nodes speak TLS
// only, also to each other.
func StartCluster(t testing.TB, files ...Certificates) *Cluster {
	t.Helper()
	start := Start
	if len(files) > 0 {
		start = func(t testing.TB, args ...string) *Server {
			return StartTLS(t, files[0], append(args, "--tls-cluster", "yes", "--tls-replication", "yes")...)
		}
	}
	c := &Cluster{t: t}
	var bus []string
	for i := range 6 {
		_, port, _ := net.SplitHostPort(freeAddr(t))
		bus = append(bus, port)
		c.Nodes = append(c.Nodes, start(t, "--cluster-enabled", "yes", "--cluster-port", bus[i], "--cluster-node-timeout", "1000",
			"--cluster-require-full-coverage", "no", "--repl-diskless-sync-delay", "0",
			"--repl-ping-replica-period", "1")) // a replica that has received nothing is not on the list
	}
	ctx := context.Background()
	for i, n := range c.Nodes {
		client := n.Client()
		c.must(client.Do(ctx, "CLUSTER", "SET-CONFIG-EPOCH", i+1).Err())
		if i < 3 {
			c.must(client.ClusterAddSlotsRange(ctx, slots*i/3, slots*(i+1)/3-1).Err())
		}
		for j := range i { // gossip would do, but takes its time
			host, port, _ := net.SplitHostPort(c.Nodes[j].Addr)
			c.must(client.Do(ctx, "CLUSTER", "MEET", host, port, bus[j]).Err())
		}
	}
	for i, n := range c.Nodes[3:] {
		id := c.id(c.Nodes[i])
		Eventually(t, time.Minute, "a replica follows its primary", func() bool {
			return n.Client().ClusterReplicate(ctx, id).Err() == nil
		})
	}
	Eventually(t, time.Minute, "the cluster is whole", func() bool {
		for _, n := range c.Nodes {
			if !c.whole(n.Client()) {
				return false
			}
		}
		return true
	})
	return c
}

// StartNode starts a Redis Cluster of one node, and returns when it serves.
func StartNode(t testing.TB, args ...string) *Server {
	t.Helper()
	_, bus, _ := net.SplitHostPort(freeAddr(t)) // by default it is the port plus 10000, which others may have
	n := Start(t, append(args, "--cluster-enabled", "yes", "--cluster-port", bus)...)
	ctx, client := context.Background(), n.Client()
	if err := client.ClusterAddSlotsRange(ctx, 0, slots-1).Err(); err != nil {
		t.Fatal(err)
	}
	Eventually(t, time.Minute, "the cluster serves", func() bool {
		return strings.Contains(client.ClusterInfo(ctx).Val(), "cluster_state:ok")
	})
	return n
}

// slotRanges returns which node serves which slots by a node's answer, or nothing if
// the node does not answer.
func slotRanges(client *redis.Client) []redis.ClusterSlot {
	return client.ClusterSlots(context.Background()).Val() //nolint:staticcheck // CLUSTER SHARDS, its successor, is not on older servers; the store asks like this
}

// whole: all slots are served, and each primary has a replica that is in sync.
func (c *Cluster) whole(client *redis.Client) bool {
	ctx := context.Background()
	ranges := slotRanges(client)
	if len(ranges) != 3 || !strings.Contains(client.ClusterInfo(ctx).Val(), "cluster_state:ok") {
		return false
	}
	for _, r := range ranges {
		if len(r.Nodes) != 2 {
			return false
		}
	}
	replication := client.Info(ctx, "replication").Val()
	return strings.Contains(replication, "role:master") || strings.Contains(replication, "master_link_status:up")
}

func (c *Cluster) must(err error) {
	c.t.Helper()
	if err != nil {
		c.t.Fatal(err)
	}
}

func (c *Cluster) id(n *Server) string {
	c.t.Helper()
	id, err := n.Client().Do(context.Background(), "CLUSTER", "MYID").Text()
	c.must(err)
	return id
}

// URL returns the address as redisstore.Open takes it.
func (c *Cluster) URL() string {
	scheme := "redis"
	if c.Nodes[0].tls != nil {
		scheme = "rediss"
	}
	return scheme + "+cluster://" + c.Nodes[0].Addr + "," + c.Nodes[1].Addr + "," + c.Nodes[2].Addr + c.Nodes[0].options
}

// Serving returns the node that serves a slot, by the answer of the first node that
// answers.
func (c *Cluster) Serving(slot int) *Server {
	c.t.Helper()
	for _, n := range c.Nodes {
		if n.cmd == nil {
			continue
		}
		for _, r := range slotRanges(n.Client()) {
			for _, server := range c.Nodes {
				if r.Start <= slot && slot <= r.End && len(r.Nodes) > 0 && r.Nodes[0].Addr == server.Addr {
					return server
				}
			}
		}
	}
	c.t.Fatalf("no node serves slot %d", slot)
	return nil
}

// Migrate moves a slot with its keys to another node, as redis-cli does.
func (c *Cluster) Migrate(slot int, to *Server) {
	c.t.Helper()
	ctx := context.Background()
	from := c.Serving(slot)
	source, target := from.Client(), to.Client()
	c.must(target.Do(ctx, "CLUSTER", "SETSLOT", slot, "IMPORTING", c.id(from)).Err())
	c.must(source.Do(ctx, "CLUSTER", "SETSLOT", slot, "MIGRATING", c.id(to)).Err())
	host, port, _ := net.SplitHostPort(to.Addr)
	for {
		keys, err := source.ClusterGetKeysInSlot(ctx, slot, 100).Result()
		c.must(err)
		if len(keys) == 0 {
			break
		}
		for _, k := range keys { // one at a time: the others are still served here
			c.must(source.Migrate(ctx, host, port, k, 0, 5*time.Second).Err())
		}
	}
	for _, client := range []*redis.Client{target, source} {
		c.must(client.Do(ctx, "CLUSTER", "SETSLOT", slot, "NODE", c.id(to)).Err())
	}
}

// Slot returns the slot of a key.
func (c *Cluster) Slot(key string) int {
	c.t.Helper()
	n, err := c.Nodes[0].Client().ClusterKeySlot(context.Background(), key).Result()
	c.must(err)
	return int(n)
}

// Replica returns the replica of a primary, once it is in sync.
func (c *Cluster) Replica(primary *Server) *Server {
	c.t.Helper()
	var found *Server
	Eventually(c.t, time.Minute, "a replica of "+primary.Addr+" in sync", func() bool {
		for _, n := range c.Nodes {
			if n.cmd == nil {
				continue
			}
			text := n.Client().Info(context.Background(), "replication").Val()
			if follows(text, primary) && strings.Contains(text, "master_link_status:up") {
				found = n
			}
		}
		return found != nil
	})
	return found
}

// follows reports whether a node with this replication info is a replica of primary.
func follows(replication string, primary *Server) bool {
	_, port, _ := net.SplitHostPort(primary.Addr)
	return strings.Contains(replication, "master_port:"+port+"\r")
}

// Lose kills the node that serves a slot, and first those that could take over. It
// returns the node. Until the node is started again, nobody serves the slot.
func (c *Cluster) Lose(slot int) *Server {
	c.t.Helper()
	primary := c.Serving(slot)
	for _, n := range c.Nodes {
		if n.cmd != nil && follows(n.Client().Info(context.Background(), "replication").Val(), primary) {
			n.Kill()
		}
	}
	primary.Kill()
	return primary
}

// Failover promotes the replica of a primary although both are well.
func (c *Cluster) Failover(primary *Server, slot int) {
	c.t.Helper()
	replica := c.Replica(primary)
	var asked time.Time
	Eventually(c.t, time.Minute, "the replica takes over", func() bool {
		if time.Since(asked) > 2*time.Second { // others may have refused: they had not heard of the last change
			asked = time.Now()
			c.must(replica.Client().ClusterFailover(context.Background()).Err())
		}
		return c.serves(replica, slot)
	})
}

// ServedBy waits until a node serves a slot.
func (c *Cluster) ServedBy(slot int, n *Server) {
	c.t.Helper()
	Eventually(c.t, time.Minute, n.Addr+" serves slot "+strconv.Itoa(slot), func() bool { return c.serves(n, slot) })
}

// serves reports whether a node says that it serves a slot.
func (c *Cluster) serves(n *Server, slot int) bool {
	for _, r := range slotRanges(n.Client()) {
		if r.Start <= slot && slot <= r.End && len(r.Nodes) > 0 && r.Nodes[0].Addr == n.Addr {
			return true
		}
	}
	return false
}
