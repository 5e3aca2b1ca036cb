package redistest

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"usher/deploy/need"
)

// Sentinels are a primary with two replicas, watched by three sentinels.
type Sentinels struct {
	Servers []*Server // the first began as the primary
	Watch   []*Server // the sentinels
	t       testing.TB
}

// SentinelName is the name that the sentinels know the primary by.
const SentinelName = "counts"

// StartSentinels starts a primary, its replicas and sentinels. It returns when the
// replicas are in sync, and all sentinels know all servers and each other. Sentinels
// take half a second of silence for a failure. With certificates, all speak TLS only.
func StartSentinels(t testing.TB, files ...Certificates) *Sentinels {
	t.Helper()
	start := Start
	if len(files) > 0 {
		start = func(t testing.TB, args ...string) *Server {
			return StartTLS(t, files[0], append(args, "--tls-replication", "yes")...)
		}
	}
	need.Program(t, "redis-sentinel")
	s := &Sentinels{t: t}
	s.Servers = append(s.Servers, start(t, "--repl-diskless-sync-delay", "0"))
	host, port, _ := net.SplitHostPort(s.Servers[0].Addr)
	for range 2 {
		s.Servers = append(s.Servers, start(t, "--replicaof", host+" "+port, "--repl-diskless-sync-delay", "0"))
	}
	// First, as sentinels look only every ten seconds for replicas.
	Eventually(t, time.Minute, "the replicas are in sync", func() bool {
		for _, server := range s.Servers[1:] {
			if !strings.Contains(server.Client().Info(context.Background(), "replication").Val(), "master_link_status:up") {
				return false
			}
		}
		return true
	})
	for range 3 {
		s.Watch = append(s.Watch, startSentinel(t, host, port, files...))
	}
	Eventually(t, time.Minute, "the sentinels know each other and the replicas", func() bool {
		for _, w := range s.Watch {
			about := s.about(w)
			if about["num-other-sentinels"] != "2" || about["num-slaves"] != "2" || about["flags"] != "master" {
				return false
			}
		}
		return true
	})
	return s
}

func startSentinel(t testing.TB, host, port string, files ...Certificates) *Server {
	t.Helper()
	addr := freeAddr(t)
	_, own, _ := net.SplitHostPort(addr)
	dir := t.TempDir()
	file := filepath.Join(dir, "sentinel.conf")
	s := &Server{Addr: addr, t: t, command: "redis-sentinel", args: []string{file}}
	listen := "port " + own
	if len(files) > 0 {
		s.tls, s.options = files[0].config(t), files[0].options()
		listen = "port 0\ntls-replication yes\ntls-port " + own +
			"\ntls-ca-cert-file " + files[0].CA + "\ntls-cert-file " + files[0].Cert + "\ntls-key-file " + files[0].Key
	}
	text := fmt.Sprintf("bind 127.0.0.1\n%[1]s\ndir %[2]s\nsentinel monitor %[3]s %[4]s %[5]s 2\n"+
		"sentinel down-after-milliseconds %[3]s 500\nsentinel failover-timeout %[3]s 1000\n", listen, dir, SentinelName, host, port)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return launch(s)
}

func (s *Sentinels) about(w *Server) map[string]string {
	c := redis.NewSentinelClient(&redis.Options{Addr: w.Addr, TLSConfig: w.tls})
	defer c.Close()
	return c.Master(context.Background(), SentinelName).Val()
}

// URL returns the address as redisstore.Open takes it.
func (s *Sentinels) URL() string {
	var addrs []string
	for _, w := range s.Watch {
		addrs = append(addrs, w.Addr)
	}
	scheme := "redis"
	if s.Watch[0].tls != nil {
		scheme = "rediss"
	}
	return scheme + "+sentinel://" + strings.Join(addrs, ",") + "/" + SentinelName + "/0" + s.Watch[0].options
}

// Primary returns the primary that all sentinels agree on.
func (s *Sentinels) Primary() *Server {
	s.t.Helper()
	var found *Server
	Eventually(s.t, time.Minute, "the sentinels agree on a primary", func() bool {
		addrs := map[string]bool{}
		for _, w := range s.Watch {
			about := s.about(w)
			addrs[net.JoinHostPort(about["ip"], about["port"])] = true
		}
		for _, server := range s.Servers {
			if addrs[server.Addr] {
				found = server
			}
		}
		return len(addrs) == 1 && found != nil
	})
	return found
}

// Failover asks a sentinel to promote a replica although the primary is well, and
// returns when all sentinels agree on the new primary.
func (s *Sentinels) Failover() {
	s.t.Helper()
	old := s.Primary()
	c := redis.NewSentinelClient(&redis.Options{Addr: s.Watch[0].Addr})
	defer c.Close()
	Eventually(s.t, time.Minute, "a sentinel begins a failover", func() bool {
		return c.Failover(context.Background(), SentinelName).Err() == nil
	})
	Eventually(s.t, time.Minute, "another primary", func() bool { return s.Primary() != old })
}

// SetDownAfter sets after how many milliseconds of silence the sentinels take a server
// for failed.
func (s *Sentinels) SetDownAfter(ms int) {
	s.t.Helper()
	for _, w := range s.Watch {
		c := redis.NewSentinelClient(&redis.Options{Addr: w.Addr, TLSConfig: w.tls})
		err := c.Set(context.Background(), SentinelName, "down-after-milliseconds", fmt.Sprint(ms)).Err()
		c.Close()
		if err != nil {
			s.t.Fatal(err)
		}
	}
}
