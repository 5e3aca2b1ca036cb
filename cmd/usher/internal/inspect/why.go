package inspect

import (
	"context"
	"errors"

	"usher/cmd/usher/internal/exit"
	"usher/cmd/usher/internal/screen"
	"usher/cmd/usher/internal/show"
	"usher/proxy/admin/api"
)

// Why is usher why.
type Why struct {
	Who   string `arg:"" help:"A client address, a network or a user." complete:"refused"`
	Limit int    `help:"How many kinds of refusals to print, latest first." default:"3"`
	From
	Again
}

// Help is shown under usher why --help.
func (Why) Help() string {
	return `Prints the last refusals of a client or user: the rule with its file and line, the reason, what the limit held then, who holds its slots now, and what to do. Refusals that are alike are put together. It can be asked of any replica. Each replica remembers its last thousand refusals since it started.

--json prints these refusals as the API has them, all of them.

Exit codes: 0 success, also if no refusal is known, 1 no answer, 2 wrong arguments. Replicas that did not answer are named on the standard error.`
}

// Run explains refusals.
func (v Why) Run(ctx context.Context, c Caller) error {
	most, err := page(v.Limit)
	if err != nil {
		return err
	}
	if v.Who == "" {
		return exit.Usage(errors.New("name a client address, a network or a user"))
	}
	q := api.Query{Limit: api.MaxLimit}
	if q.Client, err = prefix(v.Who); err != nil {
		q.User = v.Who
	}
	return v.ask(ctx, c, v.JSON, v.question(c, func(ctx context.Context, client *api.Client, s screen.Screen) (view, error) {
		a, err := client.Refusals(ctx, q)
		if err != nil || v.JSON {
			return view{missing: a.Missing}, err
		}
		cases := show.Cases(a.Refusals, most)
		if err := holding(ctx, client, cases); err != nil {
			return view{}, err
		}
		return view{show.Why(s, v.Who, a.Total, cases, a.Time.Local()), a.Missing}, nil
	}))
}

// holding finds out who holds the slots of the limits now.
func holding(ctx context.Context, client *api.Client, cases []show.Case) error {
	var limits api.Limits
	for i := range cases {
		c := &cases[i]
		if !c.ByLimit() {
			continue
		}
		if limits.Limits == nil {
			var err error
			if limits, err = client.Limits(ctx); err != nil {
				return err
			}
		}
		if c.Find(limits.Limits); c.Limit == nil {
			continue
		}
		a, err := client.Sessions(ctx, c.Query())
		if err != nil {
			return err
		}
		c.Hold(a.Sessions)
	}
	return nil
}
