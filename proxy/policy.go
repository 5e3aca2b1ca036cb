package proxy

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"

	"usher/limiter"
	"usher/proxy/rules"
	"usher/proxy/socks"
	"usher/proxy/users"
)

// Policy is everything that a reload replaces. It is a value: nobody changes
// it, nor what it points to, once the server has it.
type Policy struct {
	Rules *rules.Set
	// Users knows the passwords. nil: nobody can prove a name, so the method
	// username is never offered.
	Users *users.Checker
	// External are the addresses to connect from (Dante's external:); the
	// first of the target's family is used. Empty: the system chooses.
	External []netip.Addr
}

// Counter returns the name that a rule's sessions are counted by in the
// limiter, in all generations with this digest.
func Counter(digest string, r *rules.Rule) string { return digest + "/" + r.ID() }

// generation is one policy in force, or that was in force when sessions of it
// began that still live.
type generation struct {
	policy   *Policy
	digest   string
	sessions int           // guarded by the table's mutex
	number   atomic.Uint64 // 0 until the store has told it
}

// label names the generation for people: g5-9f31c2ab, g?-9f31c2ab while the
// number is not known.
func (g *generation) label() string {
	hash := strings.TrimPrefix(g.digest, "c1")
	hash = hash[:min(8, len(hash))]
	if n := g.number.Load(); n != 0 {
		return fmt.Sprintf("g%d-%s", n, hash)
	}
	return "g?-" + hash
}

// limit returns what sessions of r are counted by.
func (g *generation) limit(r *rules.Rule) limiter.Limit {
	if r == nil || !r.Session.Limited {
		return limiter.Limit{}
	}
	return limiter.Limit{Rule: Counter(g.digest, r), Max: r.Session.Max}
}

// counters returns the counters of all rules with a limit.
func (g *generation) counters() []string {
	var list []string
	for _, r := range slices.Concat(g.policy.Rules.Client, g.policy.Rules.Socks) {
		if r.Pass && r.Session.Limited {
			list = append(list, Counter(g.digest, r))
		}
	}
	return list
}

// methods returns the methods that a client let in by the client-rule r may
// use, in the server's order of preference. Without a socksmethod line that
// is none, or username alone if there are users: a users file that nobody is
// asked about would be an open door.
func (p *Policy) methods(r *rules.Rule) []rules.Method {
	given := len(p.Rules.Settings.Methods) > 0 || r != nil && len(r.Methods) > 0
	switch {
	case given && p.Users != nil:
		return p.Rules.MethodsFor(r)
	case given:
		return slices.DeleteFunc(slices.Clone(p.Rules.MethodsFor(r)), func(m rules.Method) bool { return m == rules.Username })
	case p.Users != nil:
		return []rules.Method{rules.Username}
	}
	return []rules.Method{rules.None}
}

// timeouts returns those of r, or the server's: health checks have no
// client-rule.
func (p *Policy) timeouts(r *rules.Rule) rules.Timeouts {
	if r == nil {
		return p.Rules.Settings.Timeouts
	}
	return r.Timeouts
}

// askClient asks the client-rules.
func (s *session) askClient(lookup func(string) []netip.Addr) rules.Verdict {
	return s.gen.policy.Rules.MatchClient(rules.Query{
		From:   s.from,
		To:     rules.Target{Addr: s.to.Addr(), Port: s.to.Port()},
		Lookup: lookup,
	})
}

// askSocks asks the socks-rules about the request; addrs are what its name
// resolved to.
func (s *session) askSocks(target rules.Target, addrs []netip.Addr, lookup func(string) []netip.Addr) rules.Verdict {
	return s.gen.policy.Rules.MatchSocks(rules.Query{
		From:    s.from,
		To:      target,
		Addrs:   addrs,
		Command: rules.Connect,
		Version: rules.Version(s.request.Version),
		Method:  s.method,
		User:    s.user,
		Lookup:  lookup,
	})
}

// methodOnWire is RFC 1928's number of a method.
func methodOnWire(m rules.Method) socks.Method {
	if m == rules.Username {
		return socks.Username
	}
	return socks.NoAuth
}
