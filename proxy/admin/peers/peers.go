// Package peers answers the questions of the API for all replicas of a cluster: it asks
// the others, and puts their answers together with that of its own replica.
package peers

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"time"

	"usher/proxy/admin/api"
)

// Peer is another replica of the cluster.
type Peer struct {
	ID      string // in the store
	Name    string // "": not known
	Address string // of its admin listener; "": nobody can ask it
	Silent  string // why nobody can ask it
	Version string
	Started time.Time
	Seen    time.Time // when it last showed itself in the store
	Dead    bool      // its lease has ended
}

// title names a peer for people.
func (p Peer) title() string {
	if p.Name != "" {
		return p.Name
	}
	return p.ID
}

// Bounds of the requests to peers.
const (
	Timeout     = time.Second            // for an answer, where nothing else is said
	deadTimeout = 250 * time.Millisecond // for one of a replica whose lease has ended
	drainTime   = 6 * time.Second        // for one that has to wait for the main loop
	together    = 8                      // questions of clients that are passed on at a time
)

// Options configure a Cluster. All fields are required. The functions are called
// concurrently.
type Options struct {
	Local api.Source    // this replica alone
	Peers func() []Peer // in any order
	// Ask returns a client that asks this peer alone. The Cluster sets its Timeout.
	Ask func(Peer) *api.Client
}

// Cluster answers for all replicas. It is safe for concurrent use.
type Cluster struct {
	o       Options
	timeout time.Duration // for an answer
	turn    chan struct{} // has a token for each question that is passed on
}

var _ api.Source = (*Cluster)(nil)

// New returns a Cluster.
func New(o Options) *Cluster {
	return &Cluster{o: o, timeout: Timeout, turn: make(chan struct{}, together)}
}

// within returns the same cluster with another time for an answer.
func (c *Cluster) within(timeout time.Duration) *Cluster {
	return &Cluster{o: c.o, timeout: timeout, turn: c.turn}
}

// outcome is what a peer has answered.
type outcome[T any] struct {
	peer   Peer
	answer T
	err    error
}

// ask asks all peers that are wanted at the same time, and calls own meanwhile. It returns
// one outcome for each peer that was not replaced, ordered by name and id.
func ask[T any](ctx context.Context, c *Cluster, wanted func(Peer) bool, own func(), question func(context.Context, *api.Client) (T, error)) []outcome[T] {
	list := slices.DeleteFunc(slices.Clone(c.o.Peers()), func(p Peer) bool { return !wanted(p) })
	slices.SortFunc(list, func(a, b Peer) int { return strings.Compare(a.title()+" "+a.ID, b.title()+" "+b.ID) })
	out := make([]outcome[T], len(list))
	release := c.takeTurn(ctx)
	defer release()
	var all sync.WaitGroup
	all.Go(own)
	for i, p := range list {
		out[i].peer = p
		all.Go(func() { out[i].answer, out[i].err = askOne(ctx, c, p, question) })
	}
	all.Wait()
	return slices.DeleteFunc(out, func(o outcome[T]) bool { return replaced(o.peer, o.err) })
}

// takeTurn waits until few other questions are passed on, or ctx ends.
func (c *Cluster) takeTurn(ctx context.Context) (release func()) {
	select {
	case c.turn <- struct{}{}:
		return func() { <-c.turn }
	case <-ctx.Done(): // then no peer answers
		return func() {}
	}
}

func askOne[T any](ctx context.Context, c *Cluster, p Peer, question func(context.Context, *api.Client) (T, error)) (answer T, err error) {
	if p.Address == "" {
		return answer, errors.New(p.Silent)
	}
	timeout := c.timeout
	if p.Dead {
		timeout = deadTimeout
	}
	ctx, cancel := context.WithTimeoutCause(ctx, timeout, errors.New("no answer within "+timeout.String()))
	defer cancel()
	at := c.o.Ask(p)
	at.Timeout = 2 * timeout // ctx ends first, and says why
	answer, err = question(ctx, at)
	if err != nil && ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	return answer, err
}

func everybody(Peer) bool { return true }

// named returns what wants the peer of this name, and those whose name is not known. ""
// is every name.
func named(replica string) func(Peer) bool {
	return func(p Peer) bool { return replica == "" || p.Name == "" || p.Name == replica }
}

// missing lists the peers that have not answered. A replica whose lease has ended and
// whose listener is closed has no sessions, so nothing of it is missing.
func missing[T any](list []outcome[T]) []api.Missing {
	out := []api.Missing{}
	for _, o := range list {
		if o.err == nil || o.peer.Dead && gone(o.err) {
			continue
		}
		out = append(out, api.Missing{Replica: o.peer.title(), Address: o.peer.Address, Error: o.err.Error()})
	}
	return out
}

// Sessions implements api.Source.
func (c *Cluster) Sessions(ctx context.Context, q api.Query) api.Sessions {
	all := q
	all.Offset, all.Limit = 0, q.Offset+q.Limit
	var a api.Sessions
	found := ask(ctx, c, named(q.Replica), func() { a = c.o.Local.Sessions(ctx, all) }, func(ctx context.Context, at *api.Client) (api.Sessions, error) { return at.Sessions(ctx, all) })
	for _, o := range found {
		if o.err == nil {
			a.Total += o.answer.Total
			a.Sessions = append(a.Sessions, o.answer.Sessions...)
		}
	}
	a.Offset, a.Missing = q.Offset, missing(found)
	a.Sessions, _ = q.PickSessions(a.Sessions)
	return a
}

// Refusals implements api.Source.
func (c *Cluster) Refusals(ctx context.Context, q api.Query) api.Refusals {
	all := q
	all.Offset, all.Limit = 0, q.Offset+q.Limit
	var a api.Refusals
	found := ask(ctx, c, named(q.Replica), func() { a = c.o.Local.Refusals(ctx, all) }, func(ctx context.Context, at *api.Client) (api.Refusals, error) { return at.Refusals(ctx, all) })
	for _, o := range found {
		if o.err == nil {
			a.Total += o.answer.Total
			a.Refusals = append(a.Refusals, o.answer.Refusals...)
		}
	}
	a.Offset, a.Missing = q.Offset, missing(found)
	a.Refusals, _ = q.PickRefusals(a.Refusals)
	return a
}
