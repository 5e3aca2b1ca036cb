package proxy_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"usher/limiter"
	"usher/proxy"
	"usher/proxy/socks"
	"usher/store"
	"usher/store/memstore"
)

// gated is a store whose batches wait while the gate is shut.
type gated struct {
	*memstore.Store
	gate *gate
}

type gate struct {
	shut        chan struct{} // holds a token while it is shut
	asked, open chan struct{}
}

func (g *gated) Dial(ctx context.Context, shard int) (store.Conn, error) {
	conn, err := g.Store.Dial(ctx, shard)
	return gatedConn{conn, g.gate}, err
}

type gatedConn struct {
	store.Conn
	gate *gate
}

func (c gatedConn) Batch(ctx context.Context, b store.Batch) (store.BatchReply, error) {
	select {
	case <-c.gate.shut:
		close(c.gate.asked)
		<-c.gate.open
	default:
	}
	return c.Conn.Batch(ctx, b)
}

// A session that waits for a slot of a pool while the number is lowered is admitted by
// the new number, although the store has admitted it by the old one.
func TestPoolNumberLoweredBeforeTheAnswer(t *testing.T) {
	const (
		in     = "session.pool: one\nsession.max: %d\n"
		both   = "client pass { from: 0/0 to: 0/0\n" + in + "}\nsocks pass { from: 0/0 to: 0/0\n" + in + "}\n"
		second = "client pass { from: 0/0 to: 0/0 }\nsocks pass { from: 0/0 to: 0/0\n" + in + "}\n"
	)
	for name, before := range map[string]string{"client-rule": fmt.Sprintf(both, 2, 2), "socks-rule": fmt.Sprintf(second, 2)} {
		t.Run(name, func(t *testing.T) {
			to := echo(t)
			g := &gate{make(chan struct{}, 1), make(chan struct{}), make(chan struct{})}
			st := &gated{memstore.New(), g}
			slow := limiter.New(limiter.Options{Store: st, TTL: time.Hour, StoreWait: patience})
			t.Cleanup(func() {
				over, cancel := context.WithTimeout(context.Background(), patience)
				defer cancel()
				if err := slow.Close(over); err != nil {
					t.Error(err)
				}
			})
			w := newWorld(t, before, func(o *proxy.Options, _ *proxy.Policy) { o.Limiter = slow })
			first := w.client()
			first.connect(to, socks.Succeeded)
			g.shut <- struct{}{}
			answer := make(chan bool, 1)
			go func() {
				c := w.client()
				defer c.Close()
				_ = socks.WriteGreeting(c, socks.NoAuth)
				_ = socks.WriteRequest(c, socks.Request{Version: socks.V5, Command: socks.Connect, Addr: to})
				var head [4]byte
				_, err := c.Read(head[:2])
				if err == nil {
					_, err = c.Read(head[2:])
				}
				answer <- err == nil && head[3] == byte(socks.Succeeded)
			}()
			<-g.asked
			w.replace(2, fmt.Sprintf(both, 1, 1))
			close(g.open)
			if <-answer {
				t.Error("two sessions in a pool of one")
			}
			first.echoes("nobody is ended")
		})
	}
}
