package peers

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"syscall"

	"usher/proxy/admin/api"
	"usher/proxy/record"
)

// gone reports whether nobody listens any more where a peer was.
func gone(err error) bool { return errors.Is(err, syscall.ECONNREFUSED) }

// replaced reports whether a peer was started again, at the same address and under a new
// id, after its lease had ended.
func replaced(p Peer, err error) bool { return p.Dead && api.IsAnotherReplica(err) }

// Cluster implements api.Source.
func (c *Cluster) Cluster(ctx context.Context) api.Cluster {
	var a api.Cluster
	found := ask(ctx, c, everybody, func() { a = c.o.Local.Cluster(ctx) }, func(ctx context.Context, at *api.Client) (api.Cluster, error) {
		a, err := at.Cluster(ctx)
		if err == nil && len(a.Replicas) != 1 {
			err = fmt.Errorf("it tells of %d replicas instead of itself alone", len(a.Replicas))
		}
		return a, err
	})
	for _, o := range found {
		a.Replicas = append(a.Replicas, rowOf(o))
	}
	slices.SortStableFunc(a.Replicas, func(a, b api.Replica) int {
		return cmp.Or(strings.Compare(a.Name, b.Name), strings.Compare(a.ID, b.ID))
	})
	a.Missing = missing(found)
	a.Judge()
	return a
}

// rowOf returns what is known of a peer.
func rowOf(o outcome[api.Cluster]) api.Replica {
	p := o.peer
	if o.err == nil {
		row := o.answer.Replicas[0]
		row.Address, row.Seen = p.Address, p.Seen
		return row
	}
	row := api.Replica{
		ID: p.ID, Name: p.Name, Address: p.Address, Version: p.Version, Started: p.Started, Seen: p.Seen, State: api.Silent,
	}
	row.Error = o.err.Error()
	if p.Dead {
		row.State = api.Dead
	}
	return row
}

// Rules implements api.Source.
func (c *Cluster) Rules(ctx context.Context) api.Rules {
	var a api.Rules
	found := ask(ctx, c, everybody, func() { a = c.o.Local.Rules(ctx) }, func(ctx context.Context, at *api.Client) (api.Rules, error) { return at.Rules(ctx) })
	for _, o := range found {
		if o.err != nil {
			continue
		}
		for _, g := range o.answer.Generations {
			g.Current = false // on the answering replica
			at := slices.IndexFunc(a.Generations, func(mine api.Generation) bool { return mine.Digest == g.Digest })
			if at < 0 {
				a.Generations = append(a.Generations, g)
			} else {
				addGeneration(&a.Generations[at], g)
			}
		}
	}
	slices.SortStableFunc(a.Generations, func(a, b api.Generation) int {
		return cmp.Or(before(a.Current, b.Current), before(len(a.Replicas) > 0, len(b.Replicas) > 0), cmp.Compare(b.Number, a.Number))
	})
	a.Missing = missing(found)
	return a
}

// before orders what is true first.
func before(a, b bool) int {
	switch {
	case a == b:
		return 0
	case a:
		return -1
	}
	return 1
}

// addGeneration adds what another replica tells about the same generation.
func addGeneration(g *api.Generation, other api.Generation) {
	if g.Number == 0 {
		g.Number, g.Label = other.Number, other.Label
	}
	g.Replicas = append(g.Replicas, other.Replicas...)
	g.Sessions += other.Sessions
	sessions := map[string]int{}
	for _, r := range other.Rules {
		sessions[r.Rule] = r.Sessions
	}
	for i := range g.Rules {
		g.Rules[i].Sessions += sessions[g.Rules[i].Rule]
	}
}

// Limits implements api.Source.
func (c *Cluster) Limits(ctx context.Context) api.Limits {
	var a api.Limits
	found := ask(ctx, c, everybody, func() { a = c.o.Local.Limits(ctx) }, func(ctx context.Context, at *api.Client) (api.Limits, error) { return at.Limits(ctx) })
	type identity struct{ digest, rule string }
	index := map[identity]int{}
	for i, l := range a.Limits {
		index[identity{l.Digest, l.Rule}] = i
	}
	for _, o := range found {
		if o.err != nil {
			continue
		}
		for _, l := range o.answer.Limits {
			l.Current = false
			id := identity{l.Digest, l.Rule}
			if at, ok := index[id]; ok {
				addLimit(&a.Limits[at], l)
				continue
			}
			index[id] = len(a.Limits)
			a.Limits = append(a.Limits, l)
		}
	}
	for i := range a.Limits {
		byReplica(a.Limits[i].Shares)
		for _, k := range a.Limits[i].Keys {
			byReplica(k.Shares)
		}
		a.Limits[i].KeepFullest(api.KeysOfAnswer)
		a.Limits[i].Partial = a.Limits[i].Partial && len(found) > 0
	}
	a.Missing = missing(found)
	return a
}

// byReplica sorts shares, so that all replicas tell them in one order.
func byReplica(list []api.Share) {
	slices.SortFunc(list, func(a, b api.Share) int { return strings.Compare(a.Replica, b.Replica) })
}

// addLimit adds what another replica tells about the same limit. Its sessions come from
// the store, which all replicas read.
func addLimit(l *api.Limit, other api.Limit) {
	l.Shares = append(l.Shares, other.Shares...)
	l.Refused += other.Refused
	l.WouldRefuse += other.WouldRefuse
	l.Partial = l.Partial || other.Partial
	if other.Highest > l.Highest {
		l.Highest, l.HighestAt = other.Highest, other.HighestAt
	}
	for _, k := range other.Keys {
		at := slices.IndexFunc(l.Keys, func(mine api.Key) bool { return mine.Key == k.Key })
		if at < 0 {
			l.Keys = append(l.Keys, k)
			continue
		}
		l.Keys[at].Sessions += k.Sessions
		l.Keys[at].Shares = append(l.Keys[at].Shares, k.Shares...)
	}
	for _, h := range other.Holders {
		at := slices.IndexFunc(l.Holders, func(mine record.Holder) bool { return mine.Client == h.Client && mine.User == h.User })
		if at < 0 {
			l.Holders = append(l.Holders, h)
			continue
		}
		l.Holders[at].Sessions += h.Sessions
	}
}
