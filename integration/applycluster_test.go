package integration

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"usher/store/redisstore/redistest"
)

// TestApplyToAReplicaWithoutTheShardOfTheRules: on a Redis Cluster, a replica may reach
// the shards that count its limits, but not the one that has the rules. When apply has
// returned, the replica admits nobody by an older rule with a limit, in any shard.
func TestApplyToAReplicaWithoutTheShardOfTheRules(t *testing.T) {
	cluster := redistest.StartCluster(t)
	do := func(n *redistest.Server, args ...any) {
		t.Helper()
		if err := n.Client().Do(context.Background(), args...).Err(); err != nil {
			t.Fatal(err)
		}
	}
	for _, n := range cluster.Nodes {
		do(n, "ACL", "SETUSER", "far", "on", ">secret", "~*", "&*", "+@all")
	}
	near := cluster.URL() + "?shards=5"
	far := strings.Replace(near, "://", "://far:secret@", 1)

	var limited []*echo
	for range 8 { // some of them are counted elsewhere
		limited = append(limited, startEcho(t))
	}
	free := startEcho(t)
	rules := func(verdict, limit string) string {
		text := "client pass { from: 0/0 to: 0/0 }\n"
		for _, e := range limited {
			text += fmt.Sprintf("socks %s { from: 0/0 to: %s\n%s }\n", verdict, e.endpoint().to(), limit)
		}
		return text + fmt.Sprintf("socks pass { from: 0/0 to: %s }\n", free.endpoint().to())
	}
	dir := t.TempDir()
	old, next := filepath.Join(dir, "old.conf"), filepath.Join(dir, "next.conf")
	writeFile(t, old, rules("pass", "session.max: 2"))
	writeFile(t, next, rules("block", ""))
	if code, said := verb(t, near, "apply", old); code != 0 {
		t.Fatal(said)
	}
	replicas := followingWith(t, "1s", near, far)
	replies := func() (all []int) {
		c := client{proxy: replicas[1].socks}
		for _, e := range limited {
			a := c.connect(e.endpoint().String())
			if a.err == nil && a.reply == granted {
				a.Close()
			}
			all = append(all, a.reply)
		}
		return all
	}
	eventually(t, patience, allAre(granted, replies))

	rulesAt := cluster.Serving(cluster.Slot("{default:0}"))
	do(rulesAt, "ACL", "SETUSER", "far", "off")
	do(rulesAt, "CLIENT", "KILL", "USER", "far")
	code, said := verb(t, near, "apply", "--wait", "60s", next)
	if code != 1 || !strings.Contains(said, "web2 is gone") {
		t.Fatalf("exit code %d\n%s", code, said)
	}
	if all := replies(); slices.Contains(all, granted) {
		t.Errorf("admitted by older rules: replies %v", all)
	}
	client{proxy: replicas[1].socks}.ask(t, 1, free.endpoint().String()).want(t, 1, notAllowed) // it goes on

	do(rulesAt, "ACL", "SETUSER", "far", "on")
	eventually(t, patience, allAre(notAllowed, replies))
	if code, said := verb(t, near, "rollback"); code != 0 || !strings.Contains(said, "generation 3 is in force on 2 replicas") {
		t.Errorf("exit code %d\n%s", code, said)
	}
}

// allAre returns a function that returns "" if each of the replies is want, and else says
// which ones there are.
func allAre(want int, replies func() []int) func() string {
	return func() string {
		all := replies()
		if slices.ContainsFunc(all, func(r int) bool { return r != want }) {
			return fmt.Sprint("replies ", all)
		}
		return ""
	}
}
