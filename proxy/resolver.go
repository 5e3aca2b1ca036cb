package proxy

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode"

	"github.com/hashicorp/golang-lru/v2/simplelru"
)

// What is remembered of names. The time that DNS gives an answer is not known
// here: Go's resolver does not tell it.
const (
	maxNames  = 4096 // beside those of the rules; the least recently asked for go first
	maxAddrs  = 64   // of a name that is not in the rules; others are neither judged nor connected to
	keepFound = 30 * time.Second
	keepFail  = 3 * time.Second // names without an address, and a DNS that does not answer
)

var errName = errors.New("it is no host name")

// cachingResolver asks another Resolver, at most once at a time for a name,
// and remembers the answer for a while. It is safe for concurrent use.
type cachingResolver struct {
	resolver Resolver
	metrics  *Metrics
	running  sync.WaitGroup // lookups

	mu    sync.Mutex
	known *simplelru.LRU[string, *answer]
	ruled map[string]bool // the names in the rules, in lower case
}

// answer is what is known of a name, or will be.
type answer struct {
	done  chan struct{} // closed when addrs and err are there
	addrs []netip.Addr
	err   error

	// guarded by cachingResolver.mu:
	until   time.Time // zero while the lookup runs
	waiting int
	abandon context.CancelFunc // ends the lookup when nobody waits any more
}

func newCachingResolver(r Resolver, m *Metrics) *cachingResolver {
	c := &cachingResolver{resolver: r, metrics: m}
	c.drop(nil)
	return c
}

// LookupNetIP implements Resolver, with the usable addresses of the answer, at
// most maxAddrs unless the rules have the name. They are shared: they must not be
// changed. ctx ends the waiting of this caller alone; a lookup that nobody
// waits for is ended.
func (c *cachingResolver) LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error) {
	if err := checkName(host); err != nil {
		return nil, err
	}
	a := c.join(network, strings.ToLower(host))
	defer c.leave(a)
	select {
	case <-a.done:
		return a.addrs, a.err
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// cached returns what LookupNetIP would find without waiting: no addresses if
// host does not resolve. known is false if it would wait.
func (c *cachingResolver) cached(network, host string) (addrs []netip.Addr, known bool) {
	if checkName(host) != nil {
		return nil, true
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	a, ok := c.known.Get(network + " " + strings.ToLower(host))
	if !ok || !time.Now().Before(a.until) {
		return nil, false
	}
	c.metrics.asked(false)
	if a.err != nil {
		return nil, true
	}
	return a.addrs, true
}

// join returns the answer about host to wait for; somebody has to ask for it
// if it is new.
func (c *cachingResolver) join(network, host string) *answer {
	key := network + " " + host
	c.mu.Lock()
	defer c.mu.Unlock()
	if a, ok := c.known.Get(key); ok {
		running := a.until.IsZero() && a.waiting > 0
		if running || time.Now().Before(a.until) {
			a.waiting++
			c.metrics.asked(running)
			return a
		}
	}
	ctx, cancel := context.WithCancel(context.Background()) // not the caller's: others may join
	a := &answer{done: make(chan struct{}), waiting: 1, abandon: cancel}
	c.known.Add(key, a)
	c.running.Go(func() { c.ask(ctx, a, network, host) })
	return a
}

// ask looks host up.
func (c *cachingResolver) ask(ctx context.Context, a *answer, network, host string) {
	defer a.abandon()
	began := time.Now()
	a.addrs, a.err = c.resolver.LookupNetIP(ctx, network, host)
	a.addrs = usable(a.addrs)
	c.metrics.lookups.Observe(time.Since(began).Seconds())
	keep := keepFound
	if a.err != nil || len(a.addrs) == 0 {
		keep = keepFail
	}
	if ctx.Err() != nil {
		keep = 0 // it may be an error that is about nothing but this
	}
	c.mu.Lock()
	a.until = time.Now().Add(keep)
	if len(a.addrs) > maxAddrs && !c.ruled[host] {
		a.addrs = slices.Clone(a.addrs[:maxAddrs])
	}
	c.mu.Unlock()
	close(a.done)
}

// leave says that one caller waits no more.
func (c *cachingResolver) leave(a *answer) {
	c.mu.Lock()
	defer c.mu.Unlock()
	a.waiting--
	if a.waiting == 0 {
		a.abandon() // without effect if the answer is there
	}
}

// drop forgets all answers, and makes room for the names of rules: one walk
// over these must not push out those that the next walk begins with. Answers
// that are being looked up reach who waits for them, and nobody else.
func (c *cachingResolver) drop(ruleNames []string) {
	ruled := make(map[string]bool, len(ruleNames))
	for _, name := range ruleNames {
		ruled[strings.ToLower(name)] = true
	}
	known, err := simplelru.NewLRU[string, *answer](maxNames+len(ruled), nil)
	if err != nil {
		panic(err) // the size is not positive
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.known, c.ruled = known, ruled
}

// checkName refuses what no host is called (RFC 1035, section 2.3.4): labels
// of 1 to 63 bytes, 253 bytes in all and perhaps a final dot, and neither
// blanks nor control characters. Which other characters there are is for the
// resolver to say.
func checkName(host string) error {
	host = strings.TrimSuffix(host, ".")
	if len(host) > 253 || strings.ContainsFunc(host, func(r rune) bool { return unicode.IsSpace(r) || unicode.IsControl(r) }) {
		return errName
	}
	for label := range strings.SplitSeq(host, ".") {
		if label == "" || len(label) > 63 {
			return errName
		}
	}
	return nil
}
