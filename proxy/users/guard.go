package users

import (
	"context"
	"errors"
	"net/netip"
	"sync"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"
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

// Guard checks passwords at a bounded cost: a number at a time, and none for
// sources that have failed too often. It outlives users files, and is safe for
// concurrent use.
type Guard struct {
	max    int           // failures of a source within the window; 0: any number
	hashes chan struct{} // has a token for each hash that is being computed

	mu     sync.Mutex
	failed *simplelru.LRU[netip.Prefix, failures]
}

// failures of one source.
type failures struct {
	count int
	until time.Time // when they are forgotten
}

// NewGuard returns a guard that refuses a source (an address, of IPv6 a /64) for a
// minute after maxFailures wrong passwords in a minute; 0 is any number. hashes
// bounds by its capacity how many hashes are computed at a time.
func NewGuard(maxFailures int, hashes chan struct{}) *Guard {
	failed, err := simplelru.NewLRU[netip.Prefix, failures](maxSources, nil)
	if err != nil {
		panic(err) // the size is not positive
	}
	return &Guard{max: maxFailures, hashes: hashes, failed: failed}
}

// Check reports whether the password is right. The error is ErrThrottled if the
// client's source has failed too often, and the cause of ctx if that ends before
// the client's turn comes.
func (g *Guard) Check(ctx context.Context, known *Checker, client netip.Addr, user, password string) (bool, error) {
	source := sourceOf(client)
	if g.throttled(source) {
		return false, ErrThrottled
	}
	if known.Remembers(user, password) {
		return true, nil
	}
	select {
	case g.hashes <- struct{}{}:
	case <-ctx.Done():
		return false, context.Cause(ctx)
	}
	defer func() { <-g.hashes }()
	if ctx.Err() != nil { // both were ready
		return false, context.Cause(ctx)
	}
	if g.throttled(source) { // by those that were ahead
		return false, ErrThrottled
	}
	if !known.Check(user, password) {
		g.fail(source)
		return false, nil
	}
	return true, nil
}

// sourceOf returns the network that one client can be expected to choose its
// addresses from: of IPv6 that is a /64.
func sourceOf(client netip.Addr) netip.Prefix {
	bits := 32
	if client = client.Unmap().WithZone(""); client.Is6() {
		bits = 64
	}
	return netip.PrefixFrom(client, bits).Masked()
}

func (g *Guard) throttled(source netip.Prefix) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	f, ok := g.failed.Peek(source)
	return ok && g.max > 0 && f.count >= g.max && time.Now().Before(f.until)
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
