// Package store is the contract between a limiter and the place where all
// replicas count: five operations on one shard, their meaning and their errors.
//
// A replica never sends "+1" or "-1". For each counter that changed it sends two
// absolute numbers: Live, the sessions that exist, and Need, the sessions that exist
// or wait. The store answers how many sessions the replica may hold. Each batch has its
// own token and that of its predecessor. So a byte-identical resend changes nothing, and
// a late copy is refused.
//
// The contract has no clock. A replica is dead when another replica has witnessed its
// token unchanged for long enough, and calls Expire with exactly that token. Only the
// windows of rates end by the store's own clock. A lost window resets a rate, and
// nothing else.
//
// Packages memstore and redisstore implement the contract. storetest tests both
// against every clause of it.
package store

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"usher/store/limit"
)

// MaxEntries is the most entries that one Join or Batch may carry: beyond it
// the cost of a script in Redis grows faster than linearly.
const MaxEntries = 64

// MaxExpire is the most counters that one Expire gives back before it answers
// More: a script must not block Redis for long.
const MaxExpire = 500

// Errors of the contract. Any other error means that the outcome is unknown:
// the request may or may not have been executed, now or later.
var (
	// ErrLost says that the store does not hold what the caller builds on: its
	// data was lost or rolled back, or the replica was declared dead. Join again.
	ErrLost = errors.New("the lease or the store's data is lost")
	// ErrStale answers a Join after a newer one of the same replica, or a copy of
	// the Join that created an epoch of which a part is lost.
	ErrStale = errors.New("a newer join of this replica exists")
	// ErrBusy says that the request was not executed and may be sent again,
	// byte for byte, over the same connection.
	ErrBusy = errors.New("the store is busy and did not execute the request")
	// ErrMoved says that the request was not executed, because this connection
	// leads to the wrong server. Dial again.
	ErrMoved = errors.New("this server does not serve the shard and did not execute the request")
)

// Store opens connections to the shards of one cluster of replicas.
// It is safe for concurrent use.
type Store interface {
	// Shards returns the number of shards, at least 1.
	Shards() int
	// Leased reports whether replicas must renew their lease. A store inside the
	// process answers false: the process cannot lose it.
	Leased() bool
	// Dial opens a connection to a shard.
	Dial(ctx context.Context, shard int) (Conn, error)
	// Close frees what the store itself holds. The caller closes its connections.
	Close() error
}

// Conn is one connection to one shard. After any error but ErrLost, ErrStale and
// ErrBusy the caller closes it and does not use it again. A Conn is not safe for
// concurrent use.
type Conn interface {
	// Join makes a replica a member and takes its claims.
	Join(context.Context, Join) (JoinReply, error)
	// Batch changes a member's counts and renews its lease.
	Batch(context.Context, Batch) (BatchReply, error)
	// Observe reads who the members are, and the totals of the named counters.
	Observe(ctx context.Context, counters []string) (Membership, error)
	// Expire gives back what a dead or leaving replica holds.
	Expire(context.Context, Expire) (ExpireReply, error)
	// EndRecovery ends the recovery, and reports whether it goes on.
	EndRecovery(context.Context, EndRecovery) (recovering bool, err error)
	Close() error
}

// Token identifies a replica's last batch: the epoch of the data, the number of
// the replica's stream (a new one with each join), and the place in the stream.
type Token struct {
	Epoch       string
	Stream, Seq uint64
}

// String returns epoch:stream:seq, as stores keep and compare tokens.
func (t Token) String() string {
	if t == (Token{}) {
		return ""
	}
	return t.Epoch + ":" + strconv.FormatUint(t.Stream, 10) + ":" + strconv.FormatUint(t.Seq, 10)
}

// Reaches reports whether t is u, or a later one of the same stream.
func (t Token) Reaches(u Token) bool {
	return t.Epoch == u.Epoch && t.Stream == u.Stream && t.Seq >= u.Seq
}

// Next returns the token of the batch that follows t in its stream.
func (t Token) Next() Token { t.Seq++; return t }

