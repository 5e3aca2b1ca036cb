package policyfile

import (
	"context"
	"net"
	"net/netip"
	"slices"

	"usher/cmd/usher/internal/listen"
	"usher/cmd/usher/internal/settings"
	"usher/proxy/decide"
	"usher/proxy/rules"
)

// Lint returns dangers and warnings, in the order of rules.Sort, about rules that are
// correct but probably not intended. If ctx ends, some are missing. For a long file it
// may take a second, and where many rules have long lists of users, a minute.
func Lint(ctx context.Context, cfg settings.Config, policy *decide.Policy) []rules.Diagnostic {
	set := policy.Rules
	found := set.Lint(ctx)
	if r := set.OpenToAll(ctx, policy.Methods); r != nil && exposed(cfg, set.Settings) {
		found = append(found, rules.Diagnostic{Pos: r.Pos, Severity: rules.Danger,
			Message: "anybody who can connect may use this proxy: the rule lets all addresses in, and clients need not log in",
			Remedy:  "write the networks of your clients in from:, or set USHER_USERS_FILE and write socksmethod: username without none"})
	}
	rules.Sort(found)
	return found
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
