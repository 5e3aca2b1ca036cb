package udp

import (
	"context"
	"errors"
	"net/netip"
	"time"

	"usher/proxy/decide"
	"usher/proxy/resolve"
)

// maxWaiting is how many datagrams of one association may wait for names at a time.
// More are dropped.
const maxWaiting = 16

// nameWait is how long a datagram waits for names at most, including the names in
// rules. After that time, its sender does not want the answer any more.
const nameWait = 5 * time.Second

// errUnknownName says that a name must be looked up before a datagram can be
// judged.
var errUnknownName = errors.New("a name is not known yet")

// nameLookup looks up names for decisions about datagrams. It belongs to one goroutine.
type nameLookup struct {
	decide.Names
	get     func(name string) (addrs []netip.Addr, known bool)
	unknown bool // get was asked for a name that it does not know; reset for each datagram
}

func newNameLookup(get func(name string) ([]netip.Addr, bool)) *nameLookup {
	l := &nameLookup{get: get}
	l.Init(l)
	return l
}

// cachedOnly knows only the names whose answer the cache has.
func cachedOnly(names *resolve.Cache) *nameLookup { return newNameLookup(names.Cached) }

// blocking waits for names that the client needs, nameWait in all. The caller must call cancel.
func blocking(ctx context.Context, names *resolve.Cache, client netip.Addr) (l *nameLookup, cancel context.CancelFunc) {
	ctx, cancel = context.WithTimeout(ctx, nameWait)
	return newNameLookup(func(name string) ([]netip.Addr, bool) {
		addrs, err := names.Lookup(ctx, client, name)
		if err != nil {
			// A lookup that was cut off says nothing about the name. A rule that
			// blocks must not be skipped.
			return nil, ctx.Err() == nil
		}
		return addrs, true
	}), cancel
}

// Addrs implements decide.Lookup.
func (l *nameLookup) Addrs(name string) ([]netip.Addr, error) {
	addrs, known := l.get(name)
	if !known {
		l.unknown = true
	}
	return addrs, nil
}

// Missing implements decide.Lookup.
func (l *nameLookup) Missing() error {
	if l.unknown {
		return errUnknownName
	}
	return nil
}

// whenNamed starts a goroutine that waits for the names that a datagram needs, and then
// relays it. If too many datagrams wait, it drops the datagram.
func (a *Association) whenNamed(ctx context.Context, relay func(*nameLookup) outcome) outcome {
	select {
	case a.waiting <- struct{}{}:
	default:
		return dropWaiting
	}
	a.running.Go(func() {
		defer func() { <-a.waiting }()
		names, cancel := blocking(ctx, a.o.Names, a.o.Judge.From.Addr())
		defer cancel()
		result := relay(names)
		if result == needsName { // not in time
			result = dropUnresolved
		}
		a.count(result)
	})
	return deferred
}