// ParseToken reads what String wrote.
func ParseToken(s string) (Token, error) {
	if s == "" {
		return Token{}, nil
	}
	parts := strings.Split(s, ":")
	if len(parts) != 3 {
		return Token{}, fmt.Errorf("malformed token %q", s)
	}
	stream, err1 := strconv.ParseUint(parts[1], 10, 64)
	seq, err2 := strconv.ParseUint(parts[2], 10, 64)
	if err := errors.Join(err1, err2); err != nil {
		return Token{}, fmt.Errorf("malformed token %q: %w", s, err)
	}
	return Token{Epoch: parts[0], Stream: stream, Seq: seq}, nil
}

// Settings are what all replicas of a cluster must agree on. A join with other
// settings than a member's is refused with Mismatch.
type Settings struct {
	Protocol int           // version of this contract
	TTL      time.Duration // lease TTL, whole milliseconds
	Strict   bool          // sessions end at the lease deadline
	Shards   int
}

// String is the canonical form that stores compare.
func (s Settings) String() string {
	mode := "keep"
	if s.Strict {
		mode = "strict"
	}
	return fmt.Sprintf("v%d ttl=%d loss=%s shards=%d", s.Protocol, s.TTL.Milliseconds(), mode, s.Shards)
}

// ParseSettings reads what String wrote.
func ParseSettings(text string) (Settings, error) {
	var s Settings
	var ttl int64
	var mode string
	if _, err := fmt.Sscanf(text, "v%d ttl=%d loss=%s shards=%d", &s.Protocol, &ttl, &mode, &s.Shards); err != nil {
		return Settings{}, fmt.Errorf("malformed settings %q: %w", text, err)
	}
	s.TTL = time.Duration(ttl) * time.Millisecond
	s.Strict = mode == "strict"
	return s, nil
}

// PoolSpace is the space of pools, which no digest is called. A pool outlives the rules
// that name it, so Entries for one counter may differ in their maxima and rates, also at
// the same time: each session is admitted by the numbers in the Entry that asks for it.
const PoolSpace = "pool"

// InPool reports whether a counter is that of a pool, or of a key of a pool.
func InPool(counter string) bool { return strings.HasPrefix(counter, PoolSpace+"/") }

// Entry states what a replica has and wants of one counter.
type Entry struct {
	// Counter is <space>/<rule> or <space>/<rule>/<key>, in a pool pool/<name> or
	// pool/<name>/<key>. The count of a rule or a pool is its own and the sum over
	// its keys: rules have either, and a pool may have both, of two generations.
	Counter string
	// Max is the counter's own maximum. RuleMax, for a counter with a key, is its
	// rule's. limit.None is no maximum.
	Max, RuleMax int64
	// Rate is the counter's own rate. RuleRate, for a counter with a key, is its
	// rule's. They matter only where Need is above Live, because nothing else
	// uses up a rate. A Join has none. All Entries of a rule in one Batch that have a
	// RuleRate have the same, because they share its window. A window that is used up
	// ends after one length of the rate that finds it so, at the latest.
	Rate, RuleRate limit.Rate
	// MaxKeys bounds for how many keys the rule keeps windows of Rate. 0 is no
	// bound. When as many keys have opened a window in one window of the rule,
	// which is as long, other keys open none, and none of their sessions begins.
	// So this happens only while MaxKeys windows are open, and never are more than
	// twice as many.
	MaxKeys int64
	// Live sessions exist. Need is Live and those that wait to be admitted.
	Live, Need int64
}

// Opens reports whether the rule's keys are counted that open a window, see MaxKeys.
func (e Entry) Opens() bool { return e.MaxKeys > 0 && e.Rate.N > 0 && RuleOf(e.Counter) != "" }

// Throttled reports whether the counter has a rate. Then a session begins only if
// a reply counts it as Admitted.
func (e Entry) Throttled() bool { return e.Rate.N > 0 || e.RuleRate.N > 0 }

// Counted reports whether the store keeps the number of sessions. With rates and
// no maximum it counts only that they begin: Live is 0, and so are Granted and
// Total in the answer.
func (e Entry) Counted() bool {
	return e.Max != limit.None || e.RuleMax != limit.None || !e.Throttled()
}

// RuleOf returns the counter of the rule to which a counter with a key belongs,
// and "" for a counter without a key.
func RuleOf(counter string) string {
	space, rest, ok := strings.Cut(counter, "/")
	if !ok {
		return ""
	}
	rule, _, keyed := strings.Cut(rest, "/")
	if !keyed {
		return ""
	}
	return space + "/" + rule
}

