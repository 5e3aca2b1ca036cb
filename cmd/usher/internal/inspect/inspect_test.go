package inspect

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"usher/cmd/usher/internal/control"
	"usher/cmd/usher/internal/exit"
	"usher/cmd/usher/internal/screen"
)

// answers are what the admin listener of the tests answers, each with a replica that is
// missing. The spelling is not that of encoding/json, and one key is of a later version.
var answers = map[string]string{
	"/api/v1/sessions": `{ "time":"2026-11-30T03:13:00Z", "replica":"web1", "missing":[MISSING], "total":0, "offset":0, "sessions":[], "later":1.50 }`,
	"/api/v1/limits":   `{ "time":"2026-11-30T03:13:00Z", "replica":"web1", "missing":[MISSING], "limits":[], "later":1.50 }`,
	"/api/v1/refusals": `{ "time":"2026-11-30T03:13:00Z", "replica":"web1", "missing":[MISSING], "total":0, "offset":0, "refusals":[], "later":1.50 }`,
	"/api/v1/cluster":  `{ "time":"2026-11-30T03:13:00Z", "replica":"web1", "missing":[MISSING], "cluster":"default", "health":"ok", "reasons":[], "replicas":[] }`,
	"/status":          `{ "version":"1" }`,
}

const (
	missingReplica = `{"replica":"web2","address":"192.0.2.2:9090","error":"no answer within 1s"}`
	missingLine    = "usher: replica web2 at 192.0.2.2:9090 is missing in this answer: no answer within 1s\n"
)

func answer(path string) string { return strings.ReplaceAll(answers[path], "MISSING", missingReplica) }

// terminal is where the verbs of a test print.
type terminal struct{ out, err bytes.Buffer }

// caller asks a server.
func (to *terminal) caller(server *httptest.Server) Caller {
	return Caller{
		Screen: screen.Screen{Out: &to.out, Width: 80}, Stderr: &to.err,
		Target: func(string, time.Duration) control.Target {
			return control.Target{Admin: server.Listener.Addr().String(), Timeout: time.Minute}
		},
	}
}

func serve(t *testing.T, handle http.HandlerFunc) *httptest.Server {
	t.Helper()
	server := httptest.NewServer(handle)
	t.Cleanup(server.Close)
	return server
}

// --json prints the bytes of the API, also those that this version does not know, and
// nothing else. Who is missing stands on the standard error, with tables as well.
func TestJSONIsTheAnswer(t *testing.T) {
	server := serve(t, func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, answer(r.URL.Path)) })
	json := From{JSON: true}
	for _, c := range []struct {
		what string
		run  func(context.Context, Caller) error
		want string // "": a table
	}{
		{"sessions --json", Sessions{From: json, Limit: 1}.Run, answer("/api/v1/sessions")},
		{"limits --json", Limits{From: json}.Run, answer("/api/v1/limits")},
		{"refusals --json", Refusals{From: json, Limit: 1}.Run, answer("/api/v1/refusals")},
		{"why --json", Why{From: json, Who: "192.0.2.7", Limit: 1}.Run, answer("/api/v1/refusals")},
		{"sessions", Sessions{Limit: 1}.Run, ""},
		{"limits", Limits{}.Run, ""},
		{"refusals", Refusals{Limit: 1}.Run, ""},
		{"why", Why{Who: "kim", Limit: 1}.Run, ""},
		{"status", Status{}.Run, ""},
	} {
		var at terminal
		if err := c.run(t.Context(), at.caller(server)); err != nil {
			t.Errorf("%s: %v", c.what, err)
		}
		out := at.out.String()
		if c.want != "" && out != c.want || c.want == "" && (out == "" || strings.Contains(out, "{")) {
			t.Errorf("%s prints %q, want %q", c.what, out, c.want)
		}
		if at.err.String() != missingLine {
			t.Errorf("%s: %q on the standard error, want %q", c.what, at.err.String(), missingLine)
		}
	}
}

