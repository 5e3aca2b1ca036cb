package resolve

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"strings"
	"time"
)

// Default is Go's own resolver. The C library's would take "0x7f.1" for an address. It
// knows localhost without /etc/hosts, and does not wait long for IPv6 addresses if the
// server does not answer.
var Default Resolver = system{all: &net.Resolver{PreferGo: true}, files: &net.Resolver{PreferGo: true, Dial: noServer}}

// noServer makes a resolver use only /etc/hosts.
func noServer(context.Context, string, string) (net.Conn, error) {
	return nil, errors.New("localhost is not looked up in DNS")
}

// system resolves by /etc/hosts and DNS.
type system struct {
	all   Resolver
	files Resolver // asks no DNS server
}

// LookupNetIP implements Resolver.
func (r system) LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error) {
	// Go's resolver does not find "localhost." in /etc/hosts. In any other name the
	// final dot stays, as it keeps search domains away.
	if label, rest, found := strings.Cut(host, "."); found && rest == "" {
		host = label
	}
	if isLocalhost(host) {
		return r.localhost(ctx, network, host)
	}
	return r.all.LookupNetIP(ctx, network, host)
}

// isLocalhost reports whether a name is localhost or below it.
func isLocalhost(host string) bool {
	host = strings.ToLower(strings.TrimSuffix(host, "."))
	return host == "localhost" || strings.HasSuffix(host, ".localhost")
}

// localhost returns the loopback addresses, unless /etc/hosts has others. It does not
// ask DNS (RFC 6761 section 6.3). Images without any files lack /etc/hosts.
func (r system) localhost(ctx context.Context, network, host string) ([]netip.Addr, error) {
	if addrs, err := r.files.LookupNetIP(ctx, network, host); err == nil && len(addrs) > 0 {
		return addrs, nil
	}
	return []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1}), netip.IPv6Loopback()}, nil
}

const (
	// askIPv4After is how long a lookup may take before IPv4 is asked for alone.
	askIPv4After = 250 * time.Millisecond
	// resolutionDelay is how long IPv6 is waited for once there is IPv4 (RFC 8305
	// section 3).
	resolutionDelay = 50 * time.Millisecond
)

// impatient is a Resolver that can answer without waiting for both families.
type impatient interface {
	lookupTarget(ctx context.Context, host string) ([]netip.Addr, error)
}

// lookupTarget returns the addresses of a name that somebody connects to. Some servers
// drop queries for IPv6, and the resolver would wait ten seconds for both families.
// Then the IPv4 addresses are enough. Do not use it for names in rules: a missing
// address could let somebody pass.
func (r system) lookupTarget(ctx context.Context, host string) ([]netip.Addr, error) {
	ctx, cancel := context.WithCancel(ctx)
	both, four := begin(ctx, r, "ip", host), chan found(nil)
	var ipv4 found
	timer := time.NewTimer(askIPv4After)
	defer timer.Stop()
	defer func() {
		cancel()
		for _, c := range []chan found{both, four} {
			if c != nil {
				<-c
			}
		}
	}()
	for {
		select {
		case all := <-both:
			both = nil
			return all.addrs, all.err
		case ipv4 = <-four:
			four = nil
			if ipv4.err == nil && len(ipv4.addrs) > 0 {
				timer.Reset(resolutionDelay)
			}
		case <-timer.C:
			if len(ipv4.addrs) > 0 {
				return ipv4.addrs, nil
			}
			four = begin(ctx, r, "ip4", host)
		}
	}
}

// found is the answer of one lookup.
type found struct {
	addrs []netip.Addr
	err   error
}

// begin starts a lookup. Its answer comes from the channel.
func begin(ctx context.Context, r Resolver, network, host string) chan found {
	answer := make(chan found)
	go func() {
		addrs, err := r.LookupNetIP(ctx, network, host)
		answer <- found{addrs, err}
	}()
	return answer
}
