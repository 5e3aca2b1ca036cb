package api

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"usher/proxy/printable"
)

// Prefix begins the paths of the API.
const Prefix = "/api/v1/"

// Handler answers requests below Prefix. Local answers for this replica alone, if the
// request asks for that with local=1, and Cluster for all replicas. Both are required.
type Handler struct {
	Local, Cluster Source
}

// Routes returns what answers all paths below Prefix.
func (h Handler) Routes() http.Handler {
	mux := http.NewServeMux()
	get := func(name string, answer func(Source, *http.Request) (any, error)) {
		mux.HandleFunc("GET "+Prefix+name, func(w http.ResponseWriter, r *http.Request) { h.answer(w, r, answer) })
	}
	get("cluster", plain(func(s Source, r *http.Request) any { return s.Cluster(r.Context()) }))
	get("rules", plain(func(s Source, r *http.Request) any { return s.Rules(r.Context()) }))
	get("limits", plain(func(s Source, r *http.Request) any { return s.Limits(r.Context()) }))
	get("sessions", queried(func(s Source, r *http.Request, q Query) any { return s.Sessions(r.Context(), q) }))
	get("refusals", queried(func(s Source, r *http.Request, q Query) any { return s.Refusals(r.Context(), q) }))
	mux.HandleFunc(Prefix, func(w http.ResponseWriter, r *http.Request) {
		WriteError(w, http.StatusNotFound, Error{
			Error: fmt.Sprintf("there is no %s", printable.Text(r.Method+" "+r.URL.Path)), Remedy: "read " + Prefix + "openapi.json for all paths",
		})
	})
	return mux
}

// NotYet answers all paths of a process that has no rules yet.
func NotYet(w http.ResponseWriter, _ *http.Request) {
	WriteError(w, http.StatusServiceUnavailable, Error{Error: "this replica has no rules yet", Remedy: "ask another replica, or read in /readyz what it waits for"})
}

// plain is for a path without parameters.
func plain(answer func(Source, *http.Request) any) func(Source, *http.Request) (any, error) {
	return func(s Source, r *http.Request) (any, error) {
		for key := range r.URL.Query() {
			if key != "local" {
				return nil, fmt.Errorf("parameter %q is not known", key)
			}
		}
		return answer(s, r), nil
	}
}

// queried is for a path with the parameters of a Query.
func queried(answer func(Source, *http.Request, Query) any) func(Source, *http.Request) (any, error) {
	return func(s Source, r *http.Request) (any, error) {
		values := maps.Clone(r.URL.Query())
		local := isLocal(values)
		delete(values, "local")
		q, err := ParseQuery(values)
		if err == nil && !local && q.Limit > MaxLimit {
			err = fmt.Errorf("limit %d is above %d", q.Limit, MaxLimit)
		}
		if err != nil {
			return nil, err
		}
		return answer(s, r, q), nil
	}
}

func isLocal(v url.Values) bool { return slices.Equal(v["local"], []string{"1"}) }

func (h Handler) answer(w http.ResponseWriter, r *http.Request, answer func(Source, *http.Request) (any, error)) {
	source := h.Cluster
	if v := r.URL.Query(); isLocal(v) {
		source = h.Local
	} else if v.Has("local") {
		WriteError(w, http.StatusBadRequest, badParameter(fmt.Errorf("local is not 1")))
		return
	}
	body, err := answer(source, r)
	if err != nil {
		WriteError(w, http.StatusBadRequest, badParameter(err))
		return
	}
	writeJSON(w, http.StatusOK, body)
}

func badParameter(err error) Error {
	return Error{Error: printable.Text(err.Error()), Remedy: "read " + Prefix + "openapi.json for the parameters of each path"}
}

// WriteError answers a request that failed.
func WriteError(w http.ResponseWriter, code int, e Error) { writeJSON(w, code, e) }

func writeJSON(w http.ResponseWriter, code int, body any) {
	var text bytes.Buffer
	out := json.NewEncoder(&text)
	out.SetEscapeHTML(false) // the answer is no HTML, and says so
	if err := out.Encode(body); err != nil {
		code = http.StatusInternalServerError
		text.Reset()
		fmt.Fprintf(&text, `{"error":%q,"remedy":"report this as a bug"}`+"\n", strings.ToValidUTF8(err.Error(), "?"))
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_, _ = w.Write(printable.JSON(text.Bytes())) // it fails only if the client is gone
}
