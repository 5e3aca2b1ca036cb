package policyfile

import (
	"fmt"
	"net/netip"

	"usher/cmd/usher/internal/settings"
	"usher/proxy/rules"
)

// Networks that are broader have too many hosts to be trusted, unless they are private.
const broadIPv4, broadIPv6 = 16, 32

var private = []netip.Prefix{
	netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("172.16.0.0/12"), netip.MustParsePrefix("192.168.0.0/16"),
	netip.MustParsePrefix("100.64.0.0/10"), netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("fc00::/7"),
}

// broadNetworks returns findings about networks that are trusted and have very many
// hosts. The whole Internet is a danger.
func broadNetworks(cfg settings.Config) (found []rules.Diagnostic) {
	for _, trusted := range []struct {
		variable string
		networks settings.Prefixes
		effect   string
		remedy   string
	}{
		{"USHER_PROXY_PROTOCOL_FROM", cfg.ProxyFrom, "can claim any client address", "name only the addresses of the balancers"},
		{"USHER_UDP_RELAY_FROM", cfg.UDPRelayFrom, "can open UDP associations for clients of any address", "name only the addresses of the balancers"},
		{"USHER_UDP_RELAY_CLIENTS", cfg.UDPRelayClients, "can take over the UDP association of another client", "name only the networks of the clients"},
	} {
		for _, n := range trusted.networks {
			if !broad(n) {
				continue
			}
			severity, hosts := rules.Warning, n.String()
			if n.Bits() == 0 {
				severity, hosts = rules.Danger, n.String()+", the whole Internet,"
			}
			found = append(found, rules.Diagnostic{
				Severity: severity,
				Message:  fmt.Sprintf("%s: every host in %s %s", trusted.variable, hosts, trusted.effect),
				Remedy:   trusted.remedy,
			})
		}
	}
	return found
}

func broad(n netip.Prefix) bool {
	for _, p := range private {
		if p.Overlaps(n) && n.Bits() >= p.Bits() {
			return false
		}
	}
	if n.Addr().Is4() {
		return n.Bits() < broadIPv4
	}
	return n.Bits() < broadIPv6
}
