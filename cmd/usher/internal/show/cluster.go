package show

import (
	"cmp"
	"fmt"
	"strings"
	"time"

	"usher/cmd/usher/internal/screen"
	"usher/proxy/admin/api"
)

// Cluster prints the health of the cluster, and its replicas.
func Cluster(s screen.Screen, a api.Cluster, now time.Time) string {
	var b strings.Builder
	style := screen.Bad
	switch a.Health {
	case api.OK:
		style = screen.Good
	case api.Degraded:
		style = screen.Warn
	}
	fmt.Fprintf(&b, "cluster %s is %s: %s, %s\n", s.Paint(screen.Bold, a.Cluster), s.Paint(style, a.Health),
		count(len(a.Replicas), "replica"), count(a.Sessions, "session"))
	for _, reason := range a.Reasons {
		for i, line := range screen.Wrap("- "+reason, max(s.Width-2, 0)) {
			if i > 0 {
				line = "  " + line
			}
			b.WriteString("  " + line + "\n")
		}
	}
	t := screen.Table{
		Break: 6,
		Columns: []screen.Column{
			{Title: "REPLICA", Least: 12}, {Title: "STATE"}, {Title: "SESSIONS", Right: true}, {Title: "GENERATION"}, {Title: "UP", Right: true},
			{Title: "SEEN", Right: true}, {Title: "VERSION", Least: 12}, {Title: "ADDRESS"},
		},
	}
	for _, r := range a.Replicas {
		up, sessions := none, none // nobody knows those of a replica that does not answer
		if alive(r) {
			sessions = fmt.Sprint(r.Sessions)
			if !r.Started.IsZero() {
				up = period(now.Sub(r.Started))
			}
		}
		t.Add(cmp.Or(r.Name, r.ID), r.State, sessions, cmp.Or(r.Generation, none), up, since(r.Seen, now),
			cmp.Or(r.Version, none), cmp.Or(r.Address, none))
		t.Rows[len(t.Rows)-1][1].Style = stateStyle(r)
	}
	b.WriteString("\n" + t.Text(s))
	return b.String()
}

func alive(r api.Replica) bool { return r.State == api.Alive || r.State == api.Draining }

// stateStyle colours the state of a replica.
func stateStyle(r api.Replica) screen.Style {
	switch {
	case r.State == api.Alive && r.Ready:
		return screen.Good
	case alive(r):
		return screen.Warn
	}
	return screen.Bad
}

// since prints how long ago something was.
func since(t, now time.Time) string {
	if t.IsZero() {
		return none
	}
	return period(now.Sub(t))
}

// Ended prints which sessions were ended.
func Ended(a api.Ended) string {
	switch len(a.Ended) {
	case 0:
		return "no session was ended\n"
	case 1:
		return "ended: session " + clean(a.Ended[0]) + "\n"
	}
	text := fmt.Sprintf("ended: %d sessions\n", len(a.Ended))
	for _, id := range a.Ended {
		text += clean(id) + "\n"
	}
	return text
}

// Missing says of a replica that its part of an answer is not there.
func Missing(m api.Missing) string {
	where := ""
	if m.Address != "" {
		where = " at " + m.Address
	}
	return clean(fmt.Sprintf("replica %s%s is missing in this answer: %s", m.Replica, where, cmp.Or(m.Error, "it does not answer")))
}
