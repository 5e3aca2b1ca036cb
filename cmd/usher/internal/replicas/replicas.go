// Package replicas makes this replica known to the others of its cluster, and knows
// them. It has a connection of its own to the store, so that counting never waits for
// it.
package replicas

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"usher/proxy/admin/peers"
	"usher/store/card"
)

// Options configure Replicas. All fields are required.
type Options struct {
	// Cards opens a connection to the store.
	Cards func(context.Context) (card.Conn, error)
	// Card is that of this replica. Its address is that of Advertise.
	Card      card.Card
	Advertise Advertise
	TTL       time.Duration // of leases
	// Members returns the ids of the replicas that the store counts, and whether it
	// counts this one now.
	Members func() (ids map[string]string, joined bool)
	Logger  *slog.Logger
}

// Replicas is safe for concurrent use.
type Replicas struct {
	o Options

	mu      sync.Mutex
	address string // where others reach this replica
	shown   []card.Shown
	read    time.Time // when shown was read
	failing bool
	retired string // why nobody is to ask this process any more
}

// New returns Replicas that know nobody yet.
func New(o Options) *Replicas { return &Replicas{o: o} }

// Bounds of the time between two looks at the cards.
const (
	leastPause = 250 * time.Millisecond
	mostPause  = 2 * time.Second
)

// Run shows the card until ctx ends, and withdraws it then.
func (r *Replicas) Run(ctx context.Context) {
	pause := min(max(r.o.TTL/10, leastPause), mostPause)
	tick := time.NewTicker(pause)
	defer tick.Stop()
	var conn card.Conn
	for ctx.Err() == nil {
		conn = r.show(ctx, conn)
		select {
		case <-tick.C:
		case <-ctx.Done():
		}
	}
	if conn == nil {
		return
	}
	leaving, cancel := context.WithTimeout(context.WithoutCancel(ctx), r.o.TTL/10)
	defer cancel()
	if err := conn.Withdraw(leaving, r.o.Card.Replica); err != nil {
		r.o.Logger.Debug("cannot take back the card of this replica", "error", err.Error())
	}
	conn.Close()
}

// show shows the card over conn, or over a new connection if it is nil. It returns the
// connection, nil if it is broken.
func (r *Replicas) show(ctx context.Context, conn card.Conn) card.Conn {
	ctx, cancel := context.WithTimeout(ctx, r.o.TTL/5)
	defer cancel()
	var err error
	if conn == nil {
		if conn, err = r.o.Cards(ctx); err != nil {
			r.failed(ctx, err)
			return nil
		}
	}
	mine := r.o.Card
	mine.Address, mine.Silent = r.o.Advertise.address(conn.LocalAddr())
	if why := r.whyRetired(); why != "" {
		mine.Address, mine.Silent = "", why
	}
	list, err := conn.Show(ctx, mine)
	if err != nil {
		conn.Close()
		r.failed(ctx, err)
		return nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.address, r.shown, r.read, r.failing = mine.Address, list, time.Now(), false
	return conn
}

// failed logs the first failure of several, if it is none of the store as a whole.
func (r *Replicas) failed(ctx context.Context, err error) {
	if _, joined := r.o.Members(); !joined || errors.Is(context.Cause(ctx), context.Canceled) {
		return
	}
	r.mu.Lock()
	known := r.failing
	r.failing = true
	r.mu.Unlock()
	if !known {
		r.o.Logger.Warn("cannot tell the other replicas where this one is", "error", err.Error(),
			"effect", "the status page and the API of other replicas lack its sessions; limits hold",
			"remedy", "give the user in Redis the rights that docs/redis.md names")
	}
}

// Retire makes this process one that cannot be asked any more, and says why.
func (r *Replicas) Retire(why string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.retired = why
}

func (r *Replicas) whyRetired() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.retired
}

// Address returns where other replicas reach this one, "" if they do not.
func (r *Replicas) Address() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.address
}

// Peers returns the other replicas: those that show cards, and other members of the
// store.
func (r *Replicas) Peers() (list []peers.Peer) {
	members, _ := r.o.Members()
	r.mu.Lock()
	defer r.mu.Unlock()
	known := map[string]bool{r.o.Card.Replica: true}
	for _, c := range r.shown {
		if known[c.Replica] {
			continue
		}
		known[c.Replica] = true
		_, member := members[c.Replica]
		list = append(list, peers.Peer{
			ID: c.Replica, Name: c.Name, Address: c.Address, Silent: c.Silent, Version: c.Version, Started: c.Started,
			Seen: r.read.Add(-c.Age).UTC(), Dead: !member && c.Age > r.o.TTL,
		})
	}
	for id := range members {
		if !known[id] {
			list = append(list, peers.Peer{ID: id, Silent: "the store does not tell its address: it has an older version, or may not write its card"})
		}
	}
	return list
}
