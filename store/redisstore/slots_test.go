package redisstore_test

import (
	"context"
	"fmt"
	"net"
	"strings"
	"testing"

	"usher/store/redisstore/redistest"
)

// endpoints makes a real cluster name its nodes in each possible way.
func endpoints(t *testing.T, cluster *redistest.Cluster) {
	set := func(name, value string) {
		t.Helper()
		for _, n := range cluster.Nodes {
			if err := n.Client().ConfigSet(context.Background(), name, value).Err(); err != nil {
				t.Fatal(err)
			}
		}
	}
	defer set("cluster-preferred-endpoint-type", "ip")
	for _, kind := range []string{"ip", "unknown-endpoint", "hostname"} {
		for _, name := range []string{"", "localhost"} {
			set("cluster-preferred-endpoint-type", kind)
			set("cluster-announce-hostname", name)
			for _, options := range []string{"?protocol=2", "?protocol=3"} {
				reachAll(t, cluster.URL()+options)
			}
		}
	}
	set("cluster-announce-hostname", "")
}

// reachAll dials all shards.
func reachAll(t *testing.T, url string) {
	t.Helper()
	s := open(t, url, "endpoints")
	defer s.Close()
	for shard := range s.Shards() {
		c, err := s.Dial(patient(t), shard)
		if err != nil {
			t.Errorf("%s, shard %d: %v", url, shard, err)
			continue
		}
		c.Close()
	}
}

// TestClusterOverIPv6: one node does not know its address, another one gives an IPv6
// address.
func TestClusterOverIPv6(t *testing.T) {
	if l, err := net.Listen("tcp", "[::1]:0"); err != nil {
		t.Skip("this machine has no IPv6:", err)
	} else {
		l.Close()
	}
	server := redistest.StartNode(t, "--bind", "127.0.0.1 ::1")
	_, port, _ := net.SplitHostPort(server.Addr)
	for _, ip := range []string{"", "::1"} {
		if err := server.Client().ConfigSet(t.Context(), "cluster-announce-ip", ip).Err(); err != nil {
			t.Fatal(err)
		}
		reachAll(t, "redis+cluster://[::1]:"+port)
	}
}

// Answers to CLUSTER SLOTS that its documentation allows, and some that it does not.
func TestAnswersToClusterSlots(t *testing.T) {
	const id = "$2\r\nid\r\n"
	for name, c := range map[string]struct {
		slots string // of the only range, from 0 to 16383; PORT is where the node is
		want  string // in the error, "" if the node is reached
	}{
		"two fields":             {"*2\r\n$9\r\n127.0.0.1\r\n:PORT\r\n", ""},
		"more than four":         {"*6\r\n$9\r\n127.0.0.1\r\n:PORT\r\n" + id + "*0\r\n+new\r\n*1\r\n:1\r\n", ""},
		"null":                   {"*4\r\n$-1\r\n:PORT\r\n" + id + "*2\r\n$2\r\nip\r\n$9\r\n192.0.2.1\r\n", ""},
		"null of RESP3":          {"*4\r\n_\r\n:PORT\r\n" + id + "%0\r\n", ""},
		"empty":                  {"*3\r\n$0\r\n\r\n:PORT\r\n" + id, ""},
		"no name, an address":    {"*4\r\n$1\r\n?\r\n:PORT\r\n" + id + "*2\r\n$2\r\nip\r\n$9\r\n127.0.0.1\r\n", ""},
		"the same of RESP3":      {"*4\r\n$1\r\n?\r\n:PORT\r\n" + id + "%2\r\n+x\r\n+y\r\n$2\r\nip\r\n$9\r\n127.0.0.1\r\n", ""},
		"no name and no address": {"*4\r\n$1\r\n?\r\n:PORT\r\n" + id + "*0\r\n", ""},
		"no port":                {"*3\r\n$9\r\n127.0.0.1\r\n:0\r\n" + id, "knows no node that serves slot"},
		"a port too high":        {"*3\r\n$9\r\n127.0.0.1\r\n:65536\r\n" + id, "the answer to CLUSTER SLOTS is malformed"},
		"a number for a host":    {"*3\r\n:1\r\n:PORT\r\n" + id, "the answer to CLUSTER SLOTS is malformed"},
		"one field":              {"*1\r\n$9\r\n127.0.0.1\r\n", "the answer to CLUSTER SLOTS is malformed"},
		"a text":                 {"+node\r\n", "the answer to CLUSTER SLOTS is malformed"},
		"an error":               {"-ERR no\r\n", "the answer to CLUSTER SLOTS is malformed"},
	} {
		l := redistest.Loopback(t)
		_, port, _ := net.SplitHostPort(l.Addr().String())
		answer := "*1\r\n*3\r\n:0\r\n:16383\r\n" + strings.ReplaceAll(c.slots, "PORT", port)
		redistest.Fake(t, l, func(command []string) string {
			switch strings.ToUpper(strings.Join(command, " ")) {
			case "CLUSTER SLOTS":
				return answer
			case "CLUSTER INFO":
				return redistest.Bulk("cluster_current_epoch:1\r\n")
			}
			return redistest.Ordinary(command)
		})
		err := reach(t, "redis+cluster://"+l.Addr().String())
		if (err == nil) != (c.want == "") || !strings.Contains(fmt.Sprint(err), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
}
