package redisstore_test

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"usher/deploy/need"
	"usher/limiter"
	"usher/store"
	"usher/store/limit"
	"usher/store/redisstore"
	"usher/store/redisstore/redistest"
	"usher/store/storetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(need.Summary(m)) }

// open returns a store of the test's own cluster name; the test closes it.
func open(t *testing.T, url, cluster string) *redisstore.Store {
	t.Helper()
	s, err := redisstore.Open(url, cluster, redisstore.Secrets{})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// contract runs the suite of the contract against a deployment.
func contract(t *testing.T, url string) {
	t.Helper()
	storetest.Run(t, func(t *testing.T) store.Store { return open(t, url, "test-"+rand.Text()) })
}

func TestOneServer(t *testing.T) { contract(t, redistest.Start(t).URL()) }

// TestGivenServer runs the contract on a server that runs already, such as a
// container of another version, whose URL is in USHER_TEST_STORE.
func TestGivenServer(t *testing.T) {
	url := os.Getenv("USHER_TEST_STORE")
	if url == "" {
		t.Skip("USHER_TEST_STORE names no server")
	}
	contract(t, url)
}

func TestLosses(t *testing.T) {
	server := redistest.Start(t)
	redis := server.Client()
	storetest.RunLosses(t, func(t *testing.T) (store.Store, func(string)) {
		cluster := "test-" + rand.Text()
		return open(t, server.URL(), cluster), func(key string) {
			if err := redis.Del(t.Context(), "usher:{"+cluster+":0}:"+key).Err(); err != nil {
				t.Fatal(err)
			}
		}
	})
}

// TestNothingIsLeft: counters that are back at 0 take no memory, so that old clients do
// not fill Redis.
func TestNothingIsLeft(t *testing.T) {
	for _, name := range []string{"s1", "s1/from=192.0.2.1"} {
		m := newMeter(t)
		e := store.Entry{Counter: "c1a/" + name, Max: 3, RuleMax: limit.None, Need: 2}
		m.batch(e)
		e.Need = 0
		m.batch(e)
		for _, key := range []string{"t", "r:meter"} {
			fields, err := m.server.Client().HGetAll(t.Context(), "usher:{meter:0}:"+key).Result()
			if err != nil || len(fields) != 1 {
				t.Errorf("%s of %s: %v, %v; want the epoch or the token alone", key, name, fields, err)
			}
		}
	}
}

// TestHistory: a server that was a replica for a moment may have lost acknowledged
// data, without any effect on its connections.
func TestHistory(t *testing.T) {
	server := redistest.Start(t)
	storetest.RunHistory(t, open(t, server.URL(), "test"), server.Turn)
}

func TestUnixSocket(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "s")
	redistest.Start(t, "--unixsocket", socket, "--requirepass", "geheim")
	contract(t, "unix://:geheim@"+socket+"?db=3")
}

func TestTLS(t *testing.T) {
	files := redistest.NewCertificates(t)
	server := redistest.StartTLS(t, files)
	contract(t, server.URL())

	other := redistest.NewCertificates(t)
	for name, url := range map[string]string{
		"an authority that did not sign": "rediss://" + server.Addr + "?ca=" + other.CA + "&cert=" + files.Cert + "&key=" + files.Key,
		"the system's authorities":       "rediss://" + server.Addr + "?cert=" + files.Cert + "&key=" + files.Key,
		"no certificate of our own":      "rediss://" + server.Addr + "?ca=" + files.CA,
		"another's certificate":          "rediss://" + server.Addr + "?ca=" + files.CA + "&cert=" + other.Cert + "&key=" + other.Key,
		"no TLS":                         "redis://" + server.Addr,
	} {
		if err := reach(t, url); err == nil {
			t.Errorf("%s: connected", name)
		}
	}
	if err := reach(t, "rediss://"+server.Addr+"?skip_verify=true&cert="+files.Cert+"&key="+files.Key); err != nil {
		t.Errorf("skip_verify: %v", err)
	}
}

func notWithShort(t *testing.T, why string) {
	t.Helper()
	if testing.Short() {
		t.Skip(why + ", which takes many seconds")
	}
}

