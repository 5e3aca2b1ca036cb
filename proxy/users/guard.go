package users

import (
	"context"
	"errors"
	"net/netip"
	"runtime"
	"sync"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"

	"usher/proxy/fair"
)

const (
	// failureWindow is the time in which failures of one source add up, and
	// for which a source with too many is refused.
	failureWindow = time.Minute
	// maxSources bounds the sources whose failures are remembered; those that
	// failed longest ago go first.
	maxSources = 16384
)

// ErrThrottled is returned for a source that has failed too often.
var ErrThrottled = errors.New("too many wrong passwords from this source")

// Guard checks passwords at a bounded cost: a number at a time, one of a source,
// and none for sources that have failed too often. It outlives users files, and is
// safe for concurrent use.
type Guard struct {
	max    int // failures of a source within the window; 0: any number
	hashes *fair.Queue

	mu     sync.Mutex
	failed *simplelru.LRU[netip.Prefix, failures]
}

// failures of one source.
type failures struct {
	count int
	until time.Time // when they are forgotten
}

// HashQueue returns a queue for NewGuard that leaves a processor for all other
// work of the process.
func HashQueue() *fair.Queue {
	return &fair.Queue{Size: max(runtime.GOMAXPROCS(0)-1, 1), Each: 1}
}

// NewGuard returns a guard that refuses a source (an address, of IPv6 a /64) for a
// minute after maxFailures wrong passwords in a minute; 0 is any number. Hashes wait
// for their turn in the queue, which must be new. Sources with fewer wrong passwords
// go first.
func NewGuard(maxFailures int, hashes *fair.Queue) *Guard {
	failed, err := simplelru.NewLRU[netip.Prefix, failures](maxSources, nil)
	if err != nil {
		panic(err) // the size is not positive
	}
	g := &Guard{max: maxFailures, hashes: hashes, failed: failed}
	hashes.Rank = g.failures
	return g
}

// Check reports whether the password is right. The error is ErrThrottled if the
// client's source has failed too often, and the cause of ctx if that ends before
// the client's turn comes.
func (g *Guard) Check(ctx context.Context, known *Checker, client netip.Addr, user, password string) (bool, error) {
	source := fair.SourceOf(client)
	if g.throttled(source) {
		return false, ErrThrottled
	}
	if known.Remembers(user, password) {
		return true, nil
	}
	if err := g.hashes.Acquire(ctx, source); err != nil {
		return false, err
	}
	defer g.releaseAfterRest(source, time.Now())
	if g.throttled(source) { // by those that were ahead
		return false, ErrThrottled
	}
	if !known.Check(user, password) {
		g.fail(source)
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

func (g *Guard) throttled(source netip.Prefix) bool {
	return g.max > 0 && g.failures(source) >= g.max
}

// failures returns how many failures of source are remembered.
func (g *Guard) failures(source netip.Prefix) int {
	g.mu.Lock()
	defer g.mu.Unlock()
	f, ok := g.failed.Peek(source)
	if !ok || !time.Now().Before(f.until) {
		return 0
	}
	return f.count
}

func (g *Guard) fail(source netip.Prefix) {
	g.mu.Lock()
	defer g.mu.Unlock()
	now := time.Now()
	f, ok := g.failed.Get(source)
	if !ok || !now.Before(f.until) {
		f = failures{until: now.Add(failureWindow)}
	}
	if f.count++; f.count == g.max {
		f.until = now.Add(failureWindow)
	}
	g.failed.Add(source, f)
}
