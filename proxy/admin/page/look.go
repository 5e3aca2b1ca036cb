package page

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"usher/proxy/admin/api"
	"usher/proxy/printable"
)

// view is everything that the page shows, in words.
type view struct {
	Asked    asked
	Title    string // of the window
	Name     string // of the cluster
	Replica  string // that has answered
	Time     time.Time
	Writing  bool
	Health   health
	Missing  []string // whose part is not there, each with the reason
	Replicas []replica
	Rollout  string // "" unless replicas have different rules
	Limits   limits
	Sessions sessions
	Refusals refusals
	Texts    []ruleText // of the rules that the page names
}

// health is the first line of the page.
type health struct {
	State   string // ok, degraded, down
	Word    string
	Facts   []string
	Reasons []string
	// News is what a screen reader is told when it changes. It has nothing that changes
	// all the time.
	News string
}

// look asks the source for everything, side by side, and puts it into words.
func (p *Page) look(ctx context.Context, a asked) view {
	var (
		cluster      api.Cluster
		all          api.Limits
		running      api.Sessions
		refused      api.Refusals
		from, before int // lines before the pages of sessions and refusals
		requests     sync.WaitGroup
	)
	requests.Go(func() { cluster = p.o.Source.Cluster(ctx) })
	requests.Go(func() { all = p.o.Source.Limits(ctx) })
	requests.Go(func() { running, from = p.sessions(ctx, a) })
	requests.Go(func() { refused, before = p.refusals(ctx, a) })
	requests.Wait()
	a.from, a.refused = from, before

	t := telling{
		known: p.texts.of(generationsIn(all, running, refused), func() api.Rules { return p.o.Source.Rules(ctx) }),
		named: map[string]ruleText{},
	}
	color := colors(cluster.Replicas)
	v := view{
		Asked: a, Name: cmp.Or(printable.Text(cluster.Cluster), "Usher"), Replica: printable.Text(cluster.Replica),
		Time: cluster.Time.UTC(), Writing: cluster.Writing,
		Replicas: replicasOf(cluster, color), Rollout: rolloutOf(cluster.Replicas),
		Missing:  missingOf(cluster.Missing, all.Missing, running.Missing, refused.Missing),
		Limits:   limitsOf(all, a, color, t),
		Sessions: sessionsOf(running, a, generationOf(cluster), color, t),
		Refusals: refusalsOf(refused, a, color, t),
	}
	v.Texts = t.all()
	v.Health = healthOf(cluster, v.Limits.Full)
	v.Title = v.Health.Word + " · " + v.Name
	return v
}

// sessions asks for the page of sessions, or for the last one if the list has become
// shorter, and returns how many sessions come before it.
func (p *Page) sessions(ctx context.Context, a asked) (api.Sessions, int) {
	answer := p.o.Source.Sessions(ctx, a.sessions())
	if len(answer.Sessions) == 0 && answer.Total > 0 {
		a.from = lastPage(min(answer.Total, api.MaxOffset), sessionsShown)
		answer = p.o.Source.Sessions(ctx, a.sessions())
	}
	return answer, a.from
}

func (p *Page) refusals(ctx context.Context, a asked) (api.Refusals, int) {
	answer := p.o.Source.Refusals(ctx, a.refusals())
	if len(answer.Refusals) == 0 && answer.Total > 0 {
		a.refused = lastPage(min(answer.Total, api.MaxOffset), refusalsShown)
		answer = p.o.Source.Refusals(ctx, a.refusals())
	}
	return answer, a.refused
}

// lastPage returns how many lines come before the last page of a list.
func lastPage(total, each int) int { return max(0, total-1) / each * each }

func healthOf(c api.Cluster, full int) health {
	word := map[string]string{"ok": "healthy", "degraded": "degraded", "down": "down"}[c.Health]
	h := health{State: c.Health, Word: word}
	if word == "" { // of another version of Usher
		h.State, h.Word = "degraded", printable.Text(c.Health)
	}
	working, names := 0, map[string]bool{}
	for _, r := range c.Replicas {
		names[printable.Text(r.Name)] = true
		if r.State == api.Alive || r.State == api.Draining {
			working++
		}
	}
	for _, r := range c.Reasons {
		h.Reasons = append(h.Reasons, sentence(printable.Text(r), names))
	}
	replicas := count(working, "replica")
	if n := len(c.Replicas); n != working {
		replicas = fmt.Sprintf("%d of %s", working, count(n, "replica"))
	}
	h.Facts = []string{replicas, count(c.Sessions, "session"), storeFact(c)}
	if g := generationOf(c); g != "" {
		h.Facts = append(h.Facts, "rules "+g)
	}
	h.News = fmt.Sprintf("%s is %s. %s.", cmp.Or(printable.Text(c.Cluster), "Usher"), h.Word, replicas)
	for _, r := range h.Reasons {
		h.News += " " + r
	}
	if full > 0 {
		h.News += " " + count(full, "limit") + " full."
	}
	return h
}

