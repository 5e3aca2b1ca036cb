package show

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"usher/cmd/usher/internal/screen"
	"usher/proxy/admin/api"
	"usher/proxy/record"
)

// Limits prints each limit with its use, and below them who holds the slots of full ones.
func Limits(s screen.Screen, a api.Limits, now time.Time) string {
	if len(a.Limits) == 0 {
		return "no rule has a limit\n"
	}
	t := screen.Table{
		Break: 9,
		Columns: []screen.Column{
			{Title: "RULE"}, {Title: "NAME", Least: 10}, {Title: "POOL", Least: 8}, {Title: "SESSIONS", Right: true}, {Title: "LIMIT", Least: 10},
			{Title: "USE", Right: true}, {Title: "REFUSED 1M", Right: true}, {Title: "HIGHEST", Right: true}, {Title: "AT"},
			{Title: "GENERATION"}, {Title: "REPLICAS", Least: 40}, {Title: "LOCATION", Least: 20, End: true},
		},
	}
	for _, l := range a.Limits {
		use, style := usage(l)
		row := []string{l.Rule, cmp.Or(l.Name, none), cmp.Or(l.Pool, none), fmt.Sprint(l.Sessions), bounds(l), use, refused(l),
			fmt.Sprint(l.Highest), clock(l.HighestAt, now), cmp.Or(l.Generation, none), cmp.Or(shares(l.Shares), none), cmp.Or(l.Location, none)}
		t.Add(row...)
		last := t.Rows[len(t.Rows)-1]
		last[5].Style = style
		if !l.Current {
			last[9].Style = screen.Dim
		}
	}
	if !slices.ContainsFunc(a.Limits, func(l api.Limit) bool { return l.Pool != "" }) {
		t.Drop("POOL")
	}
	return t.Text(s) + dryRuns(s, a.Limits) + holders(s, a)
}

// bounds prints the maxima of a limit.
func bounds(l api.Limit) string {
	var words []string
	if l.Max >= 0 {
		words = append(words, fmt.Sprint(l.Max))
	}
	if l.KeyMax > 0 {
		words = append(words, fmt.Sprintf("%d each", l.KeyMax))
	}
	text := cmp.Or(strings.Join(words, ", "), none)
	if l.Mode == "report" {
		text += " (report)"
	}
	return text
}

// refused prints how many sessions the limit has refused in the last minute; in mode
// report, how many it would have refused since its rules came into force.
func refused(l api.Limit) string {
	if l.Mode == "report" {
		return fmt.Sprintf("would %d", l.WouldRefuse)
	}
	return fmt.Sprint(l.Refused)
}

// dryRuns says which time the numbers of limits in mode report are for: it is another one
// than that of the column.
func dryRuns(s screen.Screen, list []api.Limit) string {
	if !slices.ContainsFunc(list, func(l api.Limit) bool { return l.Mode == "report" }) {
		return ""
	}
	return "\n" + strings.Join(screen.Wrap("would: refused nobody, and counts since these rules came into force", s.Width), "\n") + "\n"
}

// usage prints how full a limit is. Of a limit by key, the fullest key counts.
func usage(l api.Limit) (string, screen.Style) {
	used, most := l.Sessions, l.Max
	for _, k := range l.Keys {
		if k.Max > 0 && (most <= 0 || int64(k.Sessions)*most > used*k.Max) {
			used, most = int64(k.Sessions), k.Max
		}
	}
	switch {
	case most < 0 || most == 0 && used == 0:
		return none, screen.Plain
	case used > most:
		return "over", screen.Bad
	case used == most:
		return "full", screen.Bad
	case used*10 >= most*9:
		return fmt.Sprintf("%d%%", used*100/most), screen.Warn
	}
	return fmt.Sprintf("%d%%", used*100/most), screen.Plain
}

// shares prints how many sessions each replica holds.
func shares(list []api.Share) string {
	var words []string
	for _, share := range list {
		if share.Sessions > 0 {
			words = append(words, fmt.Sprintf("%s (%d)", share.Replica, share.Sessions))
		}
	}
	return strings.Join(words, ", ")
}

// holders prints who holds the slots of limits that are nearly full, and the fullest
// keys.
func holders(s screen.Screen, a api.Limits) string {
	var b strings.Builder
	line := func(l api.Limit, what, text string) {
		if b.Len() == 0 {
			b.WriteString("\n")
		}
		title := ruleName(l.Rule, l.Name)
		if !l.Current {
			title += " (" + l.Generation + ")"
		}
		for i, part := range screen.Wrap(title+what+": "+text, s.Width) {
			if i > 0 {
				part = indent + part
			}
			b.WriteString(part + "\n")
		}
	}
	for _, l := range a.Limits {
		least := ""
		if l.Partial || len(a.Missing) > 0 {
			least = "at least "
		}
		if len(l.Holders) > 0 {
			line(l, " is held by", people(l.Holders, least))
		}
		var keys []string
		for _, k := range l.Keys {
			text := fmt.Sprintf("%s %s%d/%d", k.Key, least, k.Sessions, k.Max)
			if parts := shares(k.Shares); parts != "" {
				text += " on " + parts
			}
			keys = append(keys, text)
		}
		if len(keys) > 0 {
			line(l, ", fullest", strings.Join(keys, ", "))
		}
	}
	return b.String()
}

const indent = "    "

// people prints clients and users with their sessions, and least before each number.
func people(list []record.Holder, least string) string {
	var words []string
	for _, h := range list {
		words = append(words, fmt.Sprintf("%s (%s%d)", person(h.Client, h.User), least, h.Sessions))
	}
	return strings.Join(words, ", ")
}
