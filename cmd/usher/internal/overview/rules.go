package overview

import (
	"context"
	"slices"
	"strings"

	"usher/proxy"
	"usher/proxy/admin/api"
	"usher/proxy/record"
	"usher/proxy/rules"
)

// generation is a generation with all its sessions. Reloads of an unchanged file are
// one generation.
type generation struct {
	proxy.Generation
	running []*record.Running
}

// generations returns the generations that live, the one in force first.
func (l *Local) generations() (list []*generation) {
	running := l.o.Server.Running()
	for _, g := range slices.Backward(l.o.Server.Generations()) {
		at := slices.IndexFunc(list, func(other *generation) bool { return other.Digest == g.Digest })
		if at >= 0 {
			list[at].Sessions += g.Sessions
			continue
		}
		list = append(list, &generation{Generation: g})
	}
	byHash := map[string]*generation{}
	for _, g := range list {
		byHash[hashOf(g.Label)] = g
	}
	for i := range running {
		if g := byHash[hashOf(running[i].Generation)]; g != nil {
			g.running = append(g.running, &running[i])
		}
	}
	return list
}

// hashOf returns the part of a label that does not change: the store may have told the
// number meanwhile.
func hashOf(label string) string {
	_, hash, _ := strings.Cut(label, "-")
	return hash
}

// Rules implements api.Source.
func (l *Local) Rules(context.Context) api.Rules {
	a := api.Rules{Answer: l.answer(), Generations: []api.Generation{}}
	for _, g := range l.generations() {
		out := api.Generation{
			Label: g.Label, Number: g.Number, Digest: g.Digest, Current: g.Current, Replicas: []string{},
			Sessions: len(g.running), Rules: []api.Rule{},
		}
		if g.Current {
			out.Replicas = append(out.Replicas, l.o.Name)
		}
		passed := map[string]int{}
		for _, r := range g.running {
			passed[r.ClientRule]++
			passed[r.Rule]++
		}
		for r := range g.Rules.All() {
			out.Rules = append(out.Rules, ruleOf(g.Rules, r, passed[r.ID()]))
		}
		a.Generations = append(a.Generations, out)
	}
	return a
}

func ruleOf(set *rules.Set, r *rules.Rule, sessions int) api.Rule {
	verdict := "block"
	if r.Pass {
		verdict = "pass"
	}
	return api.Rule{
		Rule: r.ID(), Name: r.Label(), Location: r.At(), Verdict: verdict, Text: set.Text(r),
		Limited: r.Pass && r.Session.Limited, Sessions: sessions,
	}
}

// OfOldGeneration returns the sessions of a generation that is not in force here. label
// is its label, or the hash in it.
func (l *Local) OfOldGeneration(label string) (ids []string) {
	for _, g := range l.generations() {
		if g.Current || hashOf(g.Label) != hashOf("-"+label) && hashOf(g.Label) != hashOf(label) {
			continue
		}
		for _, s := range g.running {
			ids = append(ids, s.ID)
		}
	}
	return ids
}
