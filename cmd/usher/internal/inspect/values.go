package inspect

import (
	"context"
	"fmt"
	"time"

	"usher/cmd/usher/internal/complete"
	"usher/proxy/admin/api"
	"usher/proxy/record"
)

// completing bounds the wait of a person who completes a command line.
const completing = time.Second

// Values returns what flags and arguments of the verbs can be, for the shell. A replica
// that does not answer has no values.
func Values(ctx context.Context, c Caller) complete.Values {
	return func(kind string) []complete.Candidate {
		switch kind {
		case "reason":
			return reasons()
		case "state":
			return each(record.States())
		}
		client, err := c.Target("", completing).Client()
		if err != nil {
			return nil
		}
		return ask(ctx, client, kind)
	}
}

func each(values []string) (list []complete.Candidate) {
	for _, value := range values {
		list = append(list, complete.Candidate{Value: value})
	}
	return list
}

// reasons are those of refusals and ends.
func reasons() (list []complete.Candidate) {
	for reason, e := range record.Explanations() {
		list = append(list, complete.Candidate{Value: reason, Help: e.Why})
	}
	return list
}

// ask asks a replica for the values of a kind.
func ask(ctx context.Context, client *api.Client, kind string) (list []complete.Candidate) {
	switch kind {
	case "replica":
		a, _ := client.Cluster(ctx)
		for _, r := range a.Replicas {
			list = append(list, complete.Candidate{Value: r.Name, Help: r.State})
		}
	case "rule", "generation":
		a, _ := client.Rules(ctx)
		for _, g := range a.Generations {
			if kind == "generation" {
				list = append(list, complete.Candidate{Value: g.Label, Help: fmt.Sprintf("%d sessions", g.Sessions)})
				continue
			}
			for _, r := range g.Rules {
				list = append(list, complete.Candidate{Value: r.Rule, Help: r.Name})
			}
		}
	case "refused":
		a, _ := client.Refusals(ctx, api.Query{Limit: api.MaxLimit})
		for _, e := range a.Refusals {
			list = append(list, complete.Candidate{Value: e.Client.Addr().String()}, complete.Candidate{Value: e.User})
		}
	case "session", "client", "user":
		a, _ := client.Sessions(ctx, api.Query{Limit: api.MaxLimit})
		for _, r := range a.Sessions {
			list = append(list, of(kind, r))
		}
	}
	return list
}

// of returns a value of a session.
func of(kind string, r record.Running) complete.Candidate {
	switch kind {
	case "client":
		return complete.Candidate{Value: r.Client.Addr().String()}
	case "user":
		return complete.Candidate{Value: r.User}
	}
	return complete.Candidate{Value: r.ID, Help: r.Client.String() + " " + r.User + " " + r.Target}
}
