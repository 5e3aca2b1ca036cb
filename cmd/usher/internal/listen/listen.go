// Package listen decides which addresses usher listens at, and opens them.
package listen

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"

	"usher/cmd/usher/internal/settings"
	"usher/proxy"
	"usher/proxy/rules"
)

// InterfaceAddrs returns the current addresses of a network interface, and
// whether there is one of that name. On Linux a name may be the label of some of
// them, such as eth0:1, and eth0 is those that have no other label, as for
// getifaddrs(3) and Dante.
func InterfaceAddrs(name string) ([]netip.Addr, bool) {
	found, err := labelled()
	if err != nil {
		return nil, false
	}
	var addrs []netip.Addr
	for _, a := range found {
		if a.label == name {
			addrs = append(addrs, a.addr)
		}
	}
	if _, err := net.InterfaceByName(name); err != nil && len(addrs) == 0 {
		return nil, false
	}
	return addrs, true
}

// labelledAddr is an address and what it is called by: its label, else its interface.
type labelledAddr struct {
	label string
	addr  netip.Addr
}

// EndpointError says why an internal: or external: line cannot be used on this
// machine.
type EndpointError struct {
	Pos          rules.Pos
	What, Remedy string
}

func (e *EndpointError) Error() string { return fmt.Sprintf("%s: %s; %s", e.Pos, e.What, e.Remedy) }

// Endpoints returns the addresses of internal: or external: lines. An
// interface stands for all its addresses of the requested families, except
// link-local ones, which are ambiguous without a zone.
func Endpoints(list []rules.Endpoint) ([]netip.AddrPort, error) {
	var out []netip.AddrPort
	for _, e := range list {
		if e.Interface == "" {
			out = append(out, netip.AddrPortFrom(e.Addr, e.Port))
			continue
		}
		addrs, ok := InterfaceAddrs(e.Interface)
		if !ok {
			return nil, &EndpointError{e.Pos, fmt.Sprintf("this machine has no interface %q", e.Interface), "name an existing interface or an address"}
		}
		before := len(out)
		for _, a := range addrs {
			if !a.IsLinkLocalUnicast() && e.Families.Has(a) {
				out = append(out, netip.AddrPortFrom(a, e.Port))
			}
		}
		if len(out) == before { // an empty list would mean any address
			return nil, &EndpointError{e.Pos, fmt.Sprintf("interface %q has no usable address", e.Interface), "give it one, or name an address"}
		}
	}
	return out, nil
}

// Addresses returns the addresses to listen at, and their source: USHER_LISTEN, a line
// of the rule file, or "default".
func Addresses(cfg settings.Config, set rules.Settings) (addrs []string, source string, err error) {
	if len(set.Internal) == 0 || cfg.ListenSet {
		source = "USHER_LISTEN"
		if !cfg.ListenSet {
			source = "default"
		}
		for _, a := range cfg.Listen {
			addrs = append(addrs, string(a))
		}
		return addrs, source, nil
	}
	list, err := Endpoints(set.Internal)
	for _, a := range list {
		addrs = append(addrs, a.String())
	}
	return addrs, set.Internal[0].Pos.String(), err
}

// Check returns an error finding for each of internal: and external: that cannot be
// used on this machine. It opens no listener.
func Check(cfg settings.Config, set rules.Settings) (found []rules.Diagnostic) {
	_, _, internal := Addresses(cfg, set)
	_, external := Endpoints(set.External)
	for _, err := range []error{internal, external} {
		var e *EndpointError
		if errors.As(err, &e) {
			found = append(found, rules.Diagnostic{Pos: e.Pos, Severity: rules.Error, Message: e.What, Remedy: e.Remedy})
		}
	}
	return found
}

// One opens a listener.
func One(addr string) (net.Listener, error) {
	ln, err := proxy.Listen(context.Background(), addr)
	if err != nil {
		return nil, listenError(addr, err)
	}
	return ln, nil
}

func listenError(addr string, err error) error {
	var op *net.OpError
	if errors.As(err, &op) {
		err = op.Err // the OpError would repeat the address
	}
	host, port, _ := net.SplitHostPort(addr)
	remedy := "stop the program that listens there, or choose another address"
	if n, perr := strconv.Atoi(port); perr == nil && n > 0 && n < 1024 {
		remedy += " (ports below 1024 may need a privilege)"
	}
	if host == "" {
		host = "*"
	}
	return fmt.Errorf("cannot listen at %s: %w; %s", net.JoinHostPort(host, port), err, remedy)
}
