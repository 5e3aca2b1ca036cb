// Package follow makes a replica use the rules that are published for its cluster.
//
// The limiter calls a Follower in each exchange with the store. The Follower reports
// the generation in force, and loads a newer one before the exchange ends. So no client
// begins a session under older rules afterwards. If this replica does not accept the
// newer rules, it keeps its own, and its report says why.
package follow

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"usher/proxy/printable"
	"usher/store"
	"usher/store/published"
)

// Target loads rules. It is the service or, at the start, a test of the rules.
type Target interface {
	// Load puts a text in force. If it fails, the old rules stay in force.
	Load(published.Text) error
	// Refused is called when the replica does not accept newer rules.
	Refused(number uint64, err error)
	// Hold makes new clients wait until release is called.
	Hold() (release func())
	// Sessions returns the running sessions by the number that they began with.
	Sessions() map[uint64]int
}

// Options configure a Follower.
type Options struct {
	Replica, Name string // its id in the store, and its name for people
	Cluster       string
	TTL           time.Duration // the lease TTL
	Keys          []ed25519.PublicKey
	Cache         string // a file, "" for none
}

// State is what status and metrics show of a Follower.
type State struct {
	Number  uint64   // in force, 0 if none
	Newest  uint64   // in the store, when it was last asked
	Refused uint64   // the number that this replica does not accept
	Reason  string   // why
	Trouble string   // why the store's rules cannot be read
	Silent  []string // members of the cluster that do not follow
}

// Follower is safe for concurrent use.
type Follower struct {
	o     Options
	tasks sync.WaitGroup

	loading sync.Mutex // held while a text is chosen and loaded, before mu

	mu      sync.Mutex
	target  Target
	log     *slog.Logger
	inForce published.Text // zero: none
	cached  published.Text // as found at the start, zero: none
	newer   published.Text // has a good signature, but Load failed; zero: none
	have    string         // the last ID that was taken or refused
	taking  bool
	asked   bool // the store has answered
	state   State
	mixedAt time.Time // of the last look for a mix
	mixed   bool      // the last look found one
	older   *string   // the ID of older rules that the store has, once that was logged
}

// New returns a Follower without rules. It reads the cache, and logs a warning if the
// cache is unusable.
func New(o Options, target Target, logger *slog.Logger) *Follower {
	f := &Follower{o: o, target: target, log: logger}
	var err error
	if f.cached, err = readCache(o.Cache); err == nil && f.cached.Number != 0 {
		err = f.acceptable(f.cached)
	}
	if err != nil {
		f.cached = published.Text{}
		logger.Warn("cannot use the cache of published rules", "file", o.Cache, "error", printable.Text(err.Error()))
	}
	return f
}

// Serve makes target follow from now on.
func (f *Follower) Serve(target Target, logger *slog.Logger) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.target, f.log = target, logger
}

func (f *Follower) logger() *slog.Logger {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.log
}

// Replica returns the id of this replica in the store.
func (f *Follower) Replica() string { return f.o.Replica }

// MayFindSooner reports whether the store may have rules that the cache does not have:
// the store has not answered yet, or rules are being loaded.
func (f *Follower) MayFindSooner() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return !f.asked || f.taking
}

// InForce returns the rules in force; their number is 0 if there are none.
func (f *Follower) InForce() published.Text {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.inForce
}

// State returns the state.
func (f *Follower) State() State {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.state
}

// Wait waits until no text is being loaded.
func (f *Follower) Wait() { f.tasks.Wait() }

// acceptable fails for a text that was published for another cluster, or without a
// signature that this replica accepts.
func (f *Follower) acceptable(t published.Text) error {
	if err := t.Check(f.o.Cluster); err != nil {
		return err
	}
	return t.Verify(f.o.Keys)
}

// Exchange reports to the store, and loads newer rules. It returns an error if the
// caller must replace the connection.
func (f *Follower) Exchange(ctx context.Context, c store.Conn) error {
	conn, ok := c.(published.Conn)
	if !ok {
		return errors.New("this store keeps no rules")
	}
	return f.follow(ctx, conn)
}

func (f *Follower) follow(ctx context.Context, conn published.Conn) error {
	for more := true; more && ctx.Err() == nil; {
		news, err := conn.Exchange(ctx, f.report())
		if errors.Is(err, published.ErrUnreadable) {
			f.unreadable(err)
			return nil
		}
		if err != nil {
			return err
		}
		f.readable(news)
		if more, err = f.take(ctx, conn, news); err != nil {
			return err
		}
	}
	if ctx.Err() != nil {
		return nil // rules are being loaded, which takes long; the connection is good
	}
	return f.lookForMix(ctx, conn)
}

// Leave reports that this replica ends. The store forgets it after a TTL.
func (f *Follower) Leave(ctx context.Context, conn published.Conn) error {
	e := f.report()
	e.Report.Left = true
	_, err := conn.Exchange(ctx, e)
	return err
}

func (f *Follower) report() published.Exchange {
	f.mu.Lock()
	target := f.target
	e := published.Exchange{TTL: f.o.TTL, Have: f.have, Report: published.Report{
		Replica: f.o.Replica, Name: f.o.Name, Number: f.inForce.Number, Refused: f.state.Refused, Reason: f.state.Reason,
	}}
	if e.Report.Number == 0 {
		e.Report.Number = f.cached.Number // no older one will be taken
	}
	f.mu.Unlock()
	e.Report.Sessions = target.Sessions()
	return e
}

// unreadable records that the published rules cannot be read. It logs each new error
// once.
func (f *Follower) unreadable(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if text := err.Error(); f.state.Trouble != text {
		f.state.Trouble = text
		f.log.Error("cannot read the published rules", "error", text, "effect", "this replica keeps the rules that it has")
	}
}

