package api

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"net/netip"
	"net/url"
	"strings"

	"usher/proxy/printable"
)

// Ending selects sessions to end. One field is set.
type Ending struct {
	Session     string // its id
	NotAdmitted bool   // those that the rules in force would not admit
	Generation  string // those of the generation with this label, or with its hash
}

// Values returns the parameters of a request to end sessions.
func (e Ending) Values() url.Values {
	switch {
	case e.NotAdmitted:
		return url.Values{"not_admitted": {"1"}}
	case e.Generation != "":
		return url.Values{"generation": {e.Generation}}
	}
	return url.Values{}
}

// String says what e selects.
func (e Ending) String() string {
	switch {
	case e.NotAdmitted:
		return "sessions that the rules do not admit"
	case e.Generation != "":
		return "sessions of generation " + e.Generation
	}
	return "session " + e.Session
}

// Writer changes what Source tells. by says who asks, for the log. Its methods are safe
// for concurrent use.
type Writer interface {
	// End ends sessions. It does not wait for their end.
	End(ctx context.Context, which Ending, by string) Ended
	// Drain makes a replica take no new sessions, or take them again. "" is this one. An
	// error that is a *FailedError is answered as it is.
	Drain(ctx context.Context, replica string, drain bool, by string) (Changed, error)
}

// WriteHandler answers requests below Prefix that change something. Local changes this
// replica alone, and Cluster all. Who says who asks. Rules are those of the cluster. All
// fields are required.
type WriteHandler struct {
	ID             string // of this replica in the store
	Local, Cluster Writer
	Who            func(*http.Request) netip.Addr
	Rules          func(context.Context) Rules
	Logger         *slog.Logger
}

// Routes returns what answers POST below Prefix.
func (h WriteHandler) Routes() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST "+Prefix+"sessions/{session}/end", func(w http.ResponseWriter, r *http.Request) {
		h.write(w, r, nil, func(to Writer, _ url.Values, by string) (any, error) {
			return h.end(r.Context(), to, Ending{Session: r.PathValue("session")}, by)
		})
	})
	mux.HandleFunc("POST "+Prefix+"sessions/end", func(w http.ResponseWriter, r *http.Request) {
		h.write(w, r, []string{"not_admitted", "generation"}, func(to Writer, v url.Values, by string) (any, error) {
			which := Ending{NotAdmitted: v.Get("not_admitted") == "1", Generation: v.Get("generation")}
			if len(v) != 1 || which == (Ending{}) {
				return nil, errors.New("give either not_admitted=1 or generation=LABEL")
			}
			a, err := h.end(r.Context(), to, which, by)
			if err == nil && len(a.Ended)+len(a.Missing) == 0 && which.Generation != "" && !r.URL.Query().Has("local") {
				err = h.knowsGeneration(r.Context(), which.Generation)
			}
			return a, err
		})
	})
	for path, drain := range map[string]bool{"drain": true, "undrain": false} {
		mux.HandleFunc("POST "+Prefix+path, func(w http.ResponseWriter, r *http.Request) {
			h.write(w, r, []string{"replica"}, func(to Writer, v url.Values, by string) (any, error) {
				return h.drain(r.Context(), to, v.Get("replica"), drain, by)
			})
		})
	}
	mux.HandleFunc(Prefix, notFound)
	return mux
}

// write answers a request with the parameters known, besides local and by.
func (h WriteHandler) write(w http.ResponseWriter, r *http.Request, known []string, do func(to Writer, v url.Values, by string) (any, error)) {
	v := maps.Clone(r.URL.Query())
	local, err := takeLocal(v, h.ID)
	by := h.Who(r).String()
	if asked := v.Get("by"); asked != "" {
		by = fmt.Sprintf("%.100s through %s", asked, by)
	}
	delete(v, "by")
	if err == nil {
		err = only(v, known...)
	}
	var body any
	if err == nil {
		to := h.Cluster
		if local {
			to = h.Local
		}
		body, err = do(to, v, by)
	}
	answer(w, body, err)
}

// knowsGeneration fails if no generation has this label, or this hash in its label.
func (h WriteHandler) knowsGeneration(ctx context.Context, name string) error {
	var labels []string
	for _, g := range h.Rules(ctx).Generations {
		if _, hash, _ := strings.Cut(g.Label, "-"); name == g.Label || name == hash {
			return nil
		}
		labels = append(labels, g.Label)
	}
	return &FailedError{http.StatusNotFound, Error{
		Error:  fmt.Sprintf("there is no generation %s, only %s", printable.Text(name), strings.Join(labels, ", ")),
		Remedy: "its last session has ended, or the label is wrong",
	}}
}

func (h WriteHandler) end(ctx context.Context, to Writer, which Ending, by string) (Ended, error) {
	a := to.End(ctx, which, by)
	h.Logger.Info("sessions ended through the admin listener", "by", printable.Text(by), "which", printable.Text(which.String()), "ended", len(a.Ended), "missing", len(a.Missing))
	if which.Session == "" || len(a.Ended) > 0 {
		return a, nil
	}
	if len(a.Missing) > 0 {
		return a, &FailedError{http.StatusServiceUnavailable, Error{
			Error:  fmt.Sprintf("session %s is on no replica that has answered; %s has not: %s", printable.Text(which.Session), a.Missing[0].Replica, a.Missing[0].Error),
			Remedy: "try again when all replicas answer",
		}}
	}
	return a, &FailedError{http.StatusNotFound, Error{
		Error: fmt.Sprintf("there is no session %s", printable.Text(which.Session)), Remedy: "it has ended, or read " + Prefix + "sessions for the ids",
	}}
}

func (h WriteHandler) drain(ctx context.Context, to Writer, replica string, drain bool, by string) (any, error) {
	a, err := to.Drain(ctx, replica, drain, by)
	attrs := []any{"by", printable.Text(by), "drain", drain}
	if replica != "" {
		attrs = append(attrs, "of", printable.Text(replica))
	}
	if err != nil {
		h.Logger.Warn("drain through the admin listener failed", append(attrs, "error", printable.Text(err.Error()))...)
		return nil, err
	}
	h.Logger.Info("drain through the admin listener", attrs...)
	return a, nil
}

// only fails if v has other parameters than known, or one several times.
func only(v url.Values, known ...string) error {
	for key, values := range v {
		if len(values) != 1 {
			return fmt.Errorf("%q is given %d times; give it once", key, len(values))
		}
		if !strings.Contains(" "+strings.Join(known, " ")+" ", " "+key+" ") {
			return fmt.Errorf("parameter %q is not known", key)
		}
	}
	return nil
}
