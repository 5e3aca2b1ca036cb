package serve

import (
	"context"
	"net/http"
	"time"

	"usher/cmd/usher/internal/overview"
	"usher/proxy/admin/api"
)

// operator does on this replica what the API asks for.
type operator struct {
	service *service
	local   *overview.Local
}

var _ api.Writer = operator{}

// End implements api.Writer.
func (o operator) End(ctx context.Context, which api.Ending, _ string) api.Ended {
	a := api.Ended{Answer: o.local.Cluster(ctx).Answer, Ended: []string{}}
	server := o.service.proxy
	switch {
	case which.NotAdmitted:
		a.Ended = append(a.Ended, server.EndNotAdmitted()...)
	case which.Generation != "":
		a.Ended = append(a.Ended, server.End(o.local.OfOldGeneration(which.Generation)...)...)
	default:
		a.Ended = append(a.Ended, server.End(which.Session)...)
	}
	return a
}

// drainWait bounds how long a request to drain waits for the main loop.
const drainWait = 5 * time.Second

// drainRequest asks the main loop to drain, or to take that back.
type drainRequest struct {
	drain bool
	done  chan error // has room for the result
}

// Drain implements api.Writer.
func (o operator) Drain(ctx context.Context, _ string, drain bool, _ string) (api.Changed, error) {
	ctx, cancel := context.WithTimeout(ctx, drainWait)
	defer cancel()
	r := drainRequest{drain, make(chan error, 1)}
	busy := &api.FailedError{Code: http.StatusServiceUnavailable, Answer: api.Error{
		Error: "this replica is stopping, or is being upgraded", Remedy: "try again when it is done, or ask another replica",
	}}
	select {
	case o.service.drained.requests <- r:
	case <-ctx.Done():
		return api.Changed{}, busy
	}
	select {
	case err := <-r.done:
		if err != nil {
			return api.Changed{}, &api.FailedError{Code: http.StatusConflict, Answer: api.Error{
				Error: err.Error(), Remedy: "free the address, and ask again",
			}}
		}
	case <-ctx.Done():
		return api.Changed{}, busy
	}
	now := o.local.Cluster(ctx)
	return api.Changed{Answer: now.Answer, Changed: now.Replicas[0]}, nil
}