// Count is a store's answer to one Entry.
type Count struct {
	Granted   int64 // what the replica may hold now
	Total     int64 // the counter's total over all replicas
	RuleTotal int64 // with a key: the rule's total over all keys
	// Contended says that another replica was refused here lately: a freed slot
	// is for the next replica that asks, and must not be reused without asking.
	Contended bool
	// With rates: how many of the waiting sessions were admitted, the same in the
	// answer to a duplicate, and whether the window of the counter and that of its
	// rule are used up now.
	Admitted      int64
	Throttled     bool
	RuleThrottled bool
	// NoWindow says that the key has no window and may open none now: its rule has
	// as many keys as MaxKeys allows, or the store has no memory for another.
	NoWindow bool
}

// Join states who a replica is and claims its live sessions. It is never sent
// twice: after an unknown outcome the next Join has a higher Stream.
type Join struct {
	Replica   string // 128 random bits, hexadecimal, made at process start
	Candidate string // the name of the epoch if this join creates one; unique
	Stream    uint64 // from 1
	Settings  Settings
	Last      Token  // the last acknowledged token, zero if none
	Space     string // the counter space (digest of the rules) in force here
	Number    uint64 // the number that Space is known by here, 0 if none yet
	More      bool   // more claims follow in batches
	// MustNotCreate forbids this join to create an epoch. The replica has met
	// replicas with other settings, and lost data is theirs to create again.
	MustNotCreate bool
	Entries       []Entry
}

// JoinStatus says how a Join ended.
type JoinStatus int

const (
	Joined   JoinStatus = iota
	Mismatch            // other replicas use other settings
	Expiring            // the replica's counts are being given back: finish that, then join again
	NoData              // there is no data to build on, and the join must not create an epoch
)

// JoinReply answers a Join.
type JoinReply struct {
	Status     JoinStatus
	Epoch      string
	Recovering bool     // the epoch is new: sessions are claimed, and no new ones admitted
	Kept       bool     // the replica's counts were still there
	Number     uint64   // of the replica's space
	Counts     []Count  // one per entry
	Settings   Settings // with Mismatch: those in force
	Token      Token    // with Expiring: the token to expire
}

// Batch is one step of a replica's ordered stream, and its heartbeat.
type Batch struct {
	Replica   string
	Prev, New Token // New follows Prev in the same epoch and stream
	Strict    bool
	More      bool   // more claims follow
	Space     string // the space if it has changed, else ""
	Number    uint64
	Entries   []Entry // each of another counter
}

// BatchReply answers a Batch, or its duplicate.
type BatchReply struct {
	Recovering bool
	Number     uint64 // of the space that the batch stated, 0 if it stated none
	Counts     []Count
}

// MemberState says what a member is doing.
type MemberState string

const (
	MemberOK       MemberState = "ok"
	MemberClaiming MemberState = "claiming" // it has not restated all its sessions yet
	MemberExpiring MemberState = "dying"    // its counts are being given back
)

// Member is a replica that the store knows.
type Member struct {
	Replica string
	Token   Token
	State   MemberState
	Space   string
}

// Membership is what Observe reads.
type Membership struct {
	Epoch      string // "" when the shard holds no data
	Recovering bool
	Settings   Settings
	Members    []Member          // ordered by Replica
	Tombstones map[string]uint64 // removed replica -> its highest stream
	Numbers    map[string]uint64 // space -> number
	Totals     map[string]int64  // of the counters asked for
}

// Expire gives back all that Target holds, if its token is still Token. A replica
// that leaves expires itself.
type Expire struct {
	Target string
	Epoch  string
	Token  Token
	Max    int // counters to give back at most, before the answer is More; MaxExpire
}

// ExpireReply answers an Expire.
type ExpireReply int

const (
	Gone  ExpireReply = iota // the target is no member any more
	More                     // some of its counters are left: ask again
	Alive                    // the target has another token: it lives
)

// EndRecovery drops tombstones and, with Ready, ends the recovery unless a member
// is still claiming. It is refused as lost unless the members show its sender with
// Token or a later one. Otherwise, after a loss, late copies of a join and of an
// EndRecovery could create an epoch and end its recovery at once.
type EndRecovery struct {
	Replica string // who sends it
	Token   Token  // as last acknowledged to it
	Ready   bool
	Gone    []string // replicas whose tombstones are to be dropped
}
