package integration

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/getkin/kin-openapi/openapi3filter"
	"github.com/getkin/kin-openapi/routers"
	"github.com/getkin/kin-openapi/routers/gorillamux"

	"usher/proxy/admin/api"
)

// described compares answers with the description that a replica serves.
type described struct {
	t      *testing.T
	at     string // URL of the admin listener
	doc    *openapi3.T
	router routers.Router
	seen   map[string]bool // operations with a status
}

const apiToken = "token-of-the-admin-listener"

func describe(t *testing.T, at string) *described {
	t.Helper()
	resp, err := adminClient.Get(at + "/api/v1/openapi.json")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	doc, err := openapi3.NewLoader().LoadFromData(text)
	if err != nil {
		t.Fatal(err)
	}
	if err := doc.Validate(t.Context()); err != nil {
		t.Fatalf("the description itself: %v", err)
	}
	router, err := gorillamux.NewRouter(doc)
	if err != nil {
		t.Fatal(err)
	}
	return &described{t: t, at: at, doc: doc, router: router, seen: map[string]bool{}}
}

// ask sends a request with the token, unless the path begins with a dash, and checks
// request and answer.
func (d *described) ask(method, path string, code int) []byte {
	d.t.Helper()
	return d.askFor("", method, path, code)
}

// askFor is like ask, with the name host in Host. "" is the address.
func (d *described) askFor(host, method, path string, code int) []byte {
	d.t.Helper()
	path, free := strings.CutPrefix(path, "-")
	req, err := http.NewRequestWithContext(d.t.Context(), method, d.at+path, nil)
	if err != nil {
		d.t.Fatal(err)
	}
	if !free {
		req.Header.Set("Authorization", "Bearer "+apiToken)
	}
	req.Host = host
	resp, err := adminClient.Do(req)
	if err != nil {
		d.t.Fatal(err)
	}
	defer resp.Body.Close()
	req.Host = ""
	text, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != code {
		d.t.Errorf("%s %s: %d %s, %v; want %d", method, path, resp.StatusCode, text, err, code)
		return text
	}
	d.check(req, resp, text)
	return text
}

func (d *described) check(req *http.Request, resp *http.Response, text []byte) {
	d.t.Helper()
	route, params, err := d.router.FindRoute(req)
	if err != nil {
		d.t.Errorf("%s %s is not described: %v", req.Method, req.URL.Path, err)
		return
	}
	options := &openapi3filter.Options{IncludeResponseStatus: true, AuthenticationFunc: openapi3filter.NoopAuthenticationFunc, MultiError: true}
	in := &openapi3filter.RequestValidationInput{Request: req, PathParams: params, Route: route, Options: options}
	if err := openapi3filter.ValidateRequest(d.t.Context(), in); err != nil && resp.StatusCode == http.StatusOK {
		d.t.Errorf("%s %s was answered, and is none of the description: %v", req.Method, req.URL, err)
	}
	out := &openapi3filter.ResponseValidationInput{
		RequestValidationInput: in, Status: resp.StatusCode, Header: resp.Header, Body: io.NopCloser(bytes.NewReader(text)), Options: options,
	}
	if err := openapi3filter.ValidateResponse(d.t.Context(), out); err != nil {
		d.t.Errorf("%s %s: %v\n%.2000s", req.Method, req.URL, err, text)
	}
	d.seen[route.Operation.OperationID] = true
}

