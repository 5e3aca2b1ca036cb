package main

import (
	"cmp"
	"context"
	"net"
	"net/netip"
	"slices"

	"usher/proxy"
	"usher/proxy/rules"
)

// lookOver logs what lintPolicy returns, beside the serving: no client and no
// signal waits for it. It ends a look at the policy before.
func (s *service) lookOver(policy *proxy.Policy) {
	s.lookAway()
	ctx, cancel := context.WithCancel(context.Background())
	s.lookAway = cancel
	s.serving.Go(func() {
		s.looking.Lock() // one at a time
		defer s.looking.Unlock()
		if ctx.Err() != nil {
			return
		}
		if found := lintPolicy(ctx, s.cfg, policy); ctx.Err() == nil {
			logDiagnostics(s.log.Logger, found)
		}
	})
}

// lintPolicy returns warnings, in the order of their places, about rules that
// are correct and may not be meant; not all if ctx ends. For a long file it may
// take a second, and where many rules have long lists of users, a minute.
func lintPolicy(ctx context.Context, cfg config, policy *proxy.Policy) []rules.Diagnostic {
	set := policy.Rules
	found := set.Lint(ctx)
	if r := set.OpenToAll(ctx, policy.Methods); r != nil && exposed(cfg, set.Settings) {
		found = append(found, rules.Diagnostic{Pos: r.Pos, Severity: rules.Warning,
			Message: "whoever can connect may use the proxy: with this rule all addresses are let in, and clients need no name",
			Remedy:  "name your clients' networks in from:, or set USHER_USERS_FILE and write socksmethod: username without none"})
	}
	sortFindings(found)
	return found
}

// sortFindings puts findings in the order of their places.
func sortFindings(found []rules.Diagnostic) {
	slices.SortStableFunc(found, func(a, b rules.Diagnostic) int {
		return cmp.Or(cmp.Compare(a.Pos.Line, b.Pos.Line), cmp.Compare(a.Pos.Col, b.Pos.Col))
	})
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
