// Package limiter admits sessions to limits that hold over all replicas. A session
// that is admitted has a Grant, and releases it at its end.
//
// Package replica decides what a replica does. It is a state machine, one for each
// shard of the store. This package drives the state machines. It has the clock, the
// locks and the connections, executes requests one at a time, and tells sessions
// whether they got or lost their slots. Exactness is more important than speed: if
// they conflict, a session waits or is refused, and the error says why.
package limiter

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"hash/fnv"
	"maps"
	"time"

	"usher/limiter/replica"
	"usher/store"
	"usher/store/limit"
)

// Reasons for which an admission fails, told apart by errors.Is.
var (
	// ErrFull says that the limit is reached: the store counted at least as
	// many sessions as the maximum when it was asked.
	ErrFull = replica.ErrFull
	// ErrThrottled says that as many sessions have begun in the current window
	// as the rate allows.
	ErrThrottled = replica.ErrThrottled
	// ErrKeys says that the rate counts no other key of the rule, see
	// Options.MaxKeys. A store without memory for another key says it, too.
	ErrKeys = replica.ErrKeys
	// ErrUnavailable says that the store gave no answer in time.
	ErrUnavailable = replica.ErrUnavailable
	// ErrRecovering says that the store's data is new, because it lost its data
	// or starts for the first time, and that it admits no new sessions yet.
	ErrRecovering = replica.ErrRecovering
	// ErrMismatch says that live replicas run with other lease settings.
	ErrMismatch = replica.ErrMismatch
	// ErrClosed says that the limiter is closed or closing.
	ErrClosed = replica.ErrClosed
)

// LimitError says which limit refuses an admission: its error is ErrFull,
// ErrThrottled or ErrKeys.
type LimitError = replica.LimitError

// Limit says what a session is counted by. The zero Limit counts nothing and
// never touches the store.
//
// A Limit with rates and no maximum counts no sessions: its grants are always
// valid, and their release tells the store nothing.
type Limit struct {
	// Rule is the rule's counter, <space>/<rule>; "" means no limit.
	Rule string
	// Max is how many sessions the rule admits at a time, over all keys;
	// limit.None is any number, 0 admits nobody.
	Max int64
	// Throttle is how many sessions may begin in a window of time, over all
	// keys, in whole seconds.
	Throttle limit.Rate
	// Key is what the rule counts separately (a client address, a user), "" if
	// it counts no keys. KeyMax is how many sessions of one key it admits at a
	// time, limit.None for any number; KeyThrottle how many may begin in a window.
	Key         string
	KeyMax      int64
	KeyThrottle limit.Rate
}

// entry states the limit, with a bound on the keys that a rate counts.
func (l Limit) entry(maxKeys int64) store.Entry {
	if l.Key == "" {
		return store.Entry{Counter: l.Rule, Max: l.Max, RuleMax: limit.None, Rate: l.Throttle}
	}
	return store.Entry{
		Counter: l.Rule + "/" + l.Key, Max: l.KeyMax, RuleMax: l.Max,
		Rate: l.KeyThrottle, RuleRate: l.Throttle, MaxKeys: maxKeys,
	}
}

// Options configure a Limiter.
type Options struct {
	Store store.Store
	// TTL is the lease: a dead replica's sessions are given to others within
	// it. At least 1 s, in whole milliseconds; all replicas must agree on it.
	TTL time.Duration
	// Strict ends limited sessions at the lease deadline, before anybody else
	// can be given their slots, if the lease cannot be renewed. Otherwise they
	// live on. All replicas must agree on it.
	Strict bool
	// StoreWait is how long an admission waits for the store before it fails.
	// With AdmitLocally, nobody waits after one has waited in vain, until the
	// store has answered.
	StoreWait time.Duration
	// AdmitLocally admits sessions if the store has not answered within StoreWait:
	// up to the maximum by this replica's own sessions, and as many as the rates
	// allow in this replica's own windows. The store learns of them later; until then all replicas together may be over the limit. It has no
	// effect with Strict, whose promise it would break.
	AdmitLocally bool
	// MaxKeys bounds the memory for rates that count by key. When so many keys of a
	// rule have begun a window in one window of that length, sessions of other keys
	// are refused with ErrKeys. At most twice as many keys have a window. 0 is no bound.
	MaxKeys int64
	// Observe, if set, is told of every request to the store: its operation (dial,
	// join, batch, observe, expire or end_recovery), how long it took, and its
	// error. It is called from several goroutines.
	Observe func(op string, took time.Duration, err error)
	// ID identifies this replica in the store; no other one may ever have it. "":
	// 128 random bits, see NewID.
	ID string
	// Exchange, if set, is called with the connection to the first shard after each
	// dial, and with each look at the members, every tenth of the TTL. Nothing else
	// goes over the connection meanwhile. Its error is taken for that of the dial or
	// the look; the context ends with the time limit of that request.
	Exchange func(context.Context, store.Conn) error
}

