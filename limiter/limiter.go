// Package limiter admits sessions to limits that hold over all replicas. Each admitted
// session has a Grant, and releases it at its end.
//
// Package replica decides what a replica does. It is a state machine, one for each
// shard of the store. This package drives the state machines. It has the clock, the
// locks and the connections, executes requests one at a time, and tells sessions
// whether they got or lost their slots. Exactness is more important than speed. If
// both are not possible, a session waits or is refused, and the error says why.
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

// Errors of Admit and Move, for errors.Is.
var (
	// ErrFull says that the limit is reached: the store counts at least as many
	// sessions as the maximum.
	ErrFull = replica.ErrFull
	// ErrThrottled says that the rate allows no more sessions in the current
	// window.
	ErrThrottled = replica.ErrThrottled
	// ErrKeys says that the rate cannot count a further key of the rule: there are
	// Options.MaxKeys, or the store has no memory left.
	ErrKeys = replica.ErrKeys
	// ErrUnavailable says that the store gave no answer in time.
	ErrUnavailable = replica.ErrUnavailable
	// ErrRecovering says that the store has lost its data or starts for the first
	// time, and admits no sessions yet.
	ErrRecovering = replica.ErrRecovering
	// ErrMismatch says that live replicas have other lease settings.
	ErrMismatch = replica.ErrMismatch
	// ErrClosed says that the limiter is closed or closing.
	ErrClosed = replica.ErrClosed
)

// LimitError names the limit that refuses an admission. It wraps ErrFull,
// ErrThrottled or ErrKeys.
type LimitError = replica.LimitError

// Limit names the counters of a session, and their bounds. The zero Limit counts
// nothing and never asks the store.
//
// A Limit with rates and without a maximum does not count running sessions. Its grants
// are always valid, and the store does not learn of their release.
type Limit struct {
	// Rule is the counter of the rule, <space>/<rule>, or of a pool, see Pool. "" means
	// no limit.
	Rule string
	// Max is how many sessions the rule admits at a time, over all keys.
	// limit.None means any number, 0 means none.
	Max int64
	// Throttle is how many sessions may begin in a window, over all keys. The
	// window has whole seconds.
	Throttle limit.Rate
	// Key is the client address or user that the rule counts separately, or "" if
	// it counts no keys. KeyMax and KeyThrottle are the bounds for one key, as Max
	// and Throttle are for the rule.
	Key         string
	KeyMax      int64
	KeyThrottle limit.Rate
	// Report refuses no session because of this limit, nor because the store gives no
	// answer, and ends none: it says instead which the limit would have refused, see
	// Grant.WouldRefuse. All sessions of a counter that is no pool's have the same.
	Report bool
}

// Pool returns the counter of a pool, for Limit.Rule. Sessions of all spaces share it.
// Each is admitted by the bounds that it asks with, against all sessions of the pool. A
// session that moves within a counter of a pool keeps its slot.
func Pool(name string) string { return store.PoolSpace + "/" + name }

// want returns the limit as the replica needs it. maxKeys bounds the keys that a rate
// counts.
func (l Limit) want(maxKeys int64) replica.Want {
	if l.Key == "" {
		return replica.Want{Report: l.Report, Entry: store.Entry{Counter: l.Rule, Max: l.Max, RuleMax: limit.None, Rate: l.Throttle}}
	}
	return replica.Want{Report: l.Report, Entry: store.Entry{
		Counter: l.Rule + "/" + l.Key, Max: l.KeyMax, RuleMax: l.Max,
		Rate: l.KeyThrottle, RuleRate: l.Throttle, MaxKeys: maxKeys,
	}}
}

// Operations returns the names of all requests to the store, for Options.Observe.
func Operations() []string {
	return []string{string(replica.Dial), string(replica.Join), string(replica.Batch), string(replica.Observe),
		string(replica.Expire), string(replica.EndRecovery)}
}

// Options configure a Limiter.
type Options struct {
	Store store.Store
	// TTL is the duration of a lease. Slots of a dead replica become free within
	// this time. It is at least 1 s, in whole milliseconds. All replicas must have
	// the same value.
	TTL time.Duration
	// Strict ends limited sessions at the lease deadline if the replica cannot renew
	// the lease. No other session can get their slots before. Without Strict, they
	// continue. All replicas must have the same value.
	Strict bool
	// StoreWait is how long an admission waits for the store before it fails. With
	// AdmitLocally, only the first admission of an outage waits. Later ones do not
	// wait until the store has answered again.
	StoreWait time.Duration
	// AdmitLocally admits sessions by the counts of this replica alone if the store
	// has not answered within StoreWait. The store learns of them later. Until then,
	// all replicas together may exceed the limit. AdmitLocally has no effect with
	// Strict, which promises the opposite.
	AdmitLocally bool
	// MaxKeys bounds the memory for rates that count by key. At most MaxKeys keys of
	// a rule can begin a window within the length of one window. Sessions of further
	// keys fail with ErrKeys. So at most twice as many keys have a window at a time.
	// 0 means no bound.
	MaxKeys int64
	// Observe, if set, is called after every request to the store with its operation
	// (one of Operations), its duration and its error. Several goroutines call it.
	Observe func(op string, took time.Duration, err error)
	// ID identifies this replica in the store. No other replica may ever have the
	// same. "" means a new one from NewID.
	ID string
	// Exchange, if set, is called with the connection to the first shard: after each
	// dial, and with each look at the members, every tenth of the TTL. It has the
	// connection to itself meanwhile. Its error counts as an error of the dial or the
	// look, and the time limit of that request bounds it. A replica whose lease in the
	// first shard has ended, because exchanges fail, admits nobody in other shards.
	Exchange func(context.Context, store.Conn) error
}

