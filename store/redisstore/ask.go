package redisstore

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/redis/go-redis/v9"
)

// locator finds the primary that serves a key now.
type locator interface {
	locate(ctx context.Context, key string) (endpoint, error)
	// replaced reports whether another server is known to be the primary now.
	replaced(e endpoint) bool
	close()
}

// endpoint is the address of a primary, as a sentinel or a node gave it.
type endpoint struct {
	addr  string
	epoch uint64 // in which it was the primary: the configuration epoch of the sentinels or the cluster
}

// fixed is the one server there is.
type fixed string

func (f fixed) locate(context.Context, string) (endpoint, error) {
	return endpoint{addr: string(f)}, nil
}
func (fixed) replaced(endpoint) bool { return false }
func (fixed) close()                 {}

// peer is a server that is asked where others are: a sentinel, or a node of a
// Redis Cluster. It keeps its connection for the next question.
type peer struct {
	addr string
	open func(ctx context.Context, addr string) (*link, error)
	turn chan struct{} // holds a token while nobody asks; guards link
	link *link
}

func newPeer(addr string, open func(context.Context, string) (*link, error)) *peer {
	p := &peer{addr: addr, open: open, turn: make(chan struct{}, 1)}
	p.turn <- struct{}{}
	return p
}

// ask asks a question. It may ask twice, because a kept connection may have broken
// meanwhile. Then it opens a new one.
func (p *peer) ask(ctx context.Context, question func(context.Context, *redis.Conn) error) error {
	select {
	case <-p.turn:
	case <-ctx.Done():
		return ctx.Err()
	}
	defer func() { p.turn <- struct{}{} }()
	for {
		kept := p.link != nil
		if !kept {
			var err error
			if p.link, err = p.open(ctx, p.addr); err != nil {
				p.link = nil
				return err
			}
		}
		err := question(ctx, p.link.redis)
		if err == nil {
			return nil
		}
		p.link.Close()
		p.link = nil
		if !kept || ctx.Err() != nil {
			return err
		}
	}
}

func (p *peer) close() {
	<-p.turn
	defer func() { p.turn <- struct{}{} }()
	if p.link != nil {
		p.link.Close()
		p.link = nil
	}
}

// newest asks all peers at once and returns the answer with the highest epoch, because
// a peer that is cut off from the others gives an outdated answer. It waits for silent
// peers for half of the time until ctx ends, so that the other half is left to use the
// answer.
func newest[A any](ctx context.Context, peers []*peer, question func(context.Context, *peer, *redis.Conn) (A, uint64, error)) (A, uint64, error) {
	patience := time.Second
	if deadline, ok := ctx.Deadline(); ok {
		patience = time.Until(deadline) / 2
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	type reply struct {
		answer A
		epoch  uint64
		err    error
	}
	replies := make(chan reply, len(peers))
	errs := make([]error, len(peers)) // in the order of peers, so that the same failure has the same text
	for i, p := range peers {
		go func() { // ends within ctx, and is waited for below
			var r reply
			r.err = p.ask(ctx, func(ctx context.Context, c *redis.Conn) (err error) {
				r.answer, r.epoch, err = question(ctx, p, c)
				return err
			})
			if r.err != nil {
				errs[i] = fmt.Errorf("%s: %w", p.addr, r.err)
			}
			replies <- r
		}()
	}
	var best reply
	found := false
	for range peers {
		switch r := <-replies; {
		case r.err != nil:
		case !found || r.epoch > best.epoch:
			best, found = r, true
		}
	}
	if !found {
		return best.answer, 0, errors.Join(errs...)
	}
	return best.answer, best.epoch, nil
}
