package show

import (
	"cmp"
	"slices"
	"strings"
	"time"

	"usher/proxy/admin/api"
	"usher/proxy/record"
)

// Case is a refusal, those that were like it, and what is known about the limit now.
type Case struct {
	record.End           // the latest
	Times      int       // how often it was so
	First      time.Time // the earliest
	// Limit is the limit that refused it, as it is now. nil: it was no limit, or that one
	// is no longer in force.
	Limit *api.Limit
	// Holding are the running sessions that count in Limit, longest idle first.
	Holding []record.Running
}

// Cases puts refusals together that are alike: the same client address and user, reason,
// rule and target. The most latest cases are returned, newest first.
func Cases(refusals []record.End, most int) []Case {
	type alike struct{ client, user, reason, target, location string }
	var list []Case
	at := map[alike]int{}
	for _, e := range refusals {
		_, _, location := judge(e.Session)
		key := alike{e.Client.Addr().String(), e.User, e.Reason, target(e.Session), location}
		i, found := at[key]
		if !found {
			i = len(list)
			at[key] = i
			list = append(list, Case{End: e, First: e.Time})
		}
		c := &list[i]
		c.Times++
		if e.Time.Before(c.First) {
			c.First = e.Time
		}
		if e.Time.After(c.Time) {
			c.End = e
		}
	}
	slices.SortStableFunc(list, func(a, b Case) int { return b.Time.Compare(a.Time) })
	return list[:min(most, len(list))]
}

// ByLimit reports whether a limit on concurrent sessions refused it.
func (c Case) ByLimit() bool { return c.Reason == "limit" }

// Find looks for the limit that refused it.
func (c *Case) Find(limits []api.Limit) {
	position, _, _ := judge(c.Session)
	for i, l := range limits {
		if c.Pool != "" && l.Pool != c.Pool || c.Pool == "" && (l.Rule != position || !sameRules(l.Generation, c.Generation)) {
			continue
		}
		if c.Limit == nil || l.Current && !c.Limit.Current {
			c.Limit = &limits[i]
		}
	}
}

// sameRules reports whether two generations have the same rules. Replicas number their
// generations each for itself, and end the label with the digest of the rules.
func sameRules(a, b string) bool { return digest(a) == digest(b) }

func digest(label string) string { return label[strings.LastIndexByte(label, '-')+1:] }

// Query selects the sessions of which Hold finds those that count in the limit.
func (c Case) Query() api.Query {
	position, _, _ := judge(c.Session)
	q := api.Query{Rule: position, Sort: "idle", Descending: true, Limit: api.MaxLimit}
	if c.Pool != "" {
		q.Rule, q.Search = "", c.Pool
	}
	return q
}

// Hold keeps the sessions that count in the limit.
func (c *Case) Hold(sessions []record.Running) {
	position, _, _ := judge(c.Session)
	byKey := c.byKey()
	for _, r := range sessions {
		its, _, _ := judge(r.Session)
		switch {
		case byKey && r.LimitKey != c.LimitKey:
		case c.Pool != "" && r.Pool == c.Pool,
			c.Pool == "" && its == position && sameRules(r.Generation, c.Generation):
			c.Holding = append(c.Holding, r)
		}
	}
	slices.SortStableFunc(c.Holding, func(a, b record.Running) int { return cmp.Compare(b.IdleSeconds, a.IdleSeconds) })
}

// byKey reports whether the maximum of one key was full.
func (c Case) byKey() bool {
	return c.LimitKey != "" && c.Held != nil && strings.HasPrefix(c.Held.Limit, "session.state")
}

// max returns the maximum that is in force now, -1 if it is not known.
func (c Case) max() int64 {
	switch {
	case c.Limit == nil:
		return -1
	case c.byKey():
		return c.Limit.KeyMax
	}
	return c.Limit.Max
}

// holders returns who holds the slots now, most first.
func (c Case) holders() (list []record.Holder) {
	for _, r := range c.Holding {
		h := record.Holder{Client: r.Client.Addr(), User: r.User, Sessions: 1}
		i := slices.IndexFunc(list, func(o record.Holder) bool { return o.Client == h.Client && o.User == h.User })
		if i < 0 {
			list = append(list, h)
			continue
		}
		list[i].Sessions++
	}
	slices.SortStableFunc(list, func(a, b record.Holder) int { return cmp.Compare(b.Sessions, a.Sessions) })
	return list
}
