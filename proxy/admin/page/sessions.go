package page

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"usher/proxy/admin/api"
	"usher/proxy/printable"
	"usher/proxy/record"
)

// sessions is a page of the list of sessions.
type sessions struct {
	Rows    []session
	Columns []column
	Total   int
	Filters []filter
	Pages   pages
}

// session is a line of the list.
type session struct {
	ID, Client, User, Target string
	Note                     string // what is not as in most sessions
	Rule                     where
	Older                    string // generation, if it is not the one in force
	Replica, Color           string
	Age, Idle, Up, Down      string
}

// column is a head of the table. It may order the table.
type column struct {
	Title, Class string
	Address      string // that orders by it; "" if it does not order
	Sort         string // ascending or descending, "" if the table has another order
}

// filter is a restriction that can be taken away.
type filter struct{ What, Value, Without string }

func sessionsOf(answer api.Sessions, a asked, current string, color map[string]string, t telling) sessions {
	v := sessions{Total: answer.Total, Columns: columnsOf(a), Filters: filtersOf(a)}
	for i := range answer.Sessions {
		v.Rows = append(v.Rows, sessionOf(&answer.Sessions[i], current, color, t))
	}
	v.Pages = pagesOf("sessions", a.from, len(v.Rows), min(answer.Total, api.MaxOffset+sessionsShown), sessionsShown, func(from int) string {
		b := a
		b.from = from
		return b.address("sessions")
	})
	return v
}

func sessionOf(r *record.Running, current string, color map[string]string, t telling) session {
	s := session{
		ID: printable.Text(r.ID), Client: clientOf(&r.Session), User: printable.Text(r.User),
		Target: printable.Text(r.Target), Note: noteOf(r),
		Rule: ruleOf(&r.Session, t), Replica: printable.Text(r.Replica), Color: color[r.Replica],
		Age: span(seconds(r.Seconds)), Idle: span(seconds(r.IdleSeconds)),
		Up: size(r.BytesUp), Down: size(r.BytesDown),
	}
	if g := printable.Text(r.Generation); g != current {
		s.Older = g
	}
	return s
}

func noteOf(r *record.Running) string {
	var notes []string
	if r.Command != "" && r.Command != "connect" {
		notes = append(notes, printable.Text(r.Command))
	}
	if r.State != record.Relaying {
		notes = append(notes, printable.Text(r.State))
	}
	if r.Confirmed != nil && !*r.Confirmed {
		notes = append(notes, "not confirmed by the store")
	}
	return strings.Join(notes, ", ")
}

func clientOf(s *record.Session) string {
	if !s.Client.IsValid() {
		return ""
	}
	return s.Client.String()
}

// where names the rule that judged a session last.
type where struct {
	Name string
	At   place
	Text string // id in the page, "" if it is not known
}

func ruleOf(s *record.Session, t telling) where {
	position, name, location := s.Rule, s.RuleName, s.RuleAt
	if position == "" {
		position, name, location = s.ClientRule, s.ClientRuleName, s.ClientRuleAt
	}
	if position == "" {
		return where{}
	}
	return where{printable.Text(cmp.Or(name, position)), placeOf(location), t.id(s.Generation, position, name, location)}
}

// place is a location of a rule, without the folder of its file.
type place struct{ Short, Full string }

func placeOf(location string) place {
	location = printable.Text(location)
	return place{Short: location[strings.LastIndexByte(location, '/')+1:], Full: location}
}

// columnsOf returns the heads of the table. The first click on one orders by it, the
// second one the other way round.
func columnsOf(a asked) []column {
	q := a.sessions()
	list := []column{
		{Title: "Client", Address: "client"}, {Title: "User", Address: "user"}, {Title: "Target", Address: "target"},
		{Title: "Rule", Address: "rule"}, {Title: "Replica", Address: "replica"},
		{Title: "Age", Address: "began", Class: "number"}, {Title: "Idle", Address: "idle", Class: "number"},
		{Title: "Bytes up, down", Address: "bytes", Class: "number"},
	}
	for i := range list {
		c := &list[i]
		b := a
		b.Sort, b.from = c.Address, 0
		// Numbers are read from the top. The newest session has the least age.
		b.descending = c.Class != "" && c.Address != "began"
		if q.Sort == c.Address {
			b.descending = !q.Descending
			c.Sort = order(q.Descending != (c.Address == "began"))
		}
		c.Address = b.address("sessions")
	}
	return list
}

