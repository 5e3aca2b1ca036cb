package page

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"usher/proxy/admin/api"
	"usher/proxy/printable"
	"usher/proxy/record"
)

// limits is a page of the list of limits.
type limits struct {
	Shown       []limit
	Total, Full int // of all limits; Full have no slot left
	Found       int // that match the search
	Pages       pages
}

// limit is a rule with a limit, or a pool of rules, in all its generations.
type limit struct {
	ID       string // in the page
	Name     string
	Rules    []rule // that share it
	Pool     bool
	Bars     []bar // the generation in force first
	Full     bool  // in the generation in force
	Over     bool
	Report   bool // it refuses nobody
	Ended    bool // it is in no rules in force
	Refused  uint64
	Would    uint64 // that would have been refused
	Highest  string // "" if it is not known
	Keys     []key
	KeyMax   int64
	KeyFull  bool // a key has no slot left
	Holders  []holder
	AtLeast  bool   // sessions of keys and holders may be more
	Missing  bool   // a replica that has not answered may have refused more
	List     string // address of its sessions
	fullness float64
	order    int
}

// rule is a rule of a limit.
type rule struct {
	Position string // s1
	At       place
	Text     string // id in the page, "" if it is not known

	generation, position, location string
}

// bar shows the use of a limit in one generation.
type bar struct {
	Generation string // label; "" if the limit has one generation alone
	Current    bool
	Sessions   string
	Max        string // "" if there is none
	Free       string
	Label      string // for screen readers
	Segments   []segment
	Used       string // the width of all segments
	Mark       string // where the maximum is, if more sessions run; in thousandths
	Shares     []share
	Full, Over bool
}

// segment is a part of a bar, in thousandths of its width.
type segment struct{ X, Width, Color string }

// share is the part of a replica.
type share struct {
	Name, Color string
	Sessions    int64
}

type key struct {
	Key, Use, Width string
	Full            bool
}

type holder struct {
	Client, User string
	Sessions     int
	List         string // address of its sessions
}

func limitsOf(answer api.Limits, a asked, color map[string]string, t telling) limits {
	list := together(answer, color)
	v := limits{Total: len(list)}
	for i := range list {
		if list[i].Full && !list[i].Report {
			v.Full++
		}
	}
	if a.Limit != "" {
		list = slices.DeleteFunc(list, func(l limit) bool { return !l.matches(a.Limit) })
	}
	// What is full and refuses comes first, and then what is nearly full.
	slices.SortStableFunc(list, func(a, b limit) int {
		return cmp.Or(cmp.Compare(toInt(b.Full && !b.Report), toInt(a.Full && !a.Report)), cmp.Compare(b.fullness, a.fullness), cmp.Compare(b.Refused, a.Refused), cmp.Compare(a.order, b.order))
	})
	v.Found = len(list)
	from := min(a.limitsFrom, lastPage(len(list), limitsShown))
	v.Shown = list[from:min(from+limitsShown, len(list))]
	for _, l := range v.Shown {
		for i := range l.Rules {
			r := &l.Rules[i]
			r.Text = t.id(r.generation, r.position, l.Name, r.location)
		}
	}
	v.Pages = pagesOf("limits", from, len(v.Shown), v.Found, limitsShown, func(from int) string {
		b := a
		b.limitsFrom = from
		return b.address("limits")
	})
	return v
}

func (l *limit) matches(text string) bool {
	text = strings.ToLower(text)
	has := func(s string) bool { return strings.Contains(strings.ToLower(s), text) }
	return has(l.Name) || slices.ContainsFunc(l.Rules, func(r rule) bool { return has(r.Position + " " + r.At.Full) })
}

// together puts the generations of a limit together, and the rules of a pool.
func together(answer api.Limits, color map[string]string) []limit {
	type name struct{ pool, rule string }
	members := map[name][]api.Limit{}
	var order []name
	for _, l := range answer.Limits {
		n := name{pool: l.Pool}
		if l.Pool == "" {
			n.rule = cmp.Or(l.Name, l.Rule)
		}
		if members[n] == nil {
			order = append(order, n)
		}
		members[n] = append(members[n], l)
	}
	list := make([]limit, 0, len(order))
	for i, n := range order {
		l := limitOf(members[n], answer.Time, color)
		l.order = i
		l.Missing = len(answer.Missing) > 0
		l.AtLeast = l.AtLeast || l.Missing
		list = append(list, l)
	}
	return list
}

func limitOf(members []api.Limit, now time.Time, color map[string]string) limit {
	first := members[0]
	for _, m := range members {
		if m.Current {
			first = m
			break
		}
	}
	l := limit{
		Name: printable.Text(cmp.Or(first.Pool, first.Name, first.Rule)), Pool: first.Pool != "",
		Report: first.Mode == "report", Ended: !first.Current, KeyMax: first.KeyMax,
		Keys: keysOf(first.Keys), Holders: holdersOf(first), AtLeast: first.Partial,
		List: asked{Rule: cmp.Or(first.Name, first.Rule)}.address("sessions"),
	}
	l.ID = "limit-" + slug(cmp.Or(first.Pool, first.Name, first.Rule), l.Pool)
	if first.Highest > 0 {
		l.Highest = grouped(first.Highest)
		if !first.HighestAt.IsZero() {
			l.Highest += ", " + span(now.Sub(first.HighestAt)) + " ago"
		}
	}
	bars := map[string]bool{}
	for _, m := range members {
		l.Refused += m.Refused
		l.Would += m.WouldRefuse
		r := rule{Position: printable.Text(m.Rule), At: placeOf(m.Location), generation: m.Generation, position: m.Rule, location: m.Location}
		if m.Current && !slices.Contains(l.Rules, r) || !first.Current && len(l.Rules) == 0 {
			l.Rules = append(l.Rules, r)
		}
		// A pool counts once for all its rules.
		if !bars[m.Generation] {
			bars[m.Generation] = true
			l.Bars = append(l.Bars, barOf(m, color))
		}
	}
	slices.SortStableFunc(l.Bars, func(a, b bar) int { return cmp.Compare(toInt(b.Current), toInt(a.Current)) })
	if len(l.Bars) == 1 && l.Bars[0].Current {
		l.Bars[0].Generation = ""
	}
	if first.Current {
		l.Full, l.Over = l.Bars[0].Full, l.Bars[0].Over
	}
	l.KeyFull = slices.ContainsFunc(l.Keys, func(k key) bool { return k.Full })
	l.fullness = fullness(first)
	return l
}