func TestTLSElsewhere(t *testing.T) {
	notWithShort(t, "starts Sentinels and a Redis Cluster over TLS")
	files := redistest.NewCertificates(t)
	t.Run("sentinels", func(t *testing.T) { contract(t, redistest.StartSentinels(t, files).URL()) })
	t.Run("cluster", func(t *testing.T) { contract(t, redistest.StartCluster(t, files).URL()) })
}

// reach opens a store, and dials.
func reach(t *testing.T, url string) error {
	t.Helper()
	s := open(t, url, "reach")
	defer s.Close()
	return dial(t, s)
}

// patient returns a context for requests that find their server. Without a deadline, a
// store waits for each sentinel and node for one second only, and a busy machine may
// take longer.
func patient(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// dial dials and hangs up.
func dial(t *testing.T, s *redisstore.Store) error {
	t.Helper()
	c, err := s.Dial(patient(t), 0)
	if err == nil {
		c.Close()
	}
	return err
}

func TestSentinels(t *testing.T) {
	notWithShort(t, "starts Sentinels that fail over")
	group := redistest.StartSentinels(t)
	t.Run("contract", func(t *testing.T) { contract(t, group.URL()) })
	t.Run("publishing", func(t *testing.T) { publishing(t, group.URL()) })
	t.Run("showing cards", func(t *testing.T) { showing(t, group.URL()) })
	t.Run("check", func(t *testing.T) { checkSentinels(t, group) })
	t.Run("minimal user", func(t *testing.T) { minimalSentinelUser(t, group) })
	t.Run("another name", func(t *testing.T) {
		err := reach(t, strings.Replace(group.URL(), redistest.SentinelName, "others", 1))
		if err == nil || !strings.Contains(err.Error(), `"others"`) {
			t.Errorf("error %v", err)
		}
	})
	t.Run("planned failover", func(t *testing.T) {
		takesLong(t)
		l := startLoad(t, group.URL(), true)
		group.Failover()
		l.join() // where the others are by then, or the limit holds for each of two places
		l.join()
		l.recovers()
		l.stop()
	})
	t.Run("primary killed", func(t *testing.T) {
		takesLong(t)
		l := startLoad(t, group.URL(), false)
		old := group.Primary()
		old.Kill()
		redistest.Eventually(t, time.Minute, "another primary", func() bool { return group.Primary() != old })
		l.join()
		l.recovers()
		l.stop()
	})
	t.Run("a sentinel killed", func(t *testing.T) {
		group.Watch[0].Kill()
		if err := reach(t, group.URL()); err != nil {
			t.Error(err)
		}
	})
}

// takesLong skips a test of ten seconds with -short.
func takesLong(t *testing.T) {
	t.Helper()
	if testing.Short() {
		t.Skip("takes ten seconds: left out with -short")
	}
}

func TestCluster(t *testing.T) {
	notWithShort(t, "starts a Redis Cluster that fails over")
	cluster := redistest.StartCluster(t)
	t.Run("contract", func(t *testing.T) { contract(t, cluster.URL()) })
	t.Run("minimal user", func(t *testing.T) { minimalClusterUser(t, cluster) })
	t.Run("slots", func(t *testing.T) { slotsOfKeys(t, cluster) })
	t.Run("publishing", func(t *testing.T) { publishing(t, cluster.URL()) })
	t.Run("showing cards", func(t *testing.T) { showing(t, cluster.URL()) })
	t.Run("check", func(t *testing.T) { checkCluster(t, cluster) })
	t.Run("endpoint types", func(t *testing.T) { endpoints(t, cluster) })
	t.Run("shards are spread", func(t *testing.T) { shardsAreSpread(t, cluster) })
	t.Run("the node of the URL is gone", func(t *testing.T) {
		replica := cluster.Nodes[3] // whose end moves no slot
		s := open(t, "redis+cluster://"+replica.Addr, "gone")
		defer s.Close()
		if err := dial(t, s); err != nil {
			t.Fatal(err)
		}
		replica.Kill()
		defer replica.Start()
		if err := dial(t, s); err != nil {
			t.Errorf("the others are not asked: %v", err)
		}
	})
	slotOf := func(l *load, shard int) int { return cluster.Slot(fmt.Sprintf("{%s:%d}", l.cluster, shard)) }
	t.Run("slot migration", func(t *testing.T) {
		takesLong(t)
		l := startLoad(t, cluster.URL()+"?shards=4", true)
		slot := slotOf(l, 1)
		from := cluster.Serving(slot)
		to := cluster.Nodes[0]
		if to == from {
			to = cluster.Nodes[1]
		}
		cluster.Migrate(slot, to)
		l.join()
		l.recovers()
		l.stop()
	})
	t.Run("planned failover", func(t *testing.T) {
		takesLong(t)
		l := startLoad(t, cluster.URL()+"?shards=4", true)
		slot := slotOf(l, 1)
		cluster.Failover(cluster.Serving(slot), slot)
		l.join()
		l.recovers()
		l.stop()
	})
	t.Run("primary killed", func(t *testing.T) {
		takesLong(t)
		l := startLoad(t, cluster.URL()+"?shards=4", false)
		slot := slotOf(l, 1)
		primary := cluster.Serving(slot)
		replica := cluster.Replica(primary)
		primary.Kill()
		cluster.ServedBy(slot, replica)
		l.join()
		l.recovers()
		l.stop()
	})
	t.Run("the node of shard 0 is away", func(t *testing.T) {
		takesLong(t)
		startWithoutShardZero(t, cluster)
	})
}

func slotsOfKeys(t *testing.T, cluster *redistest.Cluster) {
	for i := range 50 {
		key := fmt.Sprintf("usher:{some cluster:%d}:m", i)
		if got, want := redisstore.SlotOf(key), cluster.Slot(key); got != want {
			t.Errorf("slot of %s: %d, the server says %d", key, got, want)
		}
	}
}

func shardsAreSpread(t *testing.T, cluster *redistest.Cluster) {
	used := map[string]int{}
	for shard := range 16 {
		used[cluster.Serving(cluster.Slot(fmt.Sprintf("{default:%d}", shard))).Addr]++
	}
	if len(used) != 3 {
		t.Errorf("16 shards on the nodes %v", used)
	}
	t.Log(used)
}

// startWithoutShardZero: running replicas continue with the rules that other nodes
// count. A new replica must first agree with the others, in shard 0, on the number of
// shards. Until then, it admits nobody by any limit.
func startWithoutShardZero(t *testing.T, cluster *redistest.Cluster) {
	name := "test-" + rand.Text()
	join := func() *limiter.Limiter {
		s := open(t, cluster.URL(), name)
		l := limiter.New(limiter.Options{Store: s, TTL: loadTTL, StoreWait: 500 * time.Millisecond})
		t.Cleanup(func() {
			over, cancel := context.WithCancel(context.Background())
			cancel()
			_ = errors.Join(l.Close(over), s.Close()) // its lease ends with the test
		})
		return l
	}
	asks := func(l *limiter.Limiter, rule int) error {
		g, err := l.Admit(t.Context(), ruleLimit(rule))
		g.Release()
		return err
	}
	old := join()
	redistest.Eventually(t, time.Minute, "the store gives out slots", func() bool { return old.Status().WasReady })
	lost := cluster.Lose(redisstore.SlotOf(fmt.Sprintf("{%s:0}", name)))
	rule := 0 // one that another node counts
	redistest.Eventually(t, time.Minute, "other nodes go on", func() bool {
		for rule = range 4 * loadRules {
			if asks(old, rule) == nil {
				return true
			}
		}
		return false
	})
	recovering := join()
	if err := asks(recovering, rule); !errors.Is(err, limiter.ErrUnavailable) {
		t.Errorf("a replica that starts while shard 0 is unreachable: %v, want unavailable", err)
	}
	redistest.Eventually(t, time.Minute, "other nodes still go on", func() bool { return asks(old, rule) == nil })
	lost.Start()
	redistest.Eventually(t, time.Minute, "shard 0 is back", func() bool { return asks(recovering, rule) == nil })
}
