// Package resolve looks up the addresses of host names. A server asks Cache, which
// remembers answers for a time, bounds their number, and lets callers that want the same
// name share one lookup.
package resolve

import (
	"context"
	"errors"
	"net/netip"
	"strings"
	"unicode"
)

// Resolver resolves names; *net.Resolver does. network is "ip" or "ip4".
type Resolver interface {
	LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error)
}

// ErrName says that a text is not a host name. It is not looked up.
var ErrName = errors.New("invalid host name")

// usable returns the addresses that a connection can go to, each once and
// without a zone. The system would take an unspecified address for itself.
func usable(found []netip.Addr) []netip.Addr {
	addrs := make([]netip.Addr, 0, len(found))
	seen := make(map[netip.Addr]bool, len(found)) // a DNS answer may have thousands
	for _, a := range found {
		if a = a.Unmap().WithZone(""); !a.IsUnspecified() && !seen[a] {
			seen[a] = true
			addrs = append(addrs, a)
		}
	}
	return addrs
}

// checkName returns ErrName unless host can be a host name (RFC 1035 section
// 2.3.4): labels of 1 to 63 bytes, at most 253 bytes before an optional final
// dot, and neither blanks nor control characters. The resolver judges all
// other characters.
func checkName(host string) error {
	host = strings.TrimSuffix(host, ".")
	if len(host) > 253 || strings.ContainsFunc(host, func(r rune) bool { return unicode.IsSpace(r) || unicode.IsControl(r) }) {
		return ErrName
	}
	for label := range strings.SplitSeq(host, ".") {
		if label == "" || len(label) > 63 {
			return ErrName
		}
	}
	return nil
}
