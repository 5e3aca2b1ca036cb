package decide

import (
	"fmt"
	"net/netip"

	"usher/proxy/rules"
	"usher/proxy/socks"
)

// Lookup looks names up.
type Lookup interface {
	// Addrs returns the addresses of a name. An error says why it has none.
	Addrs(name string) ([]netip.Addr, error)
	// Missing is asked after each walk over the rules. An error means that a name may
	// have addresses that Addrs did not return, such as after a time-out. Then there
	// is no verdict, because a rule that blocks may have been skipped.
	Missing() error
}

// Names resolves the names that decisions come across. Call Init before use.
// It belongs to one goroutine, and addresses that a decision returns are good
// until the next one with the same Names.
type Names struct {
	lookup  Lookup
	forRule func(name string) []netip.Addr // made once, not for each decision
	only    [1]netip.Addr                  // of a target that is an address
}

// Init makes n ask l. It returns n.
func (n *Names) Init(l Lookup) *Names {
	n.lookup = l
	n.forRule = n.ruleAddrs
	return n
}

// ruleAddrs returns the addresses of a name in a rule. A rule whose name does
// not resolve matches no address.
func (n *Names) ruleAddrs(name string) []netip.Addr {
	addrs, err := n.lookup.Addrs(name)
	if err != nil {
		return nil
	}
	return addrs
}

// of returns the addresses of a target, at least one. The error is
// ErrUnresolved.
func (n *Names) of(t rules.Target) ([]netip.Addr, error) {
	if t.Name == "" {
		n.only[0] = t.Addr
		return n.only[:], nil
	}
	addrs, err := n.lookup.Addrs(t.Name)
	switch {
	case err != nil:
		return nil, fmt.Errorf("%w: %w", ErrUnresolved, err)
	case len(addrs) == 0:
		return nil, ErrUnresolved
	}
	return addrs, nil
}

// Target returns what a client asks for as rules know it. An address that the client
// sends as a name becomes an address, so that it is not looked up.
func Target(asked socks.Addr) rules.Target {
	t := rules.Target{Name: asked.Name, Addr: asked.IP.Unmap(), Port: asked.Port}
	if asked.Name == "" {
		return t
	}
	ip, err := netip.ParseAddr(asked.Name)
	if err == nil {
		t.Name = ""
	}
	t.Addr = ip.WithZone("").Unmap()
	return t
}
