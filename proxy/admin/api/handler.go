package api

import (
	"bytes"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"usher/proxy/printable"
)

// Prefix begins the paths of the API.
const Prefix = "/api/v1/"

// Handler answers requests below Prefix that read. With the parameter local=1 or
// local=ID, Local answers for this replica alone; without it, Cluster answers for all
// replicas. All fields are required.
type Handler struct {
	ID             string // of this replica in the store
	Local, Cluster Source
	Events         http.Handler // answers with a stream of what changes
}

// Routes returns what answers GET below Prefix.
func (h Handler) Routes() http.Handler {
	mux := http.NewServeMux()
	get := func(name string, ask func(Source, *http.Request, url.Values) (any, error)) {
		mux.HandleFunc("GET "+Prefix+name, func(w http.ResponseWriter, r *http.Request) { h.answer(w, r, ask) })
	}
	get("cluster", plain(func(s Source, r *http.Request) any { return s.Cluster(r.Context()) }))
	get("rules", plain(func(s Source, r *http.Request) any { return s.Rules(r.Context()) }))
	get("limits", plain(func(s Source, r *http.Request) any { return s.Limits(r.Context()) }))
	get("sessions", queried(func(s Source, r *http.Request, q Query) any { return s.Sessions(r.Context(), q) }))
	get("refusals", queried(func(s Source, r *http.Request, q Query) any { return s.Refusals(r.Context(), q) }))
	mux.Handle("GET "+Prefix+"events", h.Events)
	mux.HandleFunc("GET "+Prefix+"openapi.json", openAPI)
	mux.HandleFunc(Prefix, notFound)
	return mux
}

// description describes the API in OpenAPI 3.
//
//go:embed openapi.json
var description []byte

func openAPI(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(description) // it fails only if the client is gone
}

func notFound(w http.ResponseWriter, r *http.Request) {
	WriteError(w, http.StatusNotFound, Error{
		Error: fmt.Sprintf("there is no %s", printable.Text(r.Method+" "+r.URL.Path)), Remedy: "read " + Prefix + "openapi.json for all paths",
	})
}

// OtherMethod answers requests that neither read nor write.
func OtherMethod(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Allow", "GET, HEAD, POST")
	WriteError(w, http.StatusMethodNotAllowed, Error{
		Error: fmt.Sprintf("the method %s is not known here", printable.Text(fmt.Sprintf("%.20s", r.Method))), Remedy: "use GET to read, and POST to change something",
	})
}

// NotYet answers all paths of a process that has no rules yet.
func NotYet(w http.ResponseWriter, _ *http.Request) {
	WriteError(w, http.StatusServiceUnavailable, Error{Error: "this replica has no rules yet", Remedy: "ask another replica, or read in /readyz what it waits for"})
}

// plain is for a path without parameters.
func plain(ask func(Source, *http.Request) any) func(Source, *http.Request, url.Values) (any, error) {
	return func(s Source, r *http.Request, v url.Values) (any, error) {
		if err := only(v); err != nil {
			return nil, err
		}
		return ask(s, r), nil
	}
}

// queried is for a path with the parameters of a Query.
func queried(ask func(Source, *http.Request, Query) any) func(Source, *http.Request, url.Values) (any, error) {
	return func(s Source, r *http.Request, v url.Values) (any, error) {
		q, err := ParseQuery(v)
		if err != nil {
			return nil, err
		}
		return ask(s, r, q), nil
	}
}

func (h Handler) answer(w http.ResponseWriter, r *http.Request, ask func(Source, *http.Request, url.Values) (any, error)) {
	v := maps.Clone(r.URL.Query())
	local, err := takeLocal(v, h.ID)
	if n, _ := strconv.Atoi(v.Get("limit")); err == nil && !local && n > MaxLimit {
		err = fmt.Errorf("limit %d is above %d", n, MaxLimit)
	}
	var body any
	if err == nil {
		source := h.Cluster
		if local {
			source = h.Local
		}
		body, err = ask(source, r, v)
	}
	answer(w, body, err)
}

const anotherReplica = "this is another replica than the one that local names"

// IsAnotherReplica reports whether another replica than the one that was asked for has
// given the answer err: it is now at that address.
func IsAnotherReplica(err error) bool {
	var failed *FailedError
	return errors.As(err, &failed) && failed.Code == http.StatusConflict && failed.Answer.Error == anotherReplica
}

// takeLocal removes local from the parameters, and reports whether it is there. It fails
// if local is meant for another replica: addresses are used again.
func takeLocal(v url.Values, id string) (local bool, err error) {
	asked := v.Get("local")
	if !v.Has("local") {
		return false, nil
	}
	delete(v, "local")
	if asked != "1" && asked != id {
		return false, &FailedError{http.StatusConflict, Error{
			Error: anotherReplica, Remedy: "give local=1 for whichever replica is here",
		}}
	}
	return true, nil
}

// answer answers with body, or with the error.
func answer(w http.ResponseWriter, body any, err error) {
	var failed *FailedError
	switch {
	case err == nil:
		writeJSON(w, http.StatusOK, body)
	case errors.As(err, &failed):
		WriteError(w, failed.Code, failed.Answer)
	default:
		WriteError(w, http.StatusBadRequest, Error{
			Error: printable.Text(err.Error()), Remedy: "read " + Prefix + "openapi.json for the parameters of each path",
		})
	}
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
