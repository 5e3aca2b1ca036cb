package rules

import (
	"net/netip"
	"strings"
)

// builtinMark begins the names of networks that Usher knows. No host name and no
// address has it, so the names in older files keep their meaning.
const builtinMark = "@"

// specialName is the built-in that holds specialNetworks.
const specialName = builtinMark + "special"

// specialNetworks are the networks without public services: all of the IANA IPv4 and
// IPv6 Special-Purpose Address Registries (RFC 6890) as of 2025-10-09, multicast, and
// networks that translate into these. Addresses of IPv4 in IPv6 form (::ffff:0:0/96)
// are looked up as IPv4.
//
// The list may grow. The digest has only the name, so replicas of two versions share
// their counters.
var specialNetworks = prefixesOf(`
	0.0.0.0/8          this network (RFC 791)
	10.0.0.0/8         private (RFC 1918)
	100.64.0.0/10      carrier-grade NAT (RFC 6598)
	127.0.0.0/8        loopback (RFC 1122)
	168.63.129.16/32   Azure's metadata and DNS, a public address that only its guests reach
	169.254.0.0/16     link-local (RFC 3927), metadata of most clouds
	172.16.0.0/12      private (RFC 1918)
	192.0.0.0/24       IETF protocol assignments (RFC 6890), metadata of Oracle
	192.0.2.0/24       documentation (RFC 5737)
	192.31.196.0/24    AS112 (RFC 7535)
	192.52.193.0/24    AMT relays (RFC 7450)
	192.88.99.0/24     6to4 relays (RFC 7526)
	192.168.0.0/16     private (RFC 1918)
	192.175.48.0/24    AS112 (RFC 7534)
	198.18.0.0/15      benchmarks (RFC 2544)
	198.51.100.0/24    documentation (RFC 5737)
	203.0.113.0/24     documentation (RFC 5737)
	224.0.0.0/4        multicast (RFC 5771)
	240.0.0.0/4        reserved (RFC 1112), broadcast (RFC 919)

	::/96              unspecified and loopback (RFC 4291), IPv4-compatible
	::ffff:0:0:0/96    IPv4-translated (RFC 2765)
	64:ff9b::/96       NAT64 (RFC 6052)
	64:ff9b:1::/48     NAT64, local (RFC 8215)
	100::/64           discard-only (RFC 6666)
	100:0:0:1::/64     dummy (RFC 9780)
	2001::/23          IETF protocol assignments (RFC 2928): Teredo, benchmarks (2001:2::/48), ORCHID and others
	2001:db8::/32      documentation (RFC 3849)
	2002::/16          6to4 (RFC 3056)
	2620:4f:8000::/48  AS112 (RFC 7534)
	3fff::/20          documentation (RFC 9637)
	5f00::/16          segment routing (RFC 9602)
	fc00::/7           private (RFC 4193), metadata of AWS
	fe80::/10          link-local (RFC 4291)
	fec0::/10          site-local (RFC 3879)
	ff00::/8           multicast (RFC 4291)
`)

// prefixesOf reads the network that begins each line.
func prefixesOf(list string) (networks []netip.Prefix) {
	for line := range strings.Lines(list) {
		if fields := strings.Fields(line); len(fields) > 0 {
			networks = append(networks, netip.MustParsePrefix(fields[0]))
		}
	}
	return networks
}

// builtin returns the address that a word with builtinMark means, or what is wrong
// with it and the remedy.
func builtin(word string) (a address, message string) {
	if word != specialName {
		return a, word + " is not a network that Usher knows; write " + specialName + ", or addresses"
	}
	return address{kind: builtinAddress, name: specialName, networks: specialNetworks}, ""
}

// checkSource reports a rule that passes clients of @special: @special contains
// addresses that everybody can have, although its name suggests otherwise.
func (p *parser) checkSource(at Pos) {
	if p.rule.Pass && p.rule.cond.from.kind == builtinAddress {
		p.report(Danger, at, "from: "+specialName+" passes clients of the Internet too, by 6to4, Teredo and NAT64; write the networks of your clients")
	}
}