func order(descending bool) string {
	if descending {
		return "descending"
	}
	return "ascending"
}

func filtersOf(a asked) (list []filter) {
	add := func(what, value string, without func(*asked)) {
		if value != "" {
			b := a
			b.from, b.refused = 0, 0
			without(&b)
			list = append(list, filter{what, printable.Text(value), b.address("sessions")})
		}
	}
	add("Rule", a.Rule, func(b *asked) { b.Rule = "" })
	add("Replica", a.Replica, func(b *asked) { b.Replica = "" })
	add("Generation", a.Generation, func(b *asked) { b.Generation = "" })
	add("Containing", a.Find, func(b *asked) { b.Find = "" })
	return list
}

// refusals is a page of the list of refusals.
type refusals struct {
	Rows     []refusal
	Remedies []remedy // one for each reason of Rows
	Total    int
	Kept     string // how many there are, and of which
	Pages    pages
}

// keptOf says how many refusals match, and what they were chosen from: a replica forgets
// all but its last ones.
func keptOf(answer api.Refusals, filtered bool) string {
	n := grouped(answer.Total)
	if len(answer.Missing) > 0 {
		n = "at least " + n
	}
	last := "the last " + grouped(record.RefusalsKept) + " of each replica"
	switch {
	case filtered:
		return n + " found among " + last
	case answer.Total < record.RefusalsKept:
		return n + " since the replicas have started"
	}
	return n + " kept: " + last
}

// remedy is what the operator can do about refusals for a reason.
type remedy struct{ Reason, Do string }

// refusal is a line of the list.
type refusal struct {
	ID, Time, Stamp, Ago string
	Reason, Meaning      string
	Rule                 where
	Client, User, Target string
	Replica, Color       string
	Held                 string
	Holders              []holder
	ClientList, Detail   string
}

func refusalsOf(answer api.Refusals, a asked, color map[string]string, t telling) refusals {
	v := refusals{Total: answer.Total, Kept: keptOf(answer, len(filtersOf(a)) > 0)}
	for i := range answer.Refusals {
		e := &answer.Refusals[i]
		v.Rows = append(v.Rows, refusalOf(e, answer.Time, color, t))
		words, _ := record.Explain(e.Reason)
		if r := (remedy{e.Reason, words.Remedy}); r.Do != "" && !slices.Contains(v.Remedies, r) {
			v.Remedies = append(v.Remedies, r)
		}
	}
	v.Pages = pagesOf("refusals", a.refused, len(v.Rows), answer.Total, refusalsShown, func(from int) string {
		b := a
		b.refused = from
		return b.address("refusals")
	})
	return v
}

func refusalOf(e *record.End, now time.Time, color map[string]string, t telling) refusal {
	v := refusal{
		ID: printable.Text(e.ID), Time: e.Time.UTC().Format("15:04:05"), Stamp: e.Time.UTC().Format(time.RFC3339),
		Ago: span(now.Sub(e.Time)) + " ago", Reason: printable.Text(e.Reason),
		Rule: ruleOf(&e.Session, t), Client: clientOf(&e.Session), User: printable.Text(e.User),
		Target: printable.Text(e.Target), Replica: printable.Text(e.Replica), Color: color[e.Replica],
	}
	if words, ok := record.Explain(e.Reason); ok {
		v.Meaning = words.Why
	}
	if e.Client.IsValid() {
		v.ClientList = asked{Find: e.Client.Addr().String()}.address("sessions")
	}
	if h := e.Held; h != nil {
		v.Held = fmt.Sprintf("%s %d: %s", printable.Text(h.Limit), h.Max, count(h.Sessions, "session"))
		if h.Here >= 0 { // else they were not counted
			v.Held += fmt.Sprintf(", %s of them here", grouped(h.Here))
		}
		for _, who := range h.Holders {
			v.Holders = append(v.Holders, named(who, cmp.Or(e.RuleName, e.Rule, e.ClientRuleName, e.ClientRule)))
		}
	} else if e.Error != "" && !strings.EqualFold(e.Error, v.Meaning) {
		v.Detail = printable.Text(e.Error)
	}
	return v
}
