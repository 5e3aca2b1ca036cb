package api

import (
	"cmp"
	"fmt"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"usher/proxy/record"
)

// Bounds of a page.
const (
	DefaultLimit = 100
	MaxLimit     = 1000
	MaxOffset    = 10_000
)

// Query selects sessions or refusals. Empty fields select all.
type Query struct {
	Rule       string       // id (s1) or name, of the client-rule or the socks-rule
	User       string       // exactly
	Client     netip.Prefix // an address is a prefix of full length
	Target     string       // part of the target
	Replica    string       // name
	Generation string       // label
	State      string       // record.Relaying ...; sessions alone
	Reason     string       // refusals alone
	Search     string       // part of the id, client, user, target, rule, pool, key, reason or replica, in any case

	Sort       string // one of Sorts; "" is began
	Descending bool
	Offset     int // that many are left out, from 0 to MaxOffset
	Limit      int // that many are returned at most, from 1 to MaxLimit
}

// orders are the values of Query.Sort.
var orders = map[string]func(a, b *record.Running) int{
	"began":  func(a, b *record.Running) int { return a.Began.Compare(b.Began) },
	"client": func(a, b *record.Running) int { return a.Client.Compare(b.Client) },
	"user":   func(a, b *record.Running) int { return strings.Compare(a.User, b.User) },
	"target": func(a, b *record.Running) int { return strings.Compare(a.Target, b.Target) },
	"rule": func(a, b *record.Running) int {
		return cmp.Or(strings.Compare(a.ClientRule, b.ClientRule), strings.Compare(a.Rule, b.Rule))
	},
	"replica": func(a, b *record.Running) int { return strings.Compare(a.Replica, b.Replica) },
	"idle":    func(a, b *record.Running) int { return cmp.Compare(a.IdleSeconds, b.IdleSeconds) },
	"bytes": func(a, b *record.Running) int {
		return cmp.Compare(a.BytesUp+a.BytesDown, b.BytesUp+b.BytesDown)
	},
}

