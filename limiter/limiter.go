// Package limiter turns limits into held grants.
package limiter

import (
	"context"
	"errors"
	"time"

	"usher/store"
)

// Reasons for which an admission fails. They are told apart by errors.Is.
var (
	ErrFull        = errors.New("limiter: the limit is reached")
	ErrUnavailable = errors.New("limiter: the store cannot be reached")
	ErrYoung       = errors.New("limiter: the store was just born and gives nothing new out yet")
	ErrMismatch    = errors.New("limiter: other replicas run with other lease settings")
	ErrClosed      = errors.New("limiter: closed")
)

// Limit says what a session is counted by. The zero Limit counts nothing.
type Limit struct {
	Rule   string // the rule's counter, <digest>/<rule>; "" means no limit
	Max    int64  // sessions over all keys; store.NoLimit is none
	Key    string // what the rule counts separately (client address, user), "" if nothing
	KeyMax int64  // sessions of one Key
}

// Options configure a Limiter.
type Options struct {
	Store     store.Store
	TTL       time.Duration
	Strict    bool
	StoreWait time.Duration
	Observe   func(op string, took time.Duration, err error)
}

type Limiter struct{}

// New returns a Limiter that is joining the store in the background.
func New(o Options) *Limiter { panic("being written") }

// Admit takes a slot of l, or says why it cannot.
func (*Limiter) Admit(ctx context.Context, l Limit) (*Grant, error) { panic("being written") }

// SetSpace tells the store which rules are in force here, and which counters of theirs to watch.
func (*Limiter) SetSpace(digest string, counters []string) {}

// Close leaves the store, giving everything back at once; ctx bounds it.
func (*Limiter) Close(ctx context.Context) error { return nil }

// Status is a snapshot for readiness, metrics and the status page.
type Status struct {
	Joined     bool // every shard is joined at this moment
	WasMature  bool // every shard was joined and mature at least once
	Young      bool
	Mismatch   string           // "" or the settings in force elsewhere
	Generation uint64           // number of the space in force here, 0 if not known yet
	Holders    int              // replicas on the roster
	Spaces     int              // distinct spaces among them
	Totals     map[string]int64 // sessions over all replicas, by counter, of the counters named in SetSpace
}

func (*Limiter) Status() Status { return Status{} }

// Grant is one held slot.
type Grant struct{}

// Move gives the slot back, then asks for one of l.
func (*Grant) Move(ctx context.Context, l Limit) error { panic("being written") }

// Release gives the slot back. It is idempotent and never blocks.
func (*Grant) Release() {}

// Valid reports whether a write may be started for the session now. Ask before every write.
func (*Grant) Valid() bool { return true }

// Lost is closed when the grant ended under the session: it only wakes what is blocked.
func (*Grant) Lost() <-chan struct{} { return nil }
