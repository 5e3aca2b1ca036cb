package accounting

import (
	"net/netip"
	"time"

	"usher/proxy/fair"
	"usher/proxy/record"
)

// The bounds on the lines about refusals in a second. A source is an IPv4 address or an
// IPv6 /64. There are at most mostAlone lines of their own, and a sum for each of
// mostSources sources and reasons and, for the others, for each reason.
const (
	aloneEach   = 10  // lines of one source for one reason; the next refusals are summed up
	mostAlone   = 500 // lines in all
	mostSources = 500
)

// second sums up the refusals of a second, which begins with the first of them, and then
// those of the next one. It is not safe for concurrent use.
type second struct {
	over func() // is called when the second is over

	timer   *time.Timer // nil: it has not begun
	lines   int         // of refusals of their own
	sources int         // accounts with a source
	seen    map[account]*sum
	order   []*sum // those of seen, in the order of their first refusal
}

// account is what one sum is about. The zero source stands for all that came after
// mostSources.
type account struct {
	source netip.Prefix
	reason string
}

// sum is about the refusals of one account.
type sum struct {
	account
	lines int        // refusals with a line of their own
	count int        // the others
	first record.End // of the others; what they have in common, if there are several
	until time.Time  // of the last of them
}

// alone reports whether a refusal gets a line of its own. If not, it is added to a sum.
func (s *second) alone(end *record.End) bool {
	if s.timer == nil {
		s.seen = map[account]*sum{}
		s.timer = time.AfterFunc(time.Second, s.over)
	}
	sum := s.of(end)
	if sum.count == 0 && sum.lines < aloneEach && s.lines < mostAlone {
		sum.lines++
		s.lines++
		return true
	}
	sum.add(end)
	return false
}

// of returns the sum to which a refusal belongs.
func (s *second) of(end *record.End) *sum {
	key := account{fair.SourceOf(end.Client.Addr()), end.Reason}
	if have := s.seen[key]; have != nil {
		return have
	}
	if s.sources < mostSources {
		s.sources++
	} else {
		key.source = netip.Prefix{}
		if have := s.seen[key]; have != nil {
			return have
		}
	}
	have := &sum{account: key}
	s.seen[key] = have
	s.order = append(s.order, have)
	return have
}

// end returns the sums that are not empty, and ends the second.
func (s *second) end() (sums []*sum) {
	if s.timer == nil {
		return nil
	}
	s.timer.Stop()
	for _, one := range s.order {
		if one.count > 0 {
			sums = append(sums, one)
		}
	}
	*s = second{over: s.over}
	return sums
}

// add counts a refusal.
func (s *sum) add(end *record.End) {
	if s.count == 0 {
		s.first = *end
	} else {
		intersect(&s.first, end)
	}
	s.count++
	s.until = end.Time
}

// intersect clears what differs between have and next. What was held at the latest
// refusal replaces what was held before.
func intersect(have, next *record.End) {
	keep(&have.Generation, next.Generation)
	keep(&have.User, next.User)
	keep(&have.ClientRule, next.ClientRule)
	keep(&have.ClientRuleName, next.ClientRuleName)
	keep(&have.ClientRuleAt, next.ClientRuleAt)
	keep(&have.Rule, next.Rule)
	keep(&have.RuleName, next.RuleName)
	keep(&have.RuleAt, next.RuleAt)
	keep(&have.Pool, next.Pool)
	keep(&have.LimitKey, next.LimitKey)
	keep(&have.SOCKS, next.SOCKS)
	keep(&have.Command, next.Command)
	keep(&have.Target, next.Target)
	keep(&have.Error, next.Error)
	if next.Held != nil {
		have.Held = next.Held
	}
}

// keep clears have unless it is next.
func keep[T comparable](have *T, next T) {
	if *have != next {
		var none T
		*have = none
	}
}
