package redisstore_test

import (
	"context"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"usher/store/redisstore/redistest"
)

// warns checks that Check says one thing about a server, or nothing.
func warns(t *testing.T, url, want string) {
	t.Helper()
	s := open(t, url, "check")
	defer s.Close()
	got, err := s.Check(patient(t))
	text := strings.Join(got, "\n")
	if err != nil || want == "" && text != "" || !strings.Contains(text, want) || len(got) > 1 {
		t.Errorf("Check: %q, %v; want %q", got, err, want)
	}
}

func TestCheckEviction(t *testing.T) {
	server := redistest.Start(t)
	for policy, want := range map[string]string{
		"noeviction":   "",
		"allkeys-lru":  server.Addr + ": maxmemory-policy is allkeys-lru: Redis may evict what is counted",
		"volatile-ttl": "maxmemory-policy is volatile-ttl: set it to noeviction",
	} {
		if err := server.Client().ConfigSet(t.Context(), "maxmemory-policy", policy).Err(); err != nil {
			t.Fatal(err)
		}
		warns(t, server.URL(), want)
	}
}

// A Redis that cannot save refuses writes. The warning's remedy,
// stop-writes-on-bgsave-error or save, helps.
func TestCheckPersistence(t *testing.T) {
	server := redistest.Start(t)
	set := func(name, value string) {
		t.Helper()
		if err := server.Client().ConfigSet(t.Context(), name, value).Err(); err != nil {
			t.Fatal(err)
		}
	}
	counts := func() error {
		server.Client().Del(t.Context(), "usher:{default:0}:m", "usher:{default:0}:t")
		return exercise(patient(t), open(t, server.URL(), "default"))
	}
	server.FailToSave()
	warns(t, server.URL(), "the last snapshot could not be saved")
	if err := counts(); err == nil || !strings.Contains(err.Error(), "MISCONF") {
		t.Errorf("counting: %v, want MISCONF", err)
	}
	for name, values := range map[string][2]string{"stop-writes-on-bgsave-error": {"no", "yes"}, "save": {"", "3600 1"}} {
		set(name, values[0])
		if err := counts(); err != nil {
			t.Errorf("with %s %q: %v", name, values[0], err)
		}
		set(name, values[1])
	}
}

func TestCheckAppendOnly(t *testing.T) {
	server := redistest.Start(t)
	if err := server.Client().ConfigSet(t.Context(), "appendonly", "yes").Err(); err != nil {
		t.Fatal(err)
	}
	redistest.Eventually(t, time.Minute, "the file is written", func() bool {
		info := server.Client().Info(t.Context(), "persistence").Val()
		return strings.Contains(info, "aof_rewrite_in_progress:0") && strings.Contains(info, "aof_rewrite_scheduled:0")
	})
	warns(t, server.URL(), "appendonly is yes")
}

func checkSentinels(t *testing.T, group *redistest.Sentinels) {
	set := func(config map[string]string) {
		for name, value := range config {
			if err := group.Primary().Client().ConfigSet(t.Context(), name, value).Err(); err != nil {
				t.Fatal(err)
			}
		}
	}
	warns(t, group.URL(), "min-replicas-to-write or min-replicas-max-lag is 0")
	set(map[string]string{"min-replicas-to-write": "1"})
	warns(t, group.URL(), "min-replicas-max-lag is 10 and down-after-milliseconds of the sentinels is 500")

	user := strings.Replace(group.URL(), "://", "://bystander:geheim@", 1)
	rules := []string{"on", ">geheim", "+info"}
	setUser(t, "bystander", rules, group.Primary())
	warns(t, user, "min-replicas-max-lag cannot be read")
	setUser(t, "bystander", append(rules, aclAddition(t, "For one more check of the settings add")...), group.Primary())
	warns(t, user, "min-replicas-max-lag is 10")

	set(map[string]string{"min-replicas-max-lag": "2"})
	group.SetDownAfter(3000)
	warns(t, group.URL(), "")
	group.SetDownAfter(500)
	set(map[string]string{"min-replicas-to-write": "0", "min-replicas-max-lag": "10"})
}