// Every answer of the API is as the OpenAPI file says, which the replicas serve.
func TestOpenAPI(t *testing.T) {
	w := newWorld(t, options{env: map[string]string{"USHER_ADMIN_TOKEN": apiToken}, rules: func(limited, free endpoint) string {
		return `
client pass { from: 0/0 to: 0/0 }
socks pass { rule.name: limited from: 0/0 to: ` + limited.to() + ` session.max: 5 session.state.key: from session.state.max: 5 }
socks pass { from: 0/0 to: ` + free.to() + ` session.max: 100 session.pool: all }
socks block { from: 0/0 to: 0/0 }
`
	}})
	held := w.proxy.ask(t, 8, w.limited.String()) // three are refused
	defer held.close()
	free := w.proxy.ask(t, 4, w.free.String())
	defer free.close()
	d := describe(t, w.replicas[0].admin)
	eventually(t, patience, func() string {
		var all api.Sessions
		if err := json.Unmarshal(d.ask("GET", "/api/v1/sessions?state=relaying", 200), &all); err != nil || all.Total != 9 || len(all.Missing) > 0 {
			return "not all sessions are told"
		}
		return ""
	})
	for _, local := range []string{"", "local=1"} {
		for _, path := range []string{"cluster?", "rules?", "limits?", "sessions?", "refusals?", "sessions?rule=limited&sort=bytes&order=desc&limit=2&offset=1&client=127.0.0.0/8&", "refusals?reason=limit&"} {
			d.ask("GET", "/api/v1/"+path+local, 200)
		}
	}
	d.ask("GET", "/api/v1/openapi.json", 200)
	d.ask("GET", "/api/v1/sessions?limit=0", 400)
	d.ask("GET", "/api/v1/cluster?local=none", 409)
	d.askFor("rebound.example", "GET", "/api/v1/cluster", 421)
	d.ask("POST", "-/api/v1/drain", 401)
	d.ask("POST", "/api/v1/sessions/none/end", 404)
	d.ask("POST", "/api/v1/sessions/end", 400)
	d.ask("POST", "/api/v1/sessions/end?generation=g1-00000000", 404)
	d.ask("POST", "/api/v1/sessions/end?not_admitted=1", 200)
	d.ask("POST", "/api/v1/drain?replica=none", 404)
	d.ask("POST", "/api/v1/drain", 200)
	d.ask("POST", "/api/v1/undrain", 200)
	var all api.Sessions
	if err := json.Unmarshal(d.ask("GET", "/api/v1/sessions", 200), &all); err != nil || len(all.Sessions) == 0 {
		t.Fatal(all, err)
	}
	d.ask("POST", "/api/v1/sessions/"+all.Sessions[0].ID+"/end", 200)
	d.events()

	w.replicas[2].kill() // now there are missing and dead ones
	for _, path := range []string{"cluster", "rules", "limits", "sessions", "refusals"} {
		d.ask("GET", "/api/v1/"+path, 200)
	}
	for _, item := range d.doc.Paths.Map() {
		for _, o := range item.Operations() {
			if !d.seen[o.OperationID] {
				t.Errorf("nothing was asked of %s", o.OperationID)
			}
		}
	}
}

// events checks the first events of a stream.
func (d *described) events() {
	d.t.Helper()
	ctx, cancel := context.WithTimeout(d.t.Context(), patience)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, d.at+"/api/v1/events", nil)
	if err != nil {
		d.t.Fatal(err)
	}
	resp, err := adminClient.Do(req)
	if err != nil {
		d.t.Fatal(err)
	}
	defer resp.Body.Close()
	schemas := map[string]string{"cluster": "Cluster", "rules": "Rules", "limits": "Limits", "sessions": "SessionsChanged", "refusals": "Refusals"}
	scan, name := bufio.NewScanner(resp.Body), ""
	scan.Buffer(nil, 1<<20)
	for len(schemas) > 0 && scan.Scan() {
		if event, ok := strings.CutPrefix(scan.Text(), "event: "); ok {
			name = event
		}
		text, ok := strings.CutPrefix(scan.Text(), "data: ")
		if !ok {
			continue
		}
		var data any
		if err := json.Unmarshal([]byte(text), &data); err != nil {
			d.t.Fatal(err)
		}
		if schema := d.doc.Components.Schemas[schemas[name]]; schema != nil {
			if err := schema.Value.VisitJSON(data, openapi3.MultiErrors()); err != nil {
				d.t.Errorf("event %s: %v\n%.1000s", name, err, text)
			}
		}
		delete(schemas, name)
	}
	if len(schemas) > 0 {
		d.t.Errorf("no events of %v: %v", schemas, scan.Err())
	}
	d.seen["events"] = true
}
