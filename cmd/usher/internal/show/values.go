package show

import (
	"cmp"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"usher/proxy/printable"
	"usher/proxy/record"
)

// none stands for a value that is not there.
const none = "-"

// period prints a time span in its two largest units.
func period(d time.Duration) string {
	d = max(d, 0)
	switch s := int64(d / time.Second); {
	case s < 60:
		return fmt.Sprintf("%ds", s)
	case s < 3600:
		return fmt.Sprintf("%dm%02ds", s/60, s%60)
	case s < 86400:
		return fmt.Sprintf("%dh%02dm", s/3600, s/60%60)
	default:
		return fmt.Sprintf("%dd%02dh", s/86400, s/3600%24)
	}
}

// seconds is period for seconds of an answer, which may be any number.
func seconds(s float64) string {
	if !(s > 0) {
		s = 0
	}
	return period(time.Duration(min(s, 1e9)) * time.Second)
}

// size prints a number of bytes with three digits.
func size(n int64) string {
	if n < 1000 {
		return fmt.Sprintf("%dB", n)
	}
	value, units := float64(n), "kMGTPE"
	for value /= 1000; value >= 999.5 && len(units) > 1; value /= 1000 {
		units = units[1:]
	}
	if value < 9.95 {
		return fmt.Sprintf("%.1f%cB", value, units[0])
	}
	return fmt.Sprintf("%.0f%cB", value, units[0])
}

// clock prints a point in time in the zone of now: the time if it is of the same day,
// else the day and the time without seconds.
func clock(t, now time.Time) string {
	if t.IsZero() {
		return none
	}
	t = t.In(now.Location())
	switch {
	case t.Format(time.DateOnly) == now.Format(time.DateOnly):
		return t.Format(time.TimeOnly)
	case t.Year() == now.Year():
		return t.Format("Jan _2 15:04")
	}
	return t.Format("2006-01-02 15:04")
}

// ruleName prints a rule as its position and, if it has one, its name.
func ruleName(position, name string) string {
	return cmp.Or(strings.TrimSpace(position+" "+name), none)
}

// judge returns the rule of a session that counts: the socks-rule, or before it the
// client-rule.
func judge(s record.Session) (position, name, location string) {
	if s.Rule != "" {
		return s.Rule, s.RuleName, s.RuleAt
	}
	return s.ClientRule, s.ClientRuleName, s.ClientRuleAt
}

// person prints a client with its user.
func person(client netip.Addr, user string) string {
	text := none
	if client.IsValid() {
		text = client.String()
	}
	if user != "" {
		text += " as " + user
	}
	return text
}

// address prints a client, or none.
func address(a netip.AddrPort) string {
	if !a.IsValid() {
		return none
	}
	return a.String()
}

// clean makes a text safe for a terminal.
func clean(text string) string { return printable.Text(text) }

// count prints a number and its noun.
func count(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}
