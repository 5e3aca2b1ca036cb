package proxy

import (
	"context"
	"net/netip"
	"runtime"
	"sync"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"

	"usher/proxy/socks"
	"usher/proxy/users"
)

const (
	// failureWindow is the time in which failures of one source add up, and
	// for which a source with too many is refused.
	failureWindow = time.Minute
	// maxSources bounds the sources whose failures are remembered; those that
	// failed longest ago go first.
	maxSources = 16384
)

// passwords checks passwords at a bounded cost: as many at a time as there are
// processors, and none for sources that have failed too often. It outlives
// policies, and is safe for concurrent use.
type passwords struct {
	max   int           // failures of a source within the window; 0: any number
	slots chan struct{} // one for each hash that is being computed

	mu     sync.Mutex
	failed *simplelru.LRU[netip.Prefix, failures]
}

// failures of one source.
type failures struct {
	count int
	until time.Time // when they are forgotten
}

func newPasswords(maxFailures int) *passwords {
	failed, err := simplelru.NewLRU[netip.Prefix, failures](maxSources, nil)
	if err != nil {
		panic(err) // the size is not positive
	}
	return &passwords{max: maxFailures, slots: make(chan struct{}, runtime.GOMAXPROCS(0)), failed: failed}
}

// check reports whether c is right. The error is errAuthThrottled if client's
// source failed too often, and ctx's if that ends before the turn comes.
func (p *passwords) check(ctx context.Context, known *users.Checker, client netip.Addr, c socks.Credentials) (bool, error) {
	source := sourceOf(client)
	if p.throttled(source) {
		return false, errAuthThrottled
	}
	if known.Remembers(c.User, c.Password) {
		return true, nil
	}
	select {
	case p.slots <- struct{}{}:
	case <-ctx.Done():
		return false, context.Cause(ctx)
	}
	defer func() { <-p.slots }()
	if ctx.Err() != nil { // both were ready
		return false, context.Cause(ctx)
	}
	if p.throttled(source) { // by those that were ahead
		return false, errAuthThrottled
	}
	if !known.Check(c.User, c.Password) {
		p.fail(source)
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

func (p *passwords) throttled(source netip.Prefix) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	f, ok := p.failed.Peek(source)
	return ok && p.max > 0 && f.count >= p.max && time.Now().Before(f.until)
}

func (p *passwords) fail(source netip.Prefix) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	f, ok := p.failed.Get(source)
	if !ok || !now.Before(f.until) {
		f = failures{until: now.Add(failureWindow)}
	}
	if f.count++; f.count == p.max {
		f.until = now.Add(failureWindow)
	}
	p.failed.Add(source, f)
}
