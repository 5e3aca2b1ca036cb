package redisstore

import (
	"context"
	"encoding/json"
	"net"
	"time"

	"usher/store/card"
)

// Connections to the first shard also serve cards of replicas.
var _ card.Conn = (*conn)(nil)

// Cards opens a connection to the cards of the replicas.
func (s *Store) Cards(ctx context.Context) (card.Conn, error) {
	c, err := s.Dial(ctx, 0)
	if err != nil {
		return nil, err
	}
	return c.(*conn), nil
}

// Show implements card.Conn.
func (c *conn) Show(ctx context.Context, mine card.Card) (list []card.Shown, err error) {
	defer show(&err)
	text, err := json.Marshal(mine)
	if err != nil {
		return nil, err
	}
	reply, err := c.send(ctx, c.scripts.show, []string{c.keys.cards()}, []any{mine.Replica, text, card.Keep.Milliseconds()})
	if err != nil {
		return nil, err
	}
	r := read(reply)
	for len(r.rest) > 0 && r.err == nil {
		one := card.Shown{Age: time.Duration(r.int()) * time.Millisecond}
		if err := json.Unmarshal([]byte(r.text()), &one.Card); err == nil {
			list = append(list, one)
		}
	}
	return list, r.err
}

// Withdraw implements card.Conn.
func (c *conn) Withdraw(ctx context.Context, replica string) (err error) {
	defer show(&err)
	if err := c.checkPrimary(); err != nil {
		return err
	}
	return classify(c.redis.HDel(ctx, c.keys.cards(), replica).Err())
}

// LocalAddr implements card.Conn.
func (c *conn) LocalAddr() net.Addr { return c.net.LocalAddr() }