func (f *Follower) readable(news published.News) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.asked, f.state.Trouble, f.state.Newest = true, "", news.Latest
	if f.state.Refused != news.Latest {
		f.state.Refused, f.state.Reason, f.newer = 0, "", published.Text{}
	}
}

// take handles news. It reports whether the replica has something new to report.
func (f *Follower) take(ctx context.Context, conn published.Conn, news published.News) (more bool, err error) {
	f.mu.Lock()
	own := f.inForce
	if own.Number == 0 {
		own = f.cached
	}
	taking := f.taking
	if news.Latest >= own.Number {
		f.older = nil
	}
	f.mu.Unlock()
	switch {
	case taking: // the text comes again with the next exchange
		return false, nil
	case news.Latest < own.Number:
		return false, f.restore(ctx, conn, news, own)
	case news.Text == nil:
		return false, nil
	case news.ID == own.ID() && f.InForce().Number != 0:
		f.settle(news.ID)
		return false, nil
	}
	f.judge(ctx, news, own)
	return true, nil
}

// judge loads or refuses a text that is not older than that of this replica.
func (f *Follower) judge(ctx context.Context, news published.News, own published.Text) {
	t := *news.Text
	err := f.acceptable(t)
	if err == nil && news.ID != t.ID() {
		err = errors.New("its text is not the one that was published: the hash differs")
	}
	if err == nil && t.Number == own.Number && t.ID() != own.ID() {
		err = fmt.Errorf("this replica has another text with the number %d; publish it again as the next generation", t.Number)
	}
	if err != nil {
		f.refuse(news.ID, news.Latest, published.Text{}, err)
		return
	}
	f.load(ctx, t)
}

// load puts t in force. New clients wait meanwhile. The exchange waits until ctx ends
// at most, because the replica must renew its lease in time.
func (f *Follower) load(ctx context.Context, t published.Text) {
	f.mu.Lock()
	f.taking, f.have = true, t.ID()
	target := f.target
	f.mu.Unlock()
	release := target.Hold()
	done := make(chan struct{})
	f.tasks.Go(func() {
		defer close(done)
		f.loading.Lock()
		defer f.loading.Unlock()
		err := target.Load(t)
		release()
		if err != nil {
			f.refuse(t.ID(), t.Number, t, err)
		} else {
			f.took(t)
		}
		f.mu.Lock()
		defer f.mu.Unlock()
		f.taking = false
	})
	select {
	case <-done:
	case <-ctx.Done():
	}
}

// took records that t is in force.
func (f *Follower) took(t published.Text) {
	f.mu.Lock()
	f.inForce, f.state.Number = t, t.Number
	if t.Number >= f.state.Refused {
		f.newer, f.state.Refused, f.state.Reason = published.Text{}, 0, ""
	}
	f.mu.Unlock()
	f.logger().Info("published rules are in force", "number", t.Number, "published", t.When.Format(time.RFC3339), "message", printable.Text(t.Message))
	if err := writeCache(f.o.Cache, t); err != nil {
		f.logger().Warn("cannot write the cache of published rules", "error", err.Error(),
			"effect", "a restart while the store is away starts with older rules, or with none")
	}
}

// refuse records that the replica refuses a generation. newer is the text if a further
// attempt may succeed, else zero.
func (f *Follower) refuse(id string, number uint64, newer published.Text, err error) {
	reason := err.Error()
	if most := 2000; len(reason) > most {
		reason = reason[:most] + " ..."
	}
	f.mu.Lock()
	f.have, f.newer = id, newer
	f.state.Refused, f.state.Reason = number, reason
	target, old := f.target, f.inForce.Number
	f.mu.Unlock()
	f.logger().Error("published rules refused, keeping the old ones", "number", number, "in_force", old, "error", printable.Lines(reason))
	target.Refused(number, err)
}

func (f *Follower) settle(id string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.have = id
}

// restore publishes the rules of this replica again, because the store has older ones
// or none.
func (f *Follower) restore(ctx context.Context, conn published.Conn, news published.News, own published.Text) error {
	f.mu.Lock()
	logged := f.older != nil && *f.older == news.ID
	f.older = &news.ID
	f.have = own.ID()
	f.mu.Unlock()
	_, err := conn.Restore(ctx, own)
	if errors.Is(err, published.ErrUnreadable) {
		f.unreadable(err)
		err = nil
	}
	if !logged {
		f.logger().Warn("the store has older rules than this replica, which publishes its own again",
			"in_store", news.Latest, "number", own.Number, "cause", "the store has lost data, or somebody has put old rules back")
	}
	return err
}

// Retry loads the refused text again, or else the one in force. The files that the rules
// need may have changed. Only the caller learns of an error.
func (f *Follower) Retry() error {
	f.loading.Lock()
	defer f.loading.Unlock()
	f.mu.Lock()
	t, target := f.newer, f.target
	if t.Number == 0 {
		t = f.inForce
	}
	if t.Number == 0 {
		t = f.cached
	}
	f.mu.Unlock()
	if t.Number == 0 {
		return nil
	}
	if err := target.Load(t); err != nil {
		return err
	}
	if t.ID() != f.InForce().ID() {
		f.took(t)
	}
	return nil
}

// UseCache loads the cached rules if no rules are in force.
func (f *Follower) UseCache() {
	f.loading.Lock()
	defer f.loading.Unlock()
	f.mu.Lock()
	t, target, useful := f.cached, f.target, f.inForce.Number == 0 && f.cached.Number != 0
	f.mu.Unlock()
	if !useful {
		return
	}
	if err := target.Load(t); err != nil {
		f.logger().Warn("cannot use the cache of published rules", "file", f.o.Cache, "error", printable.Lines(err.Error()))
		return
	}
	f.took(t)
}
