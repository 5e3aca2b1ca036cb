package page

import (
	"net/url"
	"slices"
	"strconv"

	"usher/proxy/admin/api"
)

// Lines of one page of each list.
const (
	limitsShown   = 40
	sessionsShown = 50
	refusalsShown = 15
)

// asked is what the address of the page asks for. What is wrong in an address is ignored,
// as people change addresses by hand.
type asked struct {
	Find       string // in sessions and refusals
	Rule       string // name or position, of sessions and refusals
	Replica    string // of sessions and refusals
	Generation string // of sessions
	Sort       string // of sessions, one of api.Sorts
	descending bool
	from       int    // sessions that come before
	refused    int    // refusals that come before
	Limit      string // in the names, positions and locations of limits
	limitsFrom int    // limits that come before
}

// longest is the longest text that is searched for, in bytes.
const longest = 200

func askedOf(v url.Values) asked {
	text := func(key string) string {
		s := v.Get(key)
		return s[:min(len(s), longest)]
	}
	number := func(key string, most int) int {
		n, err := strconv.Atoi(v.Get(key))
		if err != nil || n < 0 {
			return 0
		}
		return min(n, most)
	}
	a := asked{
		Find: text("find"), Rule: text("rule"), Replica: text("replica"), Generation: text("generation"),
		Sort: text("sort"), descending: v.Get("order") == "desc", Limit: text("limit"),
		from: number("from", api.MaxOffset), refused: number("refused", api.MaxOffset), limitsFrom: number("limits", 1<<20),
	}
	if !slices.Contains(api.Sorts(), a.Sort) {
		a.Sort, a.descending = "", false
	}
	return a
}

// address returns the address that asks for a, at one of the page's sections.
func (a asked) address(section string) string {
	v := url.Values{}
	set := func(key, value string) {
		if value != "" {
			v.Set(key, value)
		}
	}
	number := func(key string, n int) {
		if n > 0 {
			v.Set(key, strconv.Itoa(n))
		}
	}
	set("find", a.Find)
	set("rule", a.Rule)
	set("replica", a.Replica)
	set("generation", a.Generation)
	set("sort", a.Sort)
	if a.descending {
		v.Set("order", "desc")
	}
	set("limit", a.Limit)
	number("from", a.from)
	number("refused", a.refused)
	number("limits", a.limitsFrom)
	path := "/"
	if len(v) > 0 {
		path += "?" + v.Encode()
	}
	return path + "#" + section
}

// sessions returns the query for the page of sessions.
func (a asked) sessions() api.Query {
	q := api.Query{
		Search: a.Find, Rule: a.Rule, Replica: a.Replica, Generation: a.Generation,
		Sort: a.Sort, Descending: a.descending, Offset: a.from, Limit: sessionsShown,
	}
	if q.Sort == "" {
		q.Sort, q.Descending = "began", true // what has just begun comes first
	}
	return q
}

// refusals returns the query for the page of refusals.
func (a asked) refusals() api.Query {
	return api.Query{
		Search: a.Find, Rule: a.Rule, Replica: a.Replica, Generation: a.Generation,
		Offset: a.refused, Limit: refusalsShown,
	}
}
