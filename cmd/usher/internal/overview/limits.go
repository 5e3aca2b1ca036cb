package overview

import (
	"context"

	"usher/cmd/usher/internal/policyfile"
	"usher/proxy"
	"usher/proxy/admin/api"
	"usher/proxy/decide"
	"usher/proxy/record"
	"usher/proxy/rules"
)

// Limits implements api.Source.
func (l *Local) Limits(context.Context) api.Limits {
	a := api.Limits{Answer: l.answer(), Limits: []api.Limit{}}
	gens := l.generations()
	used := usage(gens)
	totals := l.o.Status().Totals
	for _, g := range gens {
		for _, r := range policyfile.Limited(g.Rules) {
			counter := proxy.Counter(g.Digest, r)
			limit := limitOf(g, r)
			limit.Sessions = totals[counter]
			limit.Refused = l.o.Server.RefusedLately(counter)
			if most := l.o.Highest(counter); most.Sessions > 0 {
				limit.Highest, limit.HighestAt = most.Sessions, most.At.UTC()
			}
			used[counter].show(&limit, l.o.Name)
			a.Limits = append(a.Limits, limit)
		}
	}
	return a
}

func limitOf(g *generation, r *rules.Rule) api.Limit {
	return api.Limit{
		Rule: r.ID(), Name: r.Label(), Location: r.At(), Generation: g.Label, Digest: g.Digest, Current: g.Current,
		Pool: r.Session.Pool, Mode: r.Session.Mode(), Max: r.Session.Max, KeyMax: r.Session.KeyMax,
		Shares: []api.Share{}, Keys: []api.Key{}, Holders: []record.Holder{},
		WouldRefuse: g.WouldRefuse[r.ID()],
	}
}

// use is who uses one counter on this replica.
type use struct {
	sessions int
	keys     map[string]int
	holders  map[record.Holder]int // without Sessions
}

// usage returns the use of each counter.
func usage(gens []*generation) map[string]*use {
	used := map[string]*use{}
	for _, g := range gens {
		byID := map[string]*rules.Rule{}
		for r := range g.Rules.All() {
			byID[r.ID()] = r
		}
		for _, r := range policyfile.Limited(g.Rules) {
			counter := proxy.Counter(g.Digest, r)
			if used[counter] == nil {
				used[counter] = &use{keys: map[string]int{}, holders: map[record.Holder]int{}}
			}
		}
		for _, s := range g.running {
			if r := countedBy(s, byID); r != nil {
				used[proxy.Counter(g.Digest, r)].add(s)
			}
		}
	}
	return used
}

// countedBy returns the rule whose slot a session holds, nil if it holds none. byID has
// the rules of its generation.
func countedBy(s *record.Running, byID map[string]*rules.Rule) *rules.Rule {
	r, request := byID[s.ClientRule], byID[s.Rule]
	if r == nil || request != nil && !decide.Inherits(r, request) {
		r = request
	}
	if r == nil || !r.Pass || !r.Session.Limited {
		return nil
	}
	return r
}

func (u *use) add(s *record.Running) {
	u.sessions++
	if s.LimitKey != "" {
		u.keys[s.LimitKey]++
	}
	u.holders[record.Holder{Client: s.Client.Addr(), User: s.User}]++
}

// show adds the use on the replica name to an answer.
func (u *use) show(limit *api.Limit, name string) {
	if u.sessions == 0 {
		return
	}
	limit.Shares = append(limit.Shares, api.Share{Replica: name, Sessions: u.sessions})
	for key, n := range u.keys {
		limit.Keys = append(limit.Keys, api.Key{
			Key: key, Sessions: n, Max: limit.KeyMax, Shares: []api.Share{{Replica: name, Sessions: n}},
		})
	}
	for h, n := range u.holders {
		h.Sessions = n
		limit.Holders = append(limit.Holders, h)
	}
	limit.KeepForOthers()
}
