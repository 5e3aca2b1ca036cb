package policyfile

import (
	"cmp"
	"context"
	"net"
	"net/netip"
	"slices"

	"usher/cmd/usher/internal/listen"
	"usher/cmd/usher/internal/settings"
	"usher/proxy/decide"
	"usher/proxy/rules"
)

// Lint returns warnings, in the order of their places, about rules that
// are correct and may not be meant; not all if ctx ends. For a long file it may
// take a second, and where many rules have long lists of users, a minute.
func Lint(ctx context.Context, cfg settings.Config, policy *decide.Policy) []rules.Diagnostic {
	set := policy.Rules
	found := set.Lint(ctx)
	if r := set.OpenToAll(ctx, policy.Methods); r != nil && exposed(cfg, set.Settings) {
		found = append(found, rules.Diagnostic{Pos: r.Pos, Severity: rules.Warning,
			Message: "whoever can connect may use the proxy: with this rule all addresses are let in, and clients need no name",
			Remedy:  "name your clients' networks in from:, or set USHER_USERS_FILE and write socksmethod: username without none"})
	}
	Sort(found)
	return found
}

// Sort puts findings in the order of their places.
func Sort(found []rules.Diagnostic) {
	slices.SortStableFunc(found, func(a, b rules.Diagnostic) int {
		return cmp.Or(cmp.Compare(a.Pos.Line, b.Pos.Line), cmp.Compare(a.Pos.Col, b.Pos.Col))
	})
}

// exposed reports whether other machines can connect to where serve would listen.
func exposed(cfg settings.Config, settings rules.Settings) bool {
	addrs, _, err := listen.Addresses(cfg, settings)
	return err == nil && slices.ContainsFunc(addrs, func(where string) bool {
		host, _, _ := net.SplitHostPort(where)
		addr, err := netip.ParseAddr(host)
		return host != "localhost" && (err != nil || !addr.IsLoopback())
	})
}
