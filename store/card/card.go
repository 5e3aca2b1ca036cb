// Package card defines how the replicas of a cluster make themselves known to each
// other: each shows a card in the store, again and again.
package card

import (
	"context"
	"net"
	"time"
)

// Keep is how long the store keeps a card that is not shown again. It is longer than a
// lease, so that a dead replica is not forgotten at once.
const Keep = 10 * time.Minute

// Card is what a replica tells about itself.
type Card struct {
	Replica string    `json:"replica"` // its id in the store
	Name    string    `json:"name"`    // USHER_REPLICA
	Address string    `json:"address"` // of its admin listener; "": nobody can ask it
	Silent  string    `json:"silent"`  // why nobody can ask it
	Version string    `json:"version"`
	Started time.Time `json:"started"`
}

// Shown is a card in the store.
type Shown struct {
	Card
	Age time.Duration // since the replica has shown it last, by the clock of the store
}

// Conn is a connection to the cards of a cluster. Its errors are those of package store.
// A Conn is not safe for concurrent use.
type Conn interface {
	// Show puts a card in place of an older one of the same replica, and returns all
	// cards. It forgets those that are older than Keep, and leaves out those that it
	// cannot read.
	Show(context.Context, Card) ([]Shown, error)
	// Withdraw takes back the card of a replica.
	Withdraw(ctx context.Context, replica string) error
	// LocalAddr is the address from which the store is reached.
	LocalAddr() net.Addr
	Close() error
}
