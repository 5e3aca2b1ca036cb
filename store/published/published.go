// Package published defines the rules that a cluster of replicas takes from its
// store: the published generation, its signature, and the reports of replicas.
//
// A generation has a number, which only grows. A publisher names the number of the
// generation that it replaces. If two publish at the same time, one of them fails. In
// each exchange, a replica reports the generation that is in force on it, and learns
// of a new one. The store keeps the last Keep texts. The store may lose its data. So
// a replica that finds an older generation there than its own publishes its own again.
package published

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"time"
	"unicode/utf8"
)

// Keep is how many generations the store keeps.
const Keep = 20

// MaxText is the maximum size of a text of rules in bytes. It keeps a reply of the
// store below its bound.
const MaxText = 512 << 10

// MaxMessage is the maximum size of a message in bytes.
const MaxMessage = 500

// maxNumber is the highest number that the scripts of a store count exactly.
const maxNumber = 1 << 53

// ErrUnreadable says that the store refused a request, or that its data is not in
// Usher's form. The connection remains usable.
var ErrUnreadable = errors.New("the published rules cannot be read")

// Generation describes a text of rules that was published.
type Generation struct {
	Number    uint64    `json:"number"`
	Cluster   string    `json:"cluster"`
	Digest    string    `json:"digest"` // of the rules, as usher validate prints it
	Hash      string    `json:"hash"`   // of the text, see HashOf
	When      time.Time `json:"when"`
	Message   string    `json:"message,omitempty"`
	Signature []byte    `json:"signature,omitempty"`
}

// ID identifies a generation in exchanges. Two texts with the same number have
// different IDs.
func (g Generation) ID() string { return strconv.FormatUint(g.Number, 10) + " " + g.Hash }

// Name stands for the name of a rule file in findings, logs and status.
func Name(number uint64) string { return fmt.Sprintf("generation %d", number) }

// Text is a generation with its text.
type Text struct {
	Generation
	Rules string `json:"rules"`
}

// New returns a generation without a signature.
func New(number uint64, cluster, digest, message, rules string, when time.Time) Text {
	return Text{Rules: rules, Generation: Generation{
		Number: number, Cluster: cluster, Digest: digest, Hash: HashOf(rules),
		Message: message, When: when.UTC().Truncate(time.Second),
	}}
}

// Kept is a generation that a store keeps.
type Kept struct {
	Generation
	Unreadable string `json:"unreadable,omitempty"` // why nothing but its number is known
}

// HashOf returns the SHA-256 of a text, in hexadecimal.
func HashOf(rules string) string {
	sum := sha256.Sum256([]byte(rules))
	return hex.EncodeToString(sum[:])
}

// Check fails if Usher would not publish t for the cluster.
func (t Text) Check(cluster string) error {
	switch {
	case t.Number == 0 || t.Number > maxNumber:
		return fmt.Errorf("%d is no number of a generation", t.Number)
	case t.Cluster != cluster:
		return fmt.Errorf("it was published for the cluster %q, and this one is %q", t.Cluster, cluster)
	case len(t.Rules) > MaxText:
		return fmt.Errorf("its text has %d bytes; %d are allowed", len(t.Rules), MaxText)
	case len(t.Message) > MaxMessage || !utf8.ValidString(t.Message):
		return fmt.Errorf("its message is longer than %d bytes, or is not UTF-8", MaxMessage)
	case t.Hash != HashOf(t.Rules):
		return errors.New("its text is not the one that was published: the hash differs")
	}
	return nil
}

// Report is what a replica says about itself in each exchange.
type Report struct {
	Replica  string         `json:"replica"` // its id in the store
	Name     string         `json:"name"`    // for people: USHER_REPLICA
	Number   uint64         `json:"number"`  // of the generation in force, 0 if there is none
	Refused  uint64         `json:"refused,omitempty"`
	Reason   string         `json:"reason,omitempty"`   // why it refused that number
	Sessions map[uint64]int `json:"sessions,omitempty"` // by the number that has admitted them
	Left     bool           `json:"left,omitempty"`     // it has stopped in good order
}

// ByName orders reports by Name, and by Replica if names are alike.
func ByName(a, b Report) int {
	return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.Replica, b.Replica))
}

// Exchange is what a replica sends.
type Exchange struct {
	Report Report
	TTL    time.Duration // how long the report is kept
	Have   string        // the ID of the last generation that the replica has taken or refused
}

// News answers an Exchange.
type News struct {
	Latest uint64 // the newest number in the store, 0 if nothing is published
	ID     string // of the newest generation
	Text   *Text  // nil if the replica has it already, see Exchange.Have
}

// Replicas is what a store knows about replicas.
type Replicas struct {
	Reports []Report // of replicas that have reported within the TTL, ordered by Name
	Left    []string // ids of replicas that have stopped in good order within the TTL
	Silent  []string // ids of the other members of the cluster, which have rule files
}

// Conn is a connection to the store of published rules. Its errors are ErrUnreadable
// and those of package store. A Conn is not safe for concurrent use.
type Conn interface {
	// Exchange sends the report of a replica, and returns a new generation if there
	// is one.
	Exchange(context.Context, Exchange) (News, error)
	// Publish makes t the newest generation if the newest number so far equals
	// after. It returns the newest number, and whether t is the newest generation.
	Publish(ctx context.Context, t Text, after uint64) (latest uint64, ok bool, err error)
	// Restore publishes t again if the newest number is lower than that of t. It
	// returns the newest number.
	Restore(ctx context.Context, t Text) (latest uint64, err error)
	// Generations returns the generations that are kept, the newest first, also those
	// that cannot be read.
	Generations(context.Context) ([]Kept, error)
	// Text returns the generation with that number, or nil if the store does not
	// keep it.
	Text(ctx context.Context, number uint64) (*Text, error)
	// Replicas returns the replicas. It deletes reports that are outdated.
	Replicas(context.Context) (Replicas, error)
	Close() error
}
