package redisstore

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"usher/store/redisstore/redistest"
)

// The answer with the highest epoch wins, even if it comes last, because a node that is
// cut off from the others may be the fastest.
func TestNewestAnswerWins(t *testing.T) {
	old, current := redistest.Start(t), redistest.Start(t)
	var peers []*peer
	for i, server := range []*redistest.Server{old, current} {
		l, err := parseURL(server.URL())
		if err != nil {
			t.Fatal(err)
		}
		if err := server.Client().Set(t.Context(), "epoch", i+1, 0).Err(); err != nil {
			t.Fatal(err)
		}
		p := newPeer(server.Addr, func(ctx context.Context, addr string) (*link, error) { return l.connect(ctx, addr, l.login, 0) })
		t.Cleanup(p.close)
		peers = append(peers, p)
	}
	for _, late := range []*redistest.Server{current, old} {
		if err := late.Client().ClientPause(t.Context(), 300*time.Millisecond).Err(); err != nil {
			t.Fatal(err)
		}
		// The late one has half of this time.
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		addr, epoch, err := newest(ctx, peers, func(ctx context.Context, p *peer, c *redis.Conn) (string, uint64, error) {
			epoch, err := c.Get(ctx, "epoch").Uint64()
			return p.addr, epoch, err
		})
		if addr != current.Addr || epoch != 2 || err != nil {
			t.Errorf("%s, epoch %d, %v; want %s", addr, epoch, err, current.Addr)
		}
	}
}

// While nobody answers, the failure has the same text each time: it is logged if it is
// new.
func TestSameFailureSameText(t *testing.T) {
	l, err := parseURL("redis+cluster://127.9.9.1:1,127.9.9.2:1,127.9.9.3:1")
	if err != nil {
		t.Fatal(err)
	}
	n := newNodes(l)
	t.Cleanup(n.close)
	for i := range 4 {
		addr := fmt.Sprintf("127.9.8.%d:1", i)
		n.seen[addr] = newPeer(addr, n.open)
	}
	_, first := n.locate(t.Context(), "usher:{default:0}:g")
	if first == nil {
		t.Fatal("somebody answers")
	}
	for range 100 {
		if _, err := n.locate(t.Context(), "usher:{default:0}:g"); err == nil || err.Error() != first.Error() {
			t.Fatalf("first %v\nthen %v", first, err)
		}
	}
}
