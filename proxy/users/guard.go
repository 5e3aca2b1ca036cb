package users

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"runtime"
	"sync"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"

	"usher/proxy/fair"
)

const (
	// failureWindow is the time in which failures add up, and for which logins are
	// refused after too many.
	failureWindow = time.Minute
	// maxFailed bounds the sources whose failures are remembered, and the pairs of
	// source and user. Those that failed longest ago are forgotten first.
	maxFailed = 16384
	// usersOfSource is how many times more failures a source has than each of its
	// users: many clients may share an address, and one that fails must not lock out
	// the others.
	usersOfSource = 10
)

// ErrThrottled is returned for a source that has failed too often, with this user or
// in all.
var ErrThrottled = errors.New("too many wrong passwords from this source")

var errThrottledUser = fmt.Errorf("%w for this user", ErrThrottled)

// Guard checks passwords at a bounded cost: a few at a time, one for each source, and
// none for sources that have failed too often. A reload of the users file does not
// reset it. It is safe for concurrent use.
type Guard struct {
	max    int // failures of a user of a source within the window; 0: any number
	hashes *fair.Queue

	mu      sync.Mutex
	sources failures[netip.Prefix]
	logins  failures[login]
}

// login is a user of one source. Names are hashed: they may be long.
type login struct {
	source netip.Prefix
	user   digest
}

// failures counts them for each key.
type failures[K comparable] struct {
	of *simplelru.LRU[K, failed]
}

type failed struct {
	count int
	until time.Time // when they are forgotten
}

func newFailures[K comparable]() failures[K] {
	of, err := simplelru.NewLRU[K, failed](maxFailed, nil)
	if err != nil {
		panic(err) // the size is not positive
	}
	return failures[K]{of}
}

// count returns how many failures of key are remembered.
func (f failures[K]) count(key K) int {
	one, ok := f.of.Peek(key)
	if !ok || !time.Now().Before(one.until) {
		return 0
	}
	return one.count
}

// add counts a failure of key. They are forgotten a minute after the first, or after
// the one that reaches the bound.
func (f failures[K]) add(key K, bound int) {
	now := time.Now()
	one, ok := f.of.Get(key)
	if !ok || !now.Before(one.until) {
		one = failed{until: now.Add(failureWindow)}
	}
	if one.count++; one.count == bound {
		one.until = now.Add(failureWindow)
	}
	f.of.Add(key, one)
}

// HashQueue returns a queue for NewGuard that leaves a processor for all other
// work of the process.
func HashQueue() *fair.Queue {
	return &fair.Queue{Size: max(runtime.GOMAXPROCS(0)-1, 1), Each: 1}
}

// NewGuard returns a guard that refuses a user from a source (an address, or an IPv6
// /64) for a minute after maxFailures wrong passwords in a minute, and all users from
// there after ten times as many. 0 means any number. Hashes wait for their turn in the
// queue, which must be new. Sources with fewer wrong passwords go first.
func NewGuard(maxFailures int, hashes *fair.Queue) *Guard {
	g := &Guard{max: maxFailures, hashes: hashes, sources: newFailures[netip.Prefix](), logins: newFailures[login]()}
	hashes.Rank = g.failures
	return g
}

// Check reports whether the password is right. The error is ErrThrottled if the
// client's source has failed too often, and the cause of ctx if that ends before
// the client's turn comes.
func (g *Guard) Check(ctx context.Context, known *Checker, client netip.Addr, user, password string) (bool, error) {
	source := fair.SourceOf(client)
	who := login{source, digestOf(user)}
	if err := g.throttled(who); err != nil {
		return false, err
	}
	if known.Remembers(user, password) {
		return true, nil
	}
	if err := g.hashes.Acquire(ctx, source); err != nil {
		return false, err
	}
	defer g.releaseAfterRest(source, time.Now())
	if err := g.throttled(who); err != nil { // others may have failed meanwhile
		return false, err
	}
	if !known.Check(user, password) {
		g.fail(who)
		return false, nil
	}
	return true, nil
}

// releaseAfterRest ends the turn of a hash. On a single processor, the next one
// begins after a pause of the same length, so that other work gets half of it.
func (g *Guard) releaseAfterRest(source netip.Prefix, began time.Time) {
	if runtime.GOMAXPROCS(0) > 1 {
		g.hashes.Release(source)
		return
	}
	time.AfterFunc(time.Since(began), func() { g.hashes.Release(source) })
}

// throttled returns the error for a login that is refused without a check.
func (g *Guard) throttled(who login) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	switch {
	case g.max == 0:
		return nil
	case g.sources.count(who.source) >= usersOfSource*g.max:
		return ErrThrottled
	case g.logins.count(who) >= g.max:
		return errThrottledUser
	}
	return nil
}

// failures returns how many failures of source are remembered.
func (g *Guard) failures(source netip.Prefix) int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.sources.count(source)
}

func (g *Guard) fail(who login) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.sources.add(who.source, usersOfSource*g.max)
	g.logins.add(who, g.max)
}
