package proxy

import (
	"cmp"
	"context"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"

	"usher/limiter"
	"usher/proxy/rules"
	"usher/proxy/socks"
	"usher/proxy/users"
	"usher/store/limit"
)

// Policy is everything that a reload replaces. It is a value: nobody changes
// it, nor what it points to, once the server has it.
type Policy struct {
	Rules *rules.Set
	// Users knows the passwords. nil: nobody can prove a name, so the method
	// username is never offered.
	Users *users.Checker
	// Groups are the groups of those users. nil: there is none.
	Groups *users.Groups
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
		return "g" + strconv.FormatUint(n, 10) + "-" + hash
	}
	return "g?-" + hash
}

// limit returns what a session of r is counted by.
func (g *generation) limit(r *rules.Rule, client netip.Addr, user string) limiter.Limit {
	if !r.Session.Limited {
		return limiter.Limit{}
	}
	limit := limiter.Limit{
		Rule: Counter(g.digest, r), Max: r.Session.Max,
		Throttle: r.Session.Throttle, KeyThrottle: r.Session.KeyThrottle,
		KeyMax: cmp.Or(r.Session.KeyMax, limit.None),
	}
	switch r.Session.Key {
	case rules.KeyFrom:
		limit.Key = "from=" + client.Unmap().WithZone("").String()
	case rules.KeyUser:
		limit.Key = "user=" + user
	}
	return limit
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

// Methods returns the methods that a client let in by the client-rule r may
// use, in the server's order of preference. Without a socksmethod line that
// is none, or username alone if there are users: a users file that nobody is
// asked about would be an open door.
func (p *Policy) Methods(r *rules.Rule) []rules.Method {
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

// Inherits reports whether a session goes on in the slot that it has by its
// client-rule: a socks-rule with a limit of its own gives it another one.
func Inherits(client, socks *rules.Rule) bool {
	return !socks.Session.Limited && client.Session.Inheritable
}

// askClient asks the client-rules; the names in them are looked up within the
// deadline of the negotiation. As in askSocks, an error leaves no verdict.
func (s *session) askClient(ctx context.Context) (v rules.Verdict, err error) {
	var lookup func(name string) []netip.Addr // nil: no name was asked for yet
	stop := func() {}
	defer func() { stop() }()
	v = s.gen.policy.Rules.MatchClient(rules.Query{
		From: s.from,
		To:   rules.Target{Addr: s.to.Addr(), Port: s.to.Port()},
		Lookup: func(name string) []netip.Addr {
			if lookup == nil {
				ctx, stop = s.waiting(ctx)
				lookup = s.lookup(ctx)
			}
			addrs := lookup(name)
			err = context.Cause(ctx)
			return addrs
		},
	})
	return v, err
}

// askSocks asks the socks-rules. The error is why ctx ended: there is no verdict
// then, as a rule may have been passed over because its name was not found in
// time.
func (s *session) askSocks(ctx context.Context, q rules.Query) (rules.Verdict, error) {
	q.Lookup = s.lookup(ctx)
	v := s.gen.policy.Rules.MatchSocks(q)
	return v, context.Cause(ctx)
}

// query returns what all questions to the socks-rules about s have in common.
func (s *session) query(command rules.Command) rules.Query {
	return rules.Query{
		From:    s.from,
		Command: command,
		Version: rules.Version(s.request.Version),
		Method:  s.method,
		User:    s.user,
		InGroup: s.inGroup,
	}
}

// inGroup reports whether the client is in a group. Rules ask it only about a
// user whose password was checked.
func (s *session) inGroup(group string) bool { return s.gen.policy.Groups.In(group, s.user) }

// methodOnWire is RFC 1928's number of a method.
func methodOnWire(m rules.Method) socks.Method {
	if m == rules.Username {
		return socks.Username
	}
	return socks.NoAuth
}