// Wrong arguments are told before anybody is asked.
func TestWrongArguments(t *testing.T) {
	server := serve(t, func(_ http.ResponseWriter, r *http.Request) { t.Error("asked for", r.URL) })
	for _, c := range []struct {
		run  func(context.Context, Caller) error
		says string
	}{
		{Sessions{Limit: 0}.Run, "--limit 0: from 1 to 1000"},
		{Sessions{Limit: 1001}.Run, "--limit 1001"},
		{Sessions{Limit: 1, State: "sleeping"}.Run, `--state "sleeping" is none of negotiating, opening, relaying, associated`},
		{Refusals{Limit: 1, Reason: "lmit"}.Run, `--reason "lmit" is none of auth, auth_throttle, `},
		{Sessions{Limit: 1, Filter: Filter{Client: "kim"}}.Run, `--client "kim" is neither`},
		{Refusals{Limit: 1, Filter: Filter{Client: "192.0.2.0/33"}}.Run, `--client "192.0.2.0/33" is neither`},
		{Refusals{Limit: -1}.Run, "--limit -1"},
		{Limits{Again: Again{Watch: true, Interval: time.Millisecond}}.Run, "--interval 1ms: at least 100ms"},
		{Why{Who: "", Limit: 1}.Run, "name a client address"},
		{Why{Who: "kim", Limit: 0}.Run, "--limit 0"},
		{End{}.Run, "name sessions"},
		{End{Session: []string{"a-1"}, NotAdmitted: true}.Run, "name sessions"},
		{End{Generation: "g1", NotAdmitted: true}.Run, "name sessions"},
	} {
		var at terminal
		err := c.run(t.Context(), at.caller(server))
		var usage exit.UsageError
		if !errors.As(err, &usage) || !strings.Contains(err.Error(), c.says) || at.out.Len() > 0 {
			t.Errorf("%v, want a usage error with %q", err, c.says)
		}
	}
}

// A filter that selects nothing, and that names nothing that exists, is a mistake. One of
// what exists is none, nor is one of a replica that has not answered.
func TestFilterOfWhatDoesNotExist(t *testing.T) {
	missing := ""
	server := serve(t, func(w http.ResponseWriter, r *http.Request) {
		text := strings.ReplaceAll(answers[r.URL.Path], "MISSING", missing)
		text = strings.Replace(text, `"replicas":[]`, `"replicas":[{"name":"web1"},{"name":"web2"}]`, 1)
		if r.URL.Path == "/api/v1/rules" {
			text = `{"generations":[{"generation":"g2-b","rules":[{"rule":"c1","name":"c:1"},{"rule":"s1","name":"web"}]}]}`
		}
		fmt.Fprint(w, text)
	})
	for filter, want := range map[Filter]string{
		{Rule: "wbe"}:                         `--rule "wbe" is none of c1, c:1, s1, web`,
		{Replica: "web3"}:                     `--replica "web3" is none of web1, web2`,
		{Generation: "g1-a"}:                  `--generation "g1-a" is none of g2-b`,
		{Rule: "web", Replica: "web1"}:        "",
		{Rule: "s1", Generation: "g2-b"}:      "",
		{User: "nobody", Target: "elsewhere"}: "",
	} {
		for _, run := range []func(context.Context, Caller) error{Sessions{Limit: 1, Filter: filter}.Run, Refusals{Limit: 1, Filter: filter}.Run} {
			for _, missing = range []string{"", missingReplica} {
				var at terminal
				err := run(t.Context(), at.caller(server))
				var usage exit.UsageError
				if wrong := errors.As(err, &usage); wrong != (want != "" && missing == "") || wrong && !strings.Contains(err.Error(), want) {
					t.Errorf("%+v, missing %q: %v, want %q", filter, missing, err, want)
				}
			}
		}
	}
}

// Who has no token learns where to set it, not how HTTP carries it.
func TestEndWithoutToken(t *testing.T) {
	server := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusUnauthorized)
		fmt.Fprint(w, `{"error":"this request needs the token","remedy":"send Authorization: Bearer"}`)
	})
	var at terminal
	err := End{Session: []string{"a-1", "b-2"}}.Run(t.Context(), at.caller(server))
	if err == nil || strings.Contains(err.Error(), "Bearer") || !strings.Contains(err.Error(), "session b-2: this needs the token of the admin listener; set USHER_ADMIN_TOKEN") {
		t.Error(err)
	}
}