// Behind sentinels, a server may have no CONFIG, as in managed services. The check
// reports what it finds without CONFIG, and ends.
func TestCheckWithoutConfig(t *testing.T) {
	server := redistest.Start(t, "--rename-command", "CONFIG", "HIDDEN", "--maxmemory-policy", "allkeys-lru",
		"--min-replicas-to-write", "1")
	host, port, _ := net.SplitHostPort(server.Addr)
	sentinel := redistest.Loopback(t)
	redistest.Fake(t, sentinel, func(command []string) string {
		switch strings.ToUpper(strings.Join(command, " ")) {
		case "SENTINEL GET-MASTER-ADDR-BY-NAME COUNTS":
			return "*2\r\n" + redistest.Bulk(host) + redistest.Bulk(port)
		case "SENTINEL MASTER COUNTS":
			return "%2\r\n" + redistest.Bulk("config-epoch") + redistest.Bulk("1") +
				redistest.Bulk("down-after-milliseconds") + redistest.Bulk("30000")
		}
		return redistest.Ordinary(command)
	})
	s := open(t, "redis+sentinel://"+sentinel.Addr().String()+"/counts", "check")
	defer s.Close()
	got, err := s.Check(patient(t))
	text := strings.Join(got, "\n")
	if err != nil || len(got) != 2 || !strings.Contains(text, "maxmemory-policy is allkeys-lru") ||
		!strings.Contains(text, "min-replicas-max-lag cannot be read (ERR unknown command") {
		t.Errorf("%q, %v", got, err)
	}
}

// If a server cannot be asked, the findings about the others are reported all the same.
func TestCheckOfSomeServers(t *testing.T) {
	away, here := redistest.Loopback(t), redistest.Start(t, "--maxmemory-policy", "allkeys-lru")
	away.Close()
	node := redistest.Loopback(t)
	slots := "*2\r\n"
	for i, addr := range []string{away.Addr().String(), here.Addr} {
		host, port, _ := net.SplitHostPort(addr)
		slots += fmt.Sprintf("*3\r\n:%d\r\n:%d\r\n*2\r\n%s:%s\r\n", 8192*i, 8192*i+8191, redistest.Bulk(host), port)
	}
	redistest.Fake(t, node, func(command []string) string {
		switch strings.ToUpper(strings.Join(command, " ")) {
		case "CLUSTER SLOTS":
			return slots
		case "CLUSTER INFO":
			return redistest.Bulk("cluster_current_epoch:1\r\n")
		}
		return redistest.Ordinary(command)
	})
	s := open(t, "redis+cluster://"+node.Addr().String(), "check")
	defer s.Close()
	got, err := s.Check(patient(t))
	if err == nil || !strings.Contains(err.Error(), away.Addr().String()) || !strings.Contains(strings.Join(got, "\n"), "allkeys-lru") {
		t.Errorf("%q, %v", got, err)
	}
}

// checkCluster: if the cluster requires full coverage, the loss of one primary stops
// all nodes.
func checkCluster(t *testing.T, cluster *redistest.Cluster) {
	set := func(value string) {
		for _, n := range cluster.Nodes {
			if err := n.Client().ConfigSet(context.Background(), "cluster-require-full-coverage", value).Err(); err != nil {
				t.Fatal(err)
			}
		}
	}
	warns(t, cluster.URL(), "")
	set("yes")
	defer set("no")
	one := cluster.URL() + "?shards=1"
	warns(t, one, "cluster-require-full-coverage is yes")
	setUser(t, "bystander", append([]string{"on", ">geheim", "+info"}, aclAddition(t, "On a Redis Cluster add")...), cluster.Nodes...)
	warns(t, strings.Replace(one, "://", "://bystander:geheim@", 1), "cluster-require-full-coverage cannot be read (NOPERM")
}
