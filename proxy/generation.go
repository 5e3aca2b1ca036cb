package proxy

import (
	"cmp"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"

	"usher/limiter"
	"usher/proxy/decide"
	"usher/proxy/rules"
	"usher/proxy/users"
	"usher/store/limit"
)

// Policy is everything that a reload replaces. It is a value: nobody changes
// it, nor what it points to, once the server has it.
type Policy struct {
	Rules *rules.Set
	// Number is that under which the rules were published. 0: they were not, and
	// the store gives their generation a number.
	Number uint64
	// Users knows the passwords. nil: nobody can prove a name, so the method
	// username is never offered.
	Users *users.Checker
	// Groups are the groups of those users. nil: there is none.
	Groups *users.Groups
	// External are the addresses to connect from (Dante's external:); the
	// first of the target's family is used. Empty: the system chooses.
	External []netip.Addr
}

// Decide returns the part of p that decisions depend on.
func (p *Policy) Decide() *decide.Policy {
	return &decide.Policy{Rules: p.Rules, External: p.External, Logins: p.Users != nil}
}

// Counter returns the name that a rule's sessions are counted by in the
// limiter, in all generations with this digest; in a pool, in all generations.
func Counter(digest string, r *rules.Rule) string {
	if r.Session.Pool != "" {
		return limiter.Pool(r.Session.Pool)
	}
	return digest + "/" + r.ID()
}

// generation is a policy that is in force, or under which running sessions began.
type generation struct {
	policy   *Policy
	decide   *decide.Policy // of policy
	digest   string
	sessions int           // guarded by the table's mutex
	number   atomic.Uint64 // 0 until the store has told it

	// would counts, by the position of a rule in session.mode report, the sessions that
	// it would have refused. Generations with the same digest share it, as they share
	// their counters. Guarded by the table's mutex.
	would map[string]uint64
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
	return limiter.Limit{
		Rule: Counter(g.digest, r), Max: r.Session.Max,
		Throttle: r.Session.Throttle, KeyThrottle: r.Session.KeyThrottle, Report: r.Session.Report,
		KeyMax: cmp.Or(r.Session.KeyMax, limit.None),
		Key:    g.policy.Rules.Key(r, client, user),
	}
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
