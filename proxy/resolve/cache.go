package resolve

import (
	"cmp"
	"context"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"

	"usher/proxy/fair"
)

// Bounds of a Cache. Answers are kept for fixed times because Go's resolver
// does not tell the TTL of a DNS record.
const (
	maxNames  = 4096 // besides the rules' names; the least recently used are removed first
	maxAddrs  = 64   // of a name that is not in the rules; further ones are ignored
	keepFound = 30 * time.Second
	keepFail  = 3 * time.Second // names without an address, and errors of the resolver
)

// Observer counts what a Cache does. Its methods are called concurrently.
type Observer interface {
	// Answered counts a name that needed no lookup of its own. joined is true if
	// another caller's lookup was under way, and false if the answer was known.
	Answered(joined bool)
	// Delayed counts a lookup that must wait because too many run.
	Delayed()
	// LookedUp counts a lookup that has ended. took does not include the wait of
	// Delayed.
	LookedUp(took time.Duration)
}

// Cache asks a Resolver and remembers its answers for a while. There is at
// most one lookup of a name at a time, and a bounded number of all names. It is
// safe for concurrent use.
//
// A singleflight library would replace join and leave, but the ones that end a
// lookup without callers start goroutines that Wait could not wait for.
type Cache struct {
	resolver Resolver
	observer Observer
	turns    fair.Queue
	lookups  sync.WaitGroup

	mu      sync.Mutex
	answers *simplelru.LRU[string, *answer] // by name in lower case
	ruled   map[string]bool                 // the rules' names, in lower case
}

// answer is the answer to one lookup, which may still be under way.
type answer struct {
	done  chan struct{} // closed when addrs and err are set
	addrs []netip.Addr
	err   error

	// Guarded by Cache.mu:
	until   time.Time // zero while the lookup runs
	callers int       // waiting for done
	abandon context.CancelFunc
}

// DefaultLookups is how many lookups a Cache runs at a time if it is not told. A
// lookup takes two descriptors, one for IPv4, one for IPv6 addresses, and a third
// one while a server is slow.
const DefaultLookups = 128

// NewCache returns an empty cache that runs at most so many lookups at a time, and
// half of them for one source (an address, of IPv6 a /64). More wait, and sources
// take turns. 0 is DefaultLookups. o may be nil.
func NewCache(r Resolver, atOnce int, o Observer) *Cache {
	if o == nil {
		o = unobserved{}
	}
	atOnce = cmp.Or(atOnce, DefaultLookups)
	c := &Cache{resolver: r, observer: o, turns: fair.Queue{Size: atOnce, Each: max(atOnce/2, 1)}}
	c.Reset(nil)
	return c
}

// Lookup returns the usable addresses of a name for a client: each once, at most 64 unless
// the name is one of the rules', and none that is unspecified. The caller must
// not change them. The error is ErrName, the resolver's, or the cause of ctx,
// which ends the waiting of this caller alone. A lookup that has no caller left
// is cancelled.
func (c *Cache) Lookup(ctx context.Context, client netip.Addr, name string) ([]netip.Addr, error) {
	if err := checkName(name); err != nil {
		return nil, err
	}
	a := c.join(fair.SourceOf(client), strings.ToLower(name))
	defer c.leave(a)
	select {
	case <-a.done:
		return a.addrs, a.err
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// Cached returns what Lookup would return without waiting. If that is an error, it
// returns no addresses. known is false if Lookup would have to wait.
func (c *Cache) Cached(name string) (addrs []netip.Addr, known bool) {
	if checkName(name) != nil {
		return nil, true
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	a, ok := c.answers.Get(strings.ToLower(name))
	if !ok || !time.Now().Before(a.until) {
		return nil, false
	}
	c.observer.Answered(false)
	if a.err != nil {
		return nil, true
	}
	return a.addrs, true
}

// Reset forgets all answers and adds room for the names of new rules, so that a walk
// over the rules does not push out the names that the next walk begins with. The
// answers of lookups that are under way reach their callers, but are not kept.
func (c *Cache) Reset(ruleNames []string) {
	ruled := make(map[string]bool, len(ruleNames))
	for _, name := range ruleNames {
		ruled[strings.ToLower(name)] = true
	}
	answers, err := simplelru.NewLRU[string, *answer](maxNames+len(ruled), nil)
	if err != nil {
		panic(err) // the size is not positive
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.answers, c.ruled = answers, ruled
}

// Wait returns when no lookup is under way. Lookup must not be called
// meanwhile.
func (c *Cache) Wait() { c.lookups.Wait() }

// join returns the answer to wait for, and begins a lookup if there is none.
func (c *Cache) join(source netip.Prefix, name string) *answer {
	c.mu.Lock()
	defer c.mu.Unlock()
	if a, ok := c.answers.Get(name); ok {
		running := a.until.IsZero() && a.callers > 0
		if running || time.Now().Before(a.until) {
			a.callers++
			c.observer.Answered(running)
			return a
		}
	}
	ctx, cancel := context.WithCancel(context.Background()) // not the caller's: others may join
	a := &answer{done: make(chan struct{}), callers: 1, abandon: cancel}
	c.answers.Add(name, a)
	c.lookups.Go(func() { c.ask(ctx, a, source, name) })
	return a
}

// leave takes one caller away, and cancels the lookup after the last one.
func (c *Cache) leave(a *answer) {
	c.mu.Lock()
	defer c.mu.Unlock()
	a.callers--
	if a.callers == 0 {
		a.abandon() // no effect if the answer is there
	}
}

// ask looks a name up.
func (c *Cache) ask(ctx context.Context, a *answer, source netip.Prefix, name string) {
	defer a.abandon()
	a.addrs, a.err = c.inTurn(ctx, source, name)
	keep := keepFound
	if a.err != nil || len(a.addrs) == 0 {
		keep = keepFail
	}
	if ctx.Err() != nil {
		keep = 0 // the error may come from the cancellation alone
	}
	c.mu.Lock()
	a.until = time.Now().Add(keep)
	if len(a.addrs) > maxAddrs && !c.ruled[name] {
		a.addrs = slices.Clone(a.addrs[:maxAddrs])
	}
	c.mu.Unlock()
	close(a.done)
}

// inTurn asks the resolver when it is the turn of source.
func (c *Cache) inTurn(ctx context.Context, source netip.Prefix, name string) ([]netip.Addr, error) {
	if !c.turns.Try(source) {
		c.observer.Delayed()
		if err := c.turns.Acquire(ctx, source); err != nil {
			return nil, err
		}
	}
	defer c.turns.Release(source)
	began := time.Now()
	addrs, err := c.lookup(ctx, name)
	c.observer.LookedUp(time.Since(began))
	return usable(addrs), err
}

// lookup asks the resolver: for a name in rules until both families are known.
func (c *Cache) lookup(ctx context.Context, name string) ([]netip.Addr, error) {
	c.mu.Lock()
	ruled := c.ruled[name]
	c.mu.Unlock()
	if r, ok := c.resolver.(impatient); ok && !ruled {
		return r.lookupTarget(ctx, name)
	}
	return c.resolver.LookupNetIP(ctx, "ip", name)
}

// unobserved is the observer that counts nothing.
type unobserved struct{}

func (unobserved) Answered(bool)          {}
func (unobserved) Delayed()               {}
func (unobserved) LookedUp(time.Duration) {}
