package proxy

import (
	"context"
	"net/netip"
	"time"

	"usher/proxy/rules"
)

// nameWait is how long a datagram waits for names at most, its target's and
// those of rules together: what it asks for is not wanted any more by then.
const nameWait = 5 * time.Second

// asker gets the addresses that the judgement of a datagram needs. It belongs
// to one goroutine.
type asker struct {
	get     func(name string) (addrs []netip.Addr, known bool)
	unknown bool                           // a name was asked for that is not known yet
	lookup  func(name string) []netip.Addr // addrs, made once and not for every datagram
	only    [1]netip.Addr                  // of a target that is no name
}

func newAsker(get func(name string) ([]netip.Addr, bool)) *asker {
	k := &asker{get: get}
	k.lookup = k.addrs
	return k
}

// quickAsker asks for nothing that takes time.
func (s *Server) quickAsker() *asker { return newAsker(s.names.Cached) }

// patientAsker waits for names, nameWait in all. forget frees what it holds.
func (s *Server) patientAsker(ctx context.Context) (k *asker, forget context.CancelFunc) {
	ctx, forget = context.WithTimeout(ctx, nameWait)
	return newAsker(func(name string) ([]netip.Addr, bool) {
		addrs, err := s.names.Lookup(ctx, name)
		if err != nil {
			return nil, ctx.Err() == nil // cut off is not without address: a rule that blocks must not be passed over
		}
		return addrs, true
	}), forget
}

// of returns the addresses of a target.
func (k *asker) of(t rules.Target) []netip.Addr {
	if t.Name != "" {
		return k.addrs(t.Name)
	}
	k.only[0] = t.Addr
	return k.only[:]
}

// addrs returns the addresses of a name, none if it has none or is unknown.
func (k *asker) addrs(name string) []netip.Addr {
	addrs, known := k.get(name)
	if !known {
		k.unknown = true
	}
	return addrs
}
