package inspect

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"time"

	"usher/cmd/usher/internal/control"
	"usher/cmd/usher/internal/screen"
	"usher/cmd/usher/internal/show"
	"usher/proxy/admin/api"
)

// Status is usher status.
type Status struct {
	Admin   string        `help:"Address of the admin listener. Default: USHER_ADMIN_LISTEN." placeholder:"HOST:PORT"`
	Timeout time.Duration `help:"How long to wait for the answer." default:"2s"`
	JSON    bool          `name:"json" help:"Print the answer of /status: JSON for scripts."`
	Again
}

// Help is shown under usher status --help.
func (Status) Help() string {
	return `Shows the health of the cluster and its replicas, then the rules, store and limits of the replica that was asked. usher limits, sessions, refusals and why show more, for the whole cluster.

Exit codes: 0 success, 1 no answer, 2 wrong arguments. Replicas that did not answer are named on the standard error.`
}

// Run shows the cluster and one replica.
func (v Status) Run(ctx context.Context, c Caller) error {
	return v.ask(ctx, c, v.JSON, func(ctx context.Context, s screen.Screen) (view, error) {
		target := c.Target(v.Admin, v.Timeout)
		st, text, err := target.Status(ctx)
		if err != nil || v.JSON {
			return view{text: string(text)}, err
		}
		cluster, missing, err := v.cluster(ctx, target, s)
		if err != nil {
			return view{}, err
		}
		var b strings.Builder
		if err := control.Print(&b, st); err != nil {
			return view{}, err
		}
		return view{cluster + b.String(), missing}, nil
	})
}

// cluster asks about all replicas. An older usher does not know.
func (v Status) cluster(ctx context.Context, target control.Target, s screen.Screen) (string, []api.Missing, error) {
	client, err := target.Client()
	if err != nil {
		return "", nil, err
	}
	a, err := client.Cluster(ctx)
	var failed *api.FailedError
	if errors.As(err, &failed) && failed.Code == http.StatusNotFound {
		return "", nil, nil
	}
	if err != nil {
		return "", nil, err
	}
	return show.Cluster(s, a, a.Time.Local()) + "\n", a.Missing, nil
}
