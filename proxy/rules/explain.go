package rules

import (
	"fmt"
	"net/netip"
	"strings"
)

// Step is the result of asking one rule.
type Step struct {
	Rule     *Rule
	Mismatch Mismatch // NoMismatch: this rule decides
	Why      string   // for people: the condition that the query does not fulfil; "" if the rule decides
}

// String returns the keyword that was not fulfilled, as in the rule file; ""
// for NoMismatch.
func (m Mismatch) String() string {
	return [...]string{
		NoMismatch: "", NotCommand: "command", NotVersion: "proxyprotocol", NotMethod: "socksmethod", NotUser: "user", NotGroup: "group",
		NotFromPort: "from port", NotFrom: "from", NotToPort: "to port", NotTo: "to", NotLookedUp: "to",
	}[m]
}

// ExplainClient returns the verdict of MatchClient, and a Step for each rule up to
// the one that decides, or for all if none does. It uses no index.
func (s *Set) ExplainClient(q Query) (v Verdict, steps []Step) {
	q = q.plain()
	q.To.Name = ""
	for _, r := range s.Client {
		why := r.clientMismatch(&q)
		steps = append(steps, r.step(&q, why))
		if why == NoMismatch {
			return Verdict{Rule: r}, steps
		}
	}
	return Verdict{}, steps
}

// ExplainSocks returns the verdict of MatchSocks and its steps, see ExplainClient.
func (s *Set) ExplainSocks(q Query) (v Verdict, steps []Step) {
	q = q.plain()
	for _, r := range s.Socks {
		addrs, why := r.mismatch(&q)
		steps = append(steps, r.step(&q, why))
		if why == NoMismatch {
			return r.verdict(addrs), steps
		}
	}
	return Verdict{}, steps
}

// Splits reports whether the step depends on the address a in To of the query: the
// rule's to: was asked, and it holds some addresses of the family of a, but not all.
func (s Step) Splits(a netip.Addr) bool {
	if s.Mismatch != NoMismatch && s.Mismatch != NotTo {
		return false
	}
	switch to := &s.Rule.cond.to; to.kind {
	case prefixAddress:
		return to.prefix.Bits() > 0 && to.prefix.Addr().Is4() == a.Is4()
	case hostAddress, interfaceAddress, builtinAddress:
		return true
	}
	return false
}

func (r *Rule) step(q *Query, why Mismatch) Step {
	return Step{Rule: r, Mismatch: why, Why: r.why(q, why)}
}

// why describes a mismatch: the value in the query, and the condition of the rule.
func (r *Rule) why(q *Query, m Mismatch) string {
	c := &r.cond
	not := func(got string, want ...string) string {
		if len(want) == 0 {
			want = []string{"nothing, as command: and protocol: have no command in common"}
		}
		return fmt.Sprintf("%s is not in %s: %s", got, m, strings.Join(want, " "))
	}
	switch m {
	case NotCommand:
		return not(q.Command.String(), c.commandNames()...)
	case NotVersion:
		return not(fmt.Sprintf("socks_v%d", q.Version), c.versionNames()...)
	case NotMethod:
		return not(q.Method.String(), methodNames(r.Methods)...)
	case NotUser, NotGroup:
		who := q.User
		if q.Method == None {
			who = "a client without a name"
		}
		if m == NotGroup {
			return not(who, c.groups...)
		}
		return not(who, c.users...)
	case NotFromPort, NotFrom:
		return outside(&c.from, m, q.From.Addr().String(), q.From.Port())
	case NotToPort, NotTo:
		if q.kind() == kindAssociation {
			return "the request for an association names no target yet, and to: " + c.to.String() + " does not block all of them"
		}
		return outside(&c.to, m, q.To.words(q.Addrs), q.To.Port)
	}
	return ""
}

// outside says that an address or a port is not in e.
func outside(e *endpoint, m Mismatch, addr string, port uint16) string {
	if m == NotFromPort || m == NotToPort {
		return fmt.Sprintf("%d is not in %s", port, strings.Replace(m.String()+":", " port:", ": ... ", 1)+e.ports.String())
	}
	return fmt.Sprintf("%s is not in %s: %s", addr, m, e.address)
}

// words returns a target and its addresses, for people.
func (t Target) words(addrs []netip.Addr) string {
	if t.Name == "" {
		return t.Addr.String()
	}
	words := []string{t.Name}
	for _, a := range addrs {
		words = append(words, a.String())
	}
	return strings.Join(words, " ")
}

// LimitWords returns what the rule limits, each keyword with its value as in the
// rule file; nil if it limits nothing.
func (r *Rule) LimitWords() []string {
	if !r.Session.Limited {
		return nil
	}
	var b strings.Builder
	r.Session.print(&b, "", r.Client)
	return strings.Split(strings.TrimSpace(b.String()), "\n")
}

// LimitText returns one limit of the rule as the rule file has it: a maximum or a
// rate, for each key or for all sessions of the rule. It names the pool.
func (r *Rule) LimitText(rate, byKey bool) string {
	text := r.limitText(rate, byKey)
	if r.Session.Pool != "" {
		text += " in pool " + r.Session.Pool
	}
	return text
}

func (r *Rule) limitText(rate, byKey bool) string {
	s := &r.Session
	switch {
	case rate && byKey:
		return "session.state.throttle: " + s.KeyThrottle.String()
	case rate:
		return "session.throttle: " + s.Throttle.String()
	case byKey:
		return fmt.Sprintf("session.state.max: %d", s.KeyMax)
	}
	return fmt.Sprintf("%s: %d", r.maxKeyword, s.Max)
}

// CommandNamed returns the command that a rule file calls name.
func CommandNamed(name string) (c Command, known bool) {
	for _, choice := range commandChoices {
		if choice.name == name {
			return Command(choice.value), true
		}
	}
	return 0, false
}

// String returns the command's name in the rule file.
func (c Command) String() string { return choiceName(commandChoices, int(c)) }

// String returns the method's name in the rule file.
func (m Method) String() string { return choiceName(methodChoices, int(m)) }
