// Package show prints the answers of the API for people. What comes from outside is
// escaped where it is not printable.
package show

import (
	"cmp"
	"fmt"
	"strings"
	"time"

	"usher/cmd/usher/internal/screen"
	"usher/proxy/admin/api"
	"usher/proxy/record"
)

// Sessions prints a page of running sessions.
func Sessions(s screen.Screen, a api.Sessions) string {
	if len(a.Sessions) == 0 {
		return "no sessions\n"
	}
	t := screen.Table{
		Break: 4,
		Columns: []screen.Column{
			{Title: "SESSION"}, {Title: "CLIENT", Least: 21}, {Title: "USER", Least: 8}, {Title: "TARGET", Least: 20},
			{Title: "RULE", Least: 8}, {Title: "GENERATION"}, {Title: "REPLICA", Least: 10}, {Title: "STATE"},
			{Title: "AGE", Right: true}, {Title: "IDLE", Right: true}, {Title: "UP", Right: true}, {Title: "DOWN", Right: true},
		},
	}
	for _, r := range a.Sessions {
		position, name, _ := judge(r.Session)
		t.Add(r.ID, address(r.Client), cmp.Or(r.User, none), target(r.Session), ruleName(position, name), cmp.Or(r.Generation, none),
			cmp.Or(r.Replica, none), r.State, seconds(r.Seconds), seconds(r.IdleSeconds), size(r.BytesUp), size(r.BytesDown))
	}
	text := t.Text(s)
	if a.Total > len(a.Sessions) {
		text += "\n" + s.Paint(screen.Dim, fmt.Sprintf("%d of %d sessions; --limit shows more", len(a.Sessions), a.Total)) + "\n"
	}
	return text
}

// target prints what a session reaches, or would reach. CONNECT is not named: nearly all
// are.
func target(s record.Session) string {
	words := []string{}
	if s.Command != "" && s.Command != "connect" {
		words = append(words, s.Command)
	}
	if s.Target != "" {
		words = append(words, s.Target)
	}
	return cmp.Or(strings.Join(words, " "), none)
}

// Refusals prints the last refusals, newest first.
func Refusals(s screen.Screen, a api.Refusals, now time.Time) string {
	if len(a.Refusals) == 0 {
		return "no refusals\n"
	}
	t := screen.Table{
		Break: 5,
		Columns: []screen.Column{
			{Title: "TIME"}, {Title: "REASON"}, {Title: "CLIENT", Least: 21}, {Title: "USER", Least: 8}, {Title: "TARGET", Least: 20},
			{Title: "RULE", Least: 8}, {Title: "LOCATION", Least: 20, End: true}, {Title: "HELD"}, {Title: "REPLICA", Least: 10},
		},
	}
	for _, e := range a.Refusals {
		position, name, location := judge(e.Session)
		held := none
		if e.Held != nil {
			held = fmt.Sprintf("%d/%d", e.Held.Sessions, e.Held.Max)
		}
		t.Add(clock(e.Time, now), e.Reason, address(e.Client), cmp.Or(e.User, none), target(e.Session),
			ruleName(position, name), cmp.Or(location, none), held, cmp.Or(e.Replica, none))
	}
	text := t.Text(s)
	if a.Total > len(a.Refusals) {
		text += "\n" + s.Paint(screen.Dim, fmt.Sprintf("%d of %d refusals; --limit shows more", len(a.Refusals), a.Total)) + "\n"
	}
	return text + "\n" + s.Paint(screen.Dim, "usher why CLIENT or usher why USER says more about them") + "\n"
}