// Limiter admits sessions. It is safe for concurrent use.
type Limiter struct {
	options Options
	start   time.Time
	shards  []*shard
	agreed  chan struct{} // closed when the first shard was joined, see agree
	stop    context.CancelFunc
}

// New returns a Limiter that joins the store in the background: rules without
// a limit need not wait for it. End it with Close.
func New(o Options) *Limiter {
	if o.Observe == nil {
		o.Observe = func(string, time.Duration, error) {}
	}
	ctx, stop := context.WithCancel(context.Background())
	l := &Limiter{options: o, start: time.Now(), agreed: make(chan struct{}), stop: stop}
	settings := store.Settings{Protocol: protocol, TTL: o.TTL, Strict: o.Strict, Shards: o.Store.Shards()}
	id := cmp.Or(o.ID, NewID())
	for i := range o.Store.Shards() {
		s := newShard(l, i, replica.New(id, settings, o.Store.Leased(), NewID))
		l.shards = append(l.shards, s)
		s.begin(ctx)
	}
	return l
}

// Strict reports whether limited sessions end at the lease deadline, before
// anybody else can be given their slots. Ask Grant.Valid before every write then.
func (l *Limiter) Strict() bool { return l.options.Strict }

// protocol is the version of what replicas say to each other through the store.
const protocol = 1

// NewID returns 128 random bits, in hexadecimal.
func NewID() string {
	var b [16]byte
	rand.Read(b[:])
	return hex.EncodeToString(b[:])
}

// now is this process's monotonic clock: no wall clock decides anything.
func (l *Limiter) now() time.Duration { return time.Since(l.start) }

// shardOf puts everything of one rule into one shard.
func (l *Limiter) shardOf(rule string) *shard {
	if len(l.shards) == 1 {
		return l.shards[0]
	}
	h := fnv.New32a()
	h.Write([]byte(rule))
	return l.shards[h.Sum32()%uint32(len(l.shards))]
}

// Admit takes a slot of the limit. It fails with ErrFull, ErrThrottled,
// ErrKeys, ErrRecovering, ErrMismatch, ErrUnavailable, ErrClosed, or the context's
// error. The first three are in a *LimitError.
func (l *Limiter) Admit(ctx context.Context, limit Limit) (*Grant, error) {
	g := &Grant{limiter: l}
	return g, g.Move(ctx, limit)
}

// agree waits until the first shard was joined once, and reports whether the
// replicas there run with our settings. A replica with another number of shards
// meets us in the first shard only, and would share our limits in no other.
func (l *Limiter) agree(ctx context.Context, deadline time.Duration) error {
	err := l.awaitAgreed(ctx, deadline)
	if (err == nil || errors.Is(err, ErrUnavailable)) && l.shards[0].mismatched() {
		return ErrMismatch
	}
	return err
}

func (l *Limiter) awaitAgreed(ctx context.Context, deadline time.Duration) error {
	select { // first, because several of the cases below may be true at once
	case <-l.agreed:
		return nil
	default:
	}
	left := deadline - l.now()
	if left <= 0 {
		return ErrUnavailable
	}
	timer := time.NewTimer(left)
	defer timer.Stop()
	select {
	case <-l.agreed:
		return nil
	case <-l.shards[0].left:
		return ErrClosed
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return ErrUnavailable
	}
}

// SetSpace tells the other replicas which counter space (digest of the rules,
// never "") is in force here, and which counters' totals Status is to report.
func (l *Limiter) SetSpace(space string, counters []string) {
	for _, s := range l.shards {
		var mine []string
		for _, c := range counters {
			if l.shardOf(c) == s {
				mine = append(mine, c)
			}
		}
		s.setSpace(space, mine)
	}
}

// Close leaves the store, which gives everything back at once. Call it after
// the last session's sockets are closed. ctx bounds it.
func (l *Limiter) Close(ctx context.Context) error {
	for _, s := range l.shards {
		s.leave()
	}
	var err error
	for _, s := range l.shards {
		select {
		case <-s.left:
		case <-ctx.Done():
			err = ctx.Err()
		}
	}
	l.stop()
	for _, s := range l.shards {
		s.tasks.Wait()
	}
	return err
}

// Status is a snapshot for readiness, metrics and the status page.
type Status = replica.Status

// Status reports on all shards together. LeasesLost counts each shard's leases.
func (l *Limiter) Status() Status {
	out := Status{Joined: true, WasReady: true, Replicas: map[string]string{}, Totals: map[string]int64{}}
	for i, s := range l.shards {
		one := s.status()
		out.Joined = out.Joined && one.Joined
		out.WasReady = out.WasReady && one.WasReady
		out.Recovering = out.Recovering || one.Recovering
		out.LeasesLost += one.LeasesLost
		if one.Mismatch != "" {
			out.Mismatch = one.Mismatch
		}
		if i == 0 { // each shard gives numbers of its own; the first speaks for all
			out.Generation = one.Generation
		}
		maps.Copy(out.Replicas, one.Replicas)
		maps.Copy(out.Totals, one.Totals)
	}
	return out
}
