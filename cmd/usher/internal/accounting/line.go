package accounting

import (
	"net/netip"
	"time"

	"usher/proxy/record"
)

// What a line is about.
const (
	eventEnded   = "ended"   // a session that was connected
	eventRefused = "refused" // one that was not, or several of them
)

// ofSession is the line of one session.
type ofSession struct {
	Time  time.Time `json:"time"`
	Event string    `json:"event"`
	Count int       `json:"count"` // always 1
	record.End
	// The key of End has the same fact as event, which stands for it.
	Refused *struct{} `json:"refused,omitempty"`
}

// ofSum is the line that sums up refusals. Its keys mean what they mean for a session,
// and have the value that all of them share.
type ofSum struct {
	Time  time.Time `json:"time"`
	Event string    `json:"event"`
	Count int       `json:"count"`
	From  time.Time `json:"from"`
	Until time.Time `json:"until"`

	Replica string `json:"replica,omitempty"`
	Reason  string `json:"reason"`
	// Source is an IPv4 address or an IPv6 network, and empty for that of many.
	Source string `json:"source,omitempty"`

	Generation     string       `json:"generation,omitempty"`
	User           string       `json:"user,omitempty"`
	ClientRule     string       `json:"client_rule,omitempty"`
	ClientRuleName string       `json:"client_rule_name,omitempty"`
	ClientRuleAt   string       `json:"client_rule_at,omitempty"`
	Rule           string       `json:"rule,omitempty"`
	RuleName       string       `json:"rule_name,omitempty"`
	RuleAt         string       `json:"rule_at,omitempty"`
	Pool           string       `json:"pool,omitempty"`
	LimitKey       string       `json:"limit_key,omitempty"`
	SOCKS          int          `json:"socks,omitempty"`
	Command        string       `json:"command,omitempty"`
	Target         string       `json:"target,omitempty"`
	Error          string       `json:"error,omitempty"`
	Held           *record.Held `json:"held,omitempty"`
}

func sessionLine(end *record.End, replica string, at time.Time) *ofSession {
	line := &ofSession{Time: at, Event: eventEnded, Count: 1, End: *end}
	if end.Refused {
		line.Event = eventRefused
	}
	line.Replica = replica
	return line
}

func sumLine(s *sum, replica string, at time.Time) *ofSum {
	e := &s.first
	return &ofSum{
		Time: at, Event: eventRefused, Count: s.count, From: e.Time, Until: s.until,
		Replica: replica, Reason: s.reason, Source: sourceName(s.source),
		Generation: e.Generation, User: e.User,
		ClientRule: e.ClientRule, ClientRuleName: e.ClientRuleName, ClientRuleAt: e.ClientRuleAt,
		Rule: e.Rule, RuleName: e.RuleName, RuleAt: e.RuleAt, Pool: e.Pool, LimitKey: e.LimitKey,
		SOCKS: e.SOCKS, Command: e.Command, Target: e.Target, Error: e.Error, Held: e.Held,
	}
}

// sourceName returns an IPv4 address without the length of its prefix.
func sourceName(source netip.Prefix) string {
	switch {
	case !source.IsValid():
		return ""
	case source.IsSingleIP():
		return source.Addr().String()
	}
	return source.String()
}
