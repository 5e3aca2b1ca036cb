package redisstore

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/redis/go-redis/v9"
)

// nodes locate the primary of a slot in a Redis Cluster. The nodes of the URL
// are asked, and if none of them answers, those that were seen last.
type nodes struct {
	seeds []*peer
	open  func(ctx context.Context, addr string) (*link, error)

	mu   sync.Mutex
	seen map[string]*peer
}

func newNodes(l *location) *nodes {
	n := &nodes{seen: map[string]*peer{}}
	n.open = func(ctx context.Context, addr string) (*link, error) { return l.connect(ctx, addr, l.login, 0) }
	for _, h := range l.hosts {
		n.seeds = append(n.seeds, newPeer(h, n.open))
	}
	return n
}

func (n *nodes) locate(ctx context.Context, key string) (endpoint, error) {
	slot := slotOf(key)
	p, err := n.askAll(ctx, n.seeds, slot)
	if others := n.remembered(); err != nil && ctx.Err() == nil && len(others) > 0 {
		p, err = n.askAll(ctx, others, slot)
	}
	if err != nil {
		return endpoint{}, fmt.Errorf("no node of the cluster knows the primary of slot %d: %w", slot, err)
	}
	return p, nil
}

// askAll orders the answers by the cluster's epoch, which each change of
// who serves a slot raises.
func (n *nodes) askAll(ctx context.Context, peers []*peer, slot int) (endpoint, error) {
	addr, epoch, err := newest(ctx, peers, func(ctx context.Context, p *peer, c *redis.Conn) (string, uint64, error) {
		var info *redis.StringCmd
		slots := redis.NewSliceCmd(ctx, "CLUSTER", "SLOTS") // the library's own reader fails at a null
		_, err := c.Pipelined(ctx, func(p redis.Pipeliner) error {
			info = p.ClusterInfo(ctx)
			return p.Process(ctx, slots)
		})
		if err != nil {
			return "", 0, err
		}
		epoch, err := strconv.ParseUint(infoField(info.Val(), "cluster_current_epoch"), 10, 64)
		if err != nil {
			return "", 0, fmt.Errorf("the cluster's epoch: %w", err)
		}
		ranges, err := readSlots(slots.Val(), p.addr)
		if err != nil {
			return "", 0, err
		}
		addr := n.find(ranges, slot)
		if addr == "" {
			return "", 0, fmt.Errorf("knows no node that serves slot %d", slot)
		}
		return addr, epoch, nil
	})
	return endpoint{addr, epoch}, err
}

// find returns the primary of a slot, and remembers all primaries.
func (n *nodes) find(ranges []slotRange, slot int) (addr string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, r := range ranges {
		if n.seen[r.primary] == nil {
			n.seen[r.primary] = newPeer(r.primary, n.open)
		}
		if r.first <= int64(slot) && int64(slot) <= r.last {
			addr = r.primary
		}
	}
	return addr
}

func (n *nodes) remembered() (peers []*peer) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, p := range n.seen {
		peers = append(peers, p)
	}
	slices.SortFunc(peers, func(a, b *peer) int { return strings.Compare(a.addr, b.addr) })
	return peers
}

// replaced is not needed: a node that no longer serves a slot refuses requests for it,
// and a node that is cut off from the others stops serving.
func (*nodes) replaced(endpoint) bool { return false }

func (n *nodes) close() {
	for _, p := range append(n.remembered(), n.seeds...) {
		p.close()
	}
}

// slotOf returns the slot of a key with a hash tag: CRC16 (XMODEM) of what is
// between the braces, modulo 16384 (Redis Cluster specification, "Keys hash tags").
func slotOf(key string) int {
	_, rest, _ := strings.Cut(key, "{")
	tag, _, _ := strings.Cut(rest, "}")
	var crc uint16
	for _, b := range []byte(tag) {
		crc ^= uint16(b) << 8
		for range 8 {
			if crc&0x8000 != 0 {
				crc = crc<<1 ^ 0x1021
			} else {
				crc <<= 1
			}
		}
	}
	return int(crc % 16384)
}
