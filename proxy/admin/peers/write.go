package peers

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	"usher/proxy/admin/api"
)

// Writer changes things on all replicas.
type Writer struct {
	*Cluster
	Local api.Writer // this replica alone
	Name  string     // of this replica
}

var _ api.Writer = Writer{}

// End implements api.Writer.
func (w Writer) End(ctx context.Context, which api.Ending, by string) api.Ended {
	var a api.Ended
	all := w.Cluster
	if which.NotAdmitted {
		all = all.within(api.JudgeTime)
	}
	found := ask(ctx, all, everybody, func() { a = w.Local.End(ctx, which, by) }, func(ctx context.Context, at *api.Client) (api.Ended, error) {
		at.By = by
		a, err := at.EndAll(ctx, which)
		var failed *api.FailedError
		if errors.As(err, &failed) && failed.Code == http.StatusNotFound {
			return api.Ended{}, nil // it runs elsewhere
		}
		return a, err
	})
	for _, o := range found {
		a.Ended = append(a.Ended, o.answer.Ended...)
	}
	a.Missing = missing(found)
	return a
}

// Drain implements api.Writer.
func (w Writer) Drain(ctx context.Context, replica string, drain bool, by string) (api.Changed, error) {
	if replica == "" || replica == w.Name {
		return w.Local.Drain(ctx, "", drain, by)
	}
	found := ask(ctx, w.within(drainTime), func(p Peer) bool { return p.Name == replica }, func() {}, func(ctx context.Context, at *api.Client) (api.Changed, error) {
		at.By = by
		if drain {
			return at.Drain(ctx, "")
		}
		return at.Undrain(ctx, "")
	})
	if len(found) == 0 {
		return api.Changed{}, &api.FailedError{Code: http.StatusNotFound, Answer: api.Error{
			Error: fmt.Sprintf("there is no replica %q", replica), Remedy: "read " + api.Prefix + "cluster for the names",
		}}
	}
	for _, o := range found { // an upgrade in place has two processes of one name
		if o.err == nil {
			o.answer.Replica = w.Name
			return o.answer, nil
		}
	}
	return api.Changed{}, &api.FailedError{Code: http.StatusServiceUnavailable, Answer: api.Error{
		Error:  fmt.Sprintf("replica %s has not said that it has done it, and may do it later: %v", found[0].peer.title(), found[0].err),
		Remedy: "read " + api.Prefix + "cluster for its state, or run usher drain or undrain where it runs",
	}}
}
