// Package published is about rules that a cluster of replicas takes from its store:
// what a published generation is, how it is signed, and what replicas report.
//
// A generation has a number, which only grows. Publishing names the number of the
// predecessor, so that of two who publish at once one is told. A replica reports
// with each exchange what is in force on it, and learns of a new generation by the
// same exchange. The store keeps the last Keep texts. A replica that finds an older
// generation in the store than its own puts its own back, because the store may
// lose its data.
package published

import (
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

// MaxText is the most bytes that a text of rules may have, so that a store's reply
// stays below its bound.
const MaxText = 512 << 10

// MaxMessage is the most bytes that a message may have.
const MaxMessage = 500

// maxNumber is the highest number that the scripts of a store count exactly.
const maxNumber = 1 << 53

// ErrUnreadable says that a store answered, but with something that Usher does not
// write, or that it refused the question. The connection remains usable.
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

// ID identifies a generation in exchanges: two texts of one number differ in it.
func (g Generation) ID() string { return strconv.FormatUint(g.Number, 10) + " " + g.Hash }

// Text is a generation with its text.
type Text struct {
	Generation
	Rules string `json:"rules"`
}

// New returns the generation of that number, not signed.
func New(number uint64, cluster, digest, message, rules string, when time.Time) Text {
	return Text{Rules: rules, Generation: Generation{
		Number: number, Cluster: cluster, Digest: digest, Hash: HashOf(rules),
		Message: message, When: when.UTC().Truncate(time.Second),
	}}
}

// HashOf returns the SHA-256 of a text, in hexadecimal.
func HashOf(rules string) string {
	sum := sha256.Sum256([]byte(rules))
	return hex.EncodeToString(sum[:])
}

// Check fails for a text that no Usher publishes for the cluster.
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

// Report is what a replica says about itself with each exchange.
type Report struct {
	Replica  string         `json:"replica"` // its id in the store
	Name     string         `json:"name"`    // for people: USHER_REPLICA
	Number   uint64         `json:"number"`  // of the generation in force, 0 if there is none
	Refused  uint64         `json:"refused,omitempty"`
	Reason   string         `json:"reason,omitempty"`   // why it refused that number
	Sessions map[uint64]int `json:"sessions,omitempty"` // by the number that they began with
}

// Exchange is what a replica sends.
type Exchange struct {
	Report Report
	TTL    time.Duration // how long the report is kept
	Have   string        // the ID of the last generation that the replica has dealt with
}

// News answers an Exchange.
type News struct {
	Latest uint64 // the newest number in the store, 0 if nothing is published
	ID     string // of the newest generation
	Text   *Text  // nil if the replica has dealt with it
}

// Replicas is what a store knows of replicas.
type Replicas struct {
	Reports []Report // of replicas that have reported within the TTL, ordered by Name
	Silent  []string // ids of members of the cluster that did not: their rules are files
}

// Conn is a connection to where rules are published. Any error but ErrUnreadable
// is one of package store. A Conn is not safe for concurrent use.
type Conn interface {
	// Exchange reports, and learns of a new generation.
	Exchange(context.Context, Exchange) (News, error)
	// Publish makes t the newest generation if the newest number is after. It
	// returns the newest number, and whether t is the newest generation.
	Publish(ctx context.Context, t Text, after uint64) (latest uint64, ok bool, err error)
	// Restore publishes t again if the newest number is lower than its own.
	Restore(ctx context.Context, t Text) (latest uint64, err error)
	// Generations returns the generations that are kept, the newest first.
	Generations(context.Context) ([]Generation, error)
	// Text returns a generation that is kept, nil if the number is not.
	Text(ctx context.Context, number uint64) (*Text, error)
	// Replicas returns the replicas, and forgets reports that are outdated.
	Replicas(context.Context) (Replicas, error)
	Close() error
}