func storeFact(c api.Cluster) string {
	s := c.Store
	name := printable.Text(s.Address)
	switch {
	case s.Mismatch != "":
		return "store " + name + " has other lease settings"
	case s.Failure != "":
		return "store " + name + " has failed for " + span(c.Time.Sub(s.FailingSince))
	case s.Recovering:
		return "store " + name + " is recovering"
	case !s.Joined:
		return "store " + name + " not joined"
	case name == "memory":
		return "counted in memory"
	}
	return "store " + name + " answers"
}

// generationOf returns the generation in force on the replica that answers.
func generationOf(c api.Cluster) string {
	for _, r := range c.Replicas {
		if r.Name == c.Replica {
			return printable.Text(r.Generation)
		}
	}
	return ""
}

// missingOf names each replica once, with the first reason.
func missingOf(lists ...[]api.Missing) (names []string) {
	seen := map[string]bool{}
	for _, m := range slices.Concat(lists...) {
		if !seen[m.Replica] {
			seen[m.Replica] = true
			names = append(names, printable.Text(m.Replica+": "+m.Error))
		}
	}
	slices.Sort(names)
	return names
}

// replica is the card of a replica.
type replica struct {
	ID, Name, Address, Version, Generation string
	Color                                  string // a class of the style sheet
	State, Word, Trouble                   string
	Sessions                               int
	Up, Seen                               string // "" if it is not known
	Here                                   bool   // the one that answers
	Old                                    bool   // has other rules than the one that answers
	Last                                   bool   // no other one takes new sessions
	Drain, Undrain                         bool   // it can be told so
	List                                   string // address of its sessions
}

// words for the states of a replica.
var states = map[string]string{
	api.Alive: "Alive", api.Draining: "Draining", api.Silent: "No answer", api.Dead: "Dead",
}

func replicasOf(c api.Cluster, color map[string]string) (cards []replica) {
	current := generationOf(c)
	ready := 0
	for _, r := range c.Replicas {
		if takesSessions(r) {
			ready++
		}
	}
	for _, r := range sorted(c.Replicas) {
		card := replica{
			ID: printable.Text(r.ID), Name: printable.Text(cmp.Or(r.Name, r.ID)), Address: printable.Text(r.Address),
			Version: printable.Text(r.Version), Generation: printable.Text(r.Generation), Color: color[r.Name],
			State: printable.Text(r.State), Word: cmp.Or(states[r.State], printable.Text(r.State)), Sessions: r.Sessions,
			Here: r.Name == c.Replica, Old: r.Generation != "" && r.Generation != current,
			List: asked{Replica: r.Name}.address("sessions"), Last: takesSessions(r) && ready == 1,
			Drain: c.Writing && r.State == api.Alive, Undrain: c.Writing && r.State == api.Draining,
		}
		trouble := cmp.Or(r.Error, r.ReloadError)
		if trouble == "" && !r.Ready && r.State == api.Alive {
			trouble = cmp.Or(r.Reason, "not ready")
		}
		card.Trouble = printable.Text(trouble)
		if !r.Started.IsZero() && (r.State == api.Alive || r.State == api.Draining) {
			card.Up = span(c.Time.Sub(r.Started))
		}
		if !r.Seen.IsZero() {
			card.Seen = span(c.Time.Sub(r.Seen))
		}
		cards = append(cards, card)
	}
	return cards
}

func takesSessions(r api.Replica) bool { return r.State == api.Alive && r.Ready }

func sorted(replicas []api.Replica) []api.Replica {
	return slices.SortedFunc(slices.Values(replicas), func(a, b api.Replica) int {
		return cmp.Or(strings.Compare(a.Name, b.Name), a.Started.Compare(b.Started), strings.Compare(a.ID, b.ID))
	})
}

// colored is how many colours the style sheet has for replicas.
const colored = 8

// colors gives the replicas colours in the order of their names, so that one keeps its
// colour in all parts of the page.
func colors(replicas []api.Replica) map[string]string {
	all := map[string]string{}
	for _, r := range sorted(replicas) {
		if _, ok := all[r.Name]; !ok {
			all[r.Name] = fmt.Sprintf("r%d", len(all)%colored)
		}
	}
	return all
}

// rolloutOf says how far new rules have come, while replicas have different ones.
func rolloutOf(replicas []api.Replica) string {
	has := map[string]int{}
	for _, r := range replicas {
		if (r.State == api.Alive || r.State == api.Draining) && r.Generation != "" {
			has[r.Generation]++
		}
	}
	if len(has) < 2 {
		return ""
	}
	var parts []string
	for g, n := range has {
		parts = append(parts, fmt.Sprintf("%s on %d", printable.Text(g), n))
	}
	slices.Sort(parts)
	return "Replicas have different rules: " + strings.Join(parts, ", ") + "."
}