// Sorts returns the values of Query.Sort.
func Sorts() []string {
	var names []string
	for name := range orders {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// Values returns the parameters that ParseQuery reads.
func (q Query) Values() url.Values {
	v := url.Values{}
	set := func(key, value string) {
		if value != "" {
			v.Set(key, value)
		}
	}
	set("rule", q.Rule)
	set("user", q.User)
	if q.Client.IsValid() {
		v.Set("client", q.Client.String())
	}
	set("target", q.Target)
	set("replica", q.Replica)
	set("generation", q.Generation)
	set("state", q.State)
	set("reason", q.Reason)
	set("search", q.Search)
	set("sort", q.Sort)
	if q.Descending {
		v.Set("order", "desc")
	}
	if q.Offset != 0 {
		v.Set("offset", strconv.Itoa(q.Offset))
	}
	if q.Limit != 0 {
		v.Set("limit", strconv.Itoa(q.Limit))
	}
	return v
}

// ParseQuery reads the parameters of a request. Its errors say what is accepted.
func ParseQuery(v url.Values) (q Query, err error) {
	q.Limit = DefaultLimit
	for key, values := range v {
		if len(values) != 1 {
			return q, fmt.Errorf("%q is given %d times; give it once", key, len(values))
		}
		if err := q.set(key, values[0]); err != nil {
			return q, err
		}
	}
	return q, nil
}

func (q *Query) set(key, value string) (err error) {
	texts := map[string]*string{
		"rule": &q.Rule, "user": &q.User, "target": &q.Target, "replica": &q.Replica, "generation": &q.Generation,
		"search": &q.Search,
	}
	if text, ok := texts[key]; ok {
		*text = value
		return nil
	}
	switch key {
	case "client":
		if q.Client, err = parseClient(value); err != nil {
			return fmt.Errorf("client %q is neither an address nor a network such as 192.0.2.0/24", value)
		}
	case "state":
		q.State, err = oneOf(key, value, record.States())
	case "reason":
		q.Reason, err = oneOf(key, value, record.Reasons())
	case "sort":
		q.Sort, err = oneOf(key, value, Sorts())
	case "order":
		value, err = oneOf(key, value, []string{"asc", "desc"})
		q.Descending = value == "desc"
	case "offset":
		q.Offset, err = number(key, value, 0, MaxOffset)
	case "limit":
		q.Limit, err = number(key, value, 1, MaxOffset+MaxLimit)
	default:
		err = fmt.Errorf("parameter %q is not known", key)
	}
	return err
}

func parseClient(value string) (netip.Prefix, error) {
	if a, err := netip.ParseAddr(value); err == nil {
		a = a.Unmap().WithZone("")
		return a.Prefix(a.BitLen())
	}
	p, err := netip.ParsePrefix(value)
	return p.Masked(), err
}

func oneOf(key, value string, accepted []string) (string, error) {
	if !slices.Contains(accepted, value) {
		return "", fmt.Errorf("%s %q is none of %s", key, value, strings.Join(accepted, ", "))
	}
	return value, nil
}

func number(key, value string, least, most int) (int, error) {
	n, err := strconv.Atoi(value)
	if err != nil || n < least || n > most {
		return 0, fmt.Errorf("%s %q is no number from %d to %d", key, value, least, most)
	}
	return n, nil
}

// Matches reports whether q selects a session by what does not depend on its state.
func (q Query) Matches(s *record.Session) bool {
	is := func(wanted string, values ...string) bool { return wanted == "" || slices.Contains(values, wanted) }
	return is(q.User, s.User) && is(q.Replica, s.Replica) && is(q.Generation, s.Generation) &&
		is(q.Rule, s.ClientRule, s.ClientRuleName, s.Rule, s.RuleName) &&
		(!q.Client.IsValid() || q.Client.Contains(s.Client.Addr().Unmap().WithZone(""))) &&
		contains(s.Target, q.Target)
}

func contains(text, part string) bool {
	return part == "" || strings.Contains(strings.ToLower(text), strings.ToLower(part))
}

func (q Query) finds(s *record.Session, more ...string) bool {
	if q.Search == "" {
		return true
	}
	texts := append(more, s.ID, s.User, s.Target, s.ClientRule, s.ClientRuleName, s.Rule, s.RuleName, s.Pool, s.LimitKey,
		s.Replica, s.Generation, s.Client.String())
	return slices.ContainsFunc(texts, func(text string) bool { return contains(text, q.Search) })
}

// PickSessions returns the sessions that q selects, in its order, and their number
// before the page is cut out.
func (q Query) PickSessions(list []record.Running) (page []record.Running, total int) {
	var picked []*record.Running // a record is large, and a sort would copy it often
	for i := range list {
		r := &list[i]
		if (q.State == "" || r.State == q.State) && q.Matches(&r.Session) && q.finds(&r.Session, r.State, r.Command) {
			picked = append(picked, r)
		}
	}
	order := orders[cmp.Or(q.Sort, "began")]
	slices.SortFunc(picked, func(a, b *record.Running) int {
		c := order(a, b)
		if q.Descending {
			c = -c
		}
		if c == 0 {
			c = strings.Compare(a.ID, b.ID)
		}
		return c
	})
	page = []record.Running{}
	for _, r := range cut(picked, q.Offset, q.Limit) {
		page = append(page, *r)
	}
	return page, len(picked)
}

// PickRefusals returns the refusals that q selects, newest first, and their number
// before the page is cut out. It changes list.
func (q Query) PickRefusals(list []record.End) (page []record.End, total int) {
	list = slices.DeleteFunc(list, func(e record.End) bool {
		return q.Reason != "" && e.Reason != q.Reason || !q.Matches(&e.Session) || !q.finds(&e.Session, e.Reason, e.Error)
	})
	slices.SortStableFunc(list, func(a, b record.End) int { return b.Time.Compare(a.Time) })
	return cut(list, q.Offset, q.Limit), len(list)
}

// cut returns a page of list, never nil.
func cut[T any](list []T, offset, limit int) []T {
	list = list[min(offset, len(list)):]
	if limit > 0 {
		list = list[:min(limit, len(list))]
	}
	return append([]T{}, list...)
}