func toInt(b bool) int {
	if b {
		return 1
	}
	return 0
}

// fullness orders limits: which part of the maximum is used, of all sessions or of the
// fullest key.
func fullness(l api.Limit) float64 {
	full := 0.0
	if l.Max > 0 {
		full = float64(l.Sessions) / float64(l.Max)
	} else if l.Max == 0 {
		full = 1
	}
	for _, k := range l.Keys {
		if k.Max > 0 {
			full = max(full, float64(k.Sessions)/float64(k.Max))
		}
	}
	return full
}

// scale is the width of a bar.
const scale = 1000

func barOf(l api.Limit, color map[string]string) bar {
	b := bar{
		Generation: printable.Text(l.Generation), Current: l.Current, Sessions: grouped(l.Sessions),
		Full: l.Max >= 0 && l.Sessions >= l.Max, Over: l.Max >= 0 && l.Sessions > l.Max,
	}
	b.Label = count(l.Sessions, "session")
	if l.Max >= 0 {
		b.Max = grouped(l.Max)
		b.Free = grouped(max(0, l.Max-l.Sessions))
		b.Label = grouped(l.Sessions) + " of " + count(l.Max, "session")
	}
	known := int64(0)
	for _, s := range l.Shares {
		if s.Sessions > 0 {
			b.Shares = append(b.Shares, share{Name: printable.Text(s.Replica), Color: color[s.Replica], Sessions: int64(s.Sessions)})
			known += int64(s.Sessions)
		}
	}
	slices.SortFunc(b.Shares, func(a, b share) int { return strings.Compare(a.Name, b.Name) })
	if rest := l.Sessions - known; rest > 0 && (known > 0 || len(l.Shares) > 0) {
		b.Shares = append(b.Shares, share{Name: "elsewhere", Color: "rest", Sessions: rest})
	}
	for i, s := range b.Shares {
		b.Label += map[bool]string{true: ": ", false: ", "}[i == 0] + s.Name + " " + strconv.FormatInt(s.Sessions, 10)
	}
	b.segments(l, known)
	return b
}

// segments lays out the shares side by side.
func (b *bar) segments(l api.Limit, known int64) {
	whole := max(l.Max, l.Sessions, known, 1)
	parts := b.Shares
	if len(parts) == 0 && l.Sessions > 0 {
		parts = []share{{Color: "rest", Sessions: l.Sessions}}
	}
	at := 0.0
	for _, s := range parts {
		width := float64(s.Sessions) / float64(whole) * scale
		b.Segments = append(b.Segments, segment{X: thousandths(at), Width: thousandths(width), Color: s.Color})
		at += width
	}
	b.Used = thousandths(at)
	if b.Over {
		b.Mark = thousandths(float64(l.Max) / float64(whole) * scale)
	}
}

func thousandths(v float64) string { return strconv.FormatFloat(v, 'f', 1, 64) }

func keysOf(list []api.Key) (keys []key) {
	for _, k := range list {
		shown := key{Key: printable.Text(k.Key), Use: grouped(int64(k.Sessions))}
		if k.Max >= 0 {
			shown.Use = fmt.Sprintf("%d of %d", k.Sessions, k.Max)
			shown.Full = int64(k.Sessions) >= k.Max
			shown.Width = thousandths(min(scale, float64(k.Sessions)/float64(max(k.Max, 1))*scale))
		}
		keys = append(keys, shown)
	}
	return keys
}

// holdersOf names who holds the slots of a limit that is nearly full.
func holdersOf(l api.Limit) (list []holder) {
	if fullness(l) < 0.9 {
		return nil
	}
	rule := cmp.Or(l.Name, l.Rule)
	for _, h := range l.Holders {
		list = append(list, named(h, rule))
	}
	return list
}

func named(h record.Holder, rule string) holder {
	find := h.User
	if h.Client.IsValid() {
		find = h.Client.String()
	}
	shown := holder{User: printable.Text(h.User), Sessions: h.Sessions, List: asked{Find: find, Rule: rule}.address("sessions")}
	if h.Client.IsValid() {
		shown.Client = h.Client.String()
	}
	return shown
}

// slug makes a name into an id of the page that is unique.
func slug(name string, pool bool) string {
	kind := "r"
	if pool {
		kind = "p"
	}
	return fmt.Sprintf("%s-%x", kind, name)
}

// pages leads through a long list.
type pages struct {
	Of              string // what the list has
	From, To, Total int
	Previous, Next  string // addresses, "" at the ends
	Needed          bool
}

func pagesOf(of string, from, shown, total, each int, address func(from int) string) pages {
	p := pages{Of: of, From: from + 1, To: from + shown, Total: total, Needed: total > each || from > 0}
	if from > 0 {
		p.Previous = address(max(0, from-each))
	}
	if from+shown < total {
		p.Next = address(from + each)
	}
	return p
}