// locally reports whether this replica admits sessions of a limit by itself if the store
// does not answer.
func (o *Options) locally(l Limit) bool {
	return l.Report || //mutate:a-limit-that-only-reports-needs-the-store
		o.AdmitLocally &&
			!o.Strict //mutate:strict-admits-locally
}

// Limiter admits sessions. It is safe for concurrent use.
type Limiter struct {
	options Options
	start   time.Time
	shards  []*shard
	agreed  chan struct{} // closed when the first shard was joined, see agree
	stop    context.CancelFunc
}

// New returns a Limiter that joins the store in the background, because rules without
// a limit need not wait for the store. The caller must call Close.
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

// Strict returns Options.Strict. If it is true, a session must call Grant.Valid before
// every write.
func (l *Limiter) Strict() bool { return l.options.Strict }

// protocol is the version of the data that replicas exchange through the store.
const protocol = 1

// NewID returns 128 random bits, in hexadecimal.
func NewID() string {
	var b [16]byte
	rand.Read(b[:])
	return hex.EncodeToString(b[:])
}

// now reads the monotonic clock of this process. No decision depends on a wall clock.
func (l *Limiter) now() time.Duration { return time.Since(l.start) }

// shardOf returns the shard of a rule and all its keys.
func (l *Limiter) shardOf(rule string) *shard {
	if len(l.shards) == 1 {
		return l.shards[0]
	}
	h := fnv.New32a()
	h.Write([]byte(rule))
	return l.shards[h.Sum32()%uint32(len(l.shards))]
}

// Admit takes a slot of the limit. It fails with ErrRecovering, ErrMismatch,
// ErrUnavailable, ErrClosed, the error of ctx, or a *LimitError that wraps ErrFull,
// ErrThrottled or ErrKeys.
func (l *Limiter) Admit(ctx context.Context, limit Limit) (*Grant, error) {
	g := l.NewGrant()
	return g, g.Move(ctx, limit)
}

// NewGrant returns a Grant that holds nothing yet. Move gives it a slot.
func (l *Limiter) NewGrant() *Grant { return &Grant{limiter: l} }

// agree waits until this replica has joined the first shard, and fails if the replicas
// there have other settings. A replica with another number of shards uses the first
// shard, too. In other shards it might look for a rule where this replica does not.
func (l *Limiter) agree(ctx context.Context, deadline time.Duration) error {
	err := l.awaitAgreed(ctx, deadline)
	if (err == nil || errors.Is(err, ErrUnavailable)) && l.shards[0].mismatched() {
		return ErrMismatch
	}
	return err
}

func (l *Limiter) awaitAgreed(ctx context.Context, deadline time.Duration) error {
	return l.waitFor(ctx, l.agreed, deadline)
}

// waitFor waits until c is closed. It fails with ErrUnavailable at the deadline, with
// ErrClosed, or with the error of ctx.
func (l *Limiter) waitFor(ctx context.Context, c <-chan struct{}, deadline time.Duration) error {
	select { // first, because several of the cases below may be true at once
	case <-c:
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
	case <-c:
		return nil
	case <-l.shards[0].left:
		return ErrClosed
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return ErrUnavailable
	}
}

// SetSpace tells the other replicas the counter space in force here. This is the digest
// of the rules, never "". Status then reports the totals of these counters.
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

// Close leaves the store, which frees all slots at once. Call it when the sockets of
// all sessions are closed. It ends with ctx.
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

// Highest is the highest count of a counter that this replica has seen.
type Highest struct {
	Sessions int64     // over all replicas
	At       time.Time // when it was seen for the first time; zero: there was none yet
}

// Highest returns the highest count of a counter named in SetSpace since this replica
// counts there. It is exact for what this replica has admitted. Of what other replicas
// have admitted, it sees the count every tenth of the TTL.
func (l *Limiter) Highest(counter string) Highest {
	h := l.shardOf(counter).highest(counter)
	if h.Sessions == 0 {
		return Highest{}
	}
	return Highest{Sessions: h.Sessions, At: l.start.Add(h.At)}
}

// Status is the state of a limiter, for readiness, metrics and the status page.
type Status = replica.Status

// Status returns the state of all shards together. LeasesLost is the sum over the
// shards.
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
