package main

import (
	"cmp"
	"net"
	"net/netip"
	"slices"

	"usher/proxy"
	"usher/proxy/rules"
	"usher/proxy/users"
)

// lintRules adds to the findings about a rule file, which stay in the order of
// their places, warnings about rules that are correct and may not be meant.
func lintRules(cfg config, set *rules.Set, known accounts, found []rules.Diagnostic) []rules.Diagnostic {
	if set == nil {
		return found
	}
	found = append(found, set.Lint()...)
	policy := proxy.Policy{Rules: set}
	if known.usersFile {
		policy.Users = &users.Checker{} // which users there are does not matter here
	}
	if r := set.OpenToAll(policy.Methods); r != nil && exposed(cfg, set.Settings) {
		found = append(found, rules.Diagnostic{Pos: r.Pos, Severity: rules.Warning,
			Message: "whoever can connect may use the proxy: with this rule all addresses are let in, and clients need no name",
			Remedy:  "name your clients' networks in from:, or set USHER_USERS_FILE and write socksmethod: username without none"})
	}
	slices.SortStableFunc(found, func(a, b rules.Diagnostic) int {
		return cmp.Or(cmp.Compare(a.Pos.Line, b.Pos.Line), cmp.Compare(a.Pos.Col, b.Pos.Col))
	})
	return found
}

// exposed reports whether other machines can connect to where serve would listen.
func exposed(cfg config, settings rules.Settings) bool {
	addrs, _, err := listenAddresses(cfg, settings)
	return err == nil && slices.ContainsFunc(addrs, func(where string) bool {
		host, _, _ := net.SplitHostPort(where)
		addr, err := netip.ParseAddr(host)
		return host != "localhost" && (err != nil || !addr.IsLoopback())
	})
}
