package page_test

import (
	"context"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"regexp"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"usher/proxy/admin/api"
	"usher/proxy/admin/page"
	"usher/proxy/admin/page/samples"
	"usher/proxy/record"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// ask asks for a page.
func ask(t *testing.T, o page.Options, address string) *httptest.ResponseRecorder {
	t.Helper()
	r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, address, nil)
	w := httptest.NewRecorder()
	page.New(o).ServeHTTP(w, r)
	return w
}

// show returns the page of a source.
func show(t *testing.T, source api.Source, address string) string {
	t.Helper()
	w := ask(t, page.Options{Source: source}, address)
	if w.Code != http.StatusOK {
		t.Fatalf("%s: %d %s", address, w.Code, w.Body)
	}
	return w.Body.String()
}

// text returns what a reader of the page reads, without tags.
func text(html string) string {
	html = regexp.MustCompile(`(?s)<head>.*?</head>|<dialog.*?</dialog>`).ReplaceAllString(html, "")
	html = regexp.MustCompile(`<[^>]*>`).ReplaceAllString(html, " ")
	return strings.Join(strings.Fields(html), " ")
}

func TestStates(t *testing.T) {
	for name, want := range map[string][]string{
		"empty": {"Usher is healthy", "1 replica", "counted in memory", "No rule in force has a limit", "Nobody was refused", "No session is running",
			"To end sessions and drain replicas here, set USHER_ADMIN_TOKEN"},
		"busy": {"edge is healthy", "3 replicas", "38 sessions", "store redis.internal:6379 answers", "1 full , 5 in all",
			"web Full", "s1 at sockd.conf:12", "10 of 10", "usher-1 4 usher-2 3 usher-3 3", "14 refused in the last minute", "192.0.2.17 monica 6", "5 since the replicas have started",
			"partners Pool s3 at sockd.conf:27 s6 at sockd.conf:46", "19 of 25", "mail Report only Over limit", "31 would have been refused since the rules came into force",
			"Fullest keys, 4 for each", "user=crawler 4 of 4, full",
			"session.max 10: 10 sessions, 4 of them here 192.0.2.17 monica: 3, 192.0.2.41 rafael: 1", "a rule passes it, but the limit of the rule is full",
			"limit end a session that holds a slot"},
		"reload": {"edge is degraded", "Replicas have different rules: g41-7be0c512 on 1, g42-9f31c2ab on 2.", "g42-9f31c2ab in force", "5 of 12",
			"g41-7be0c512 older", "7 of 10", "partners Not in force", "older rules, g41-7be0c512", "g41-7be0c512 (not those of this replica)"},
		"store-down": {"edge is degraded", "store redis.internal:6379 has failed for 47 s", "The store has failed since 2026-03-12T03:03:18Z; until it answers, rules that enforce limits admit nobody: dial tcp", "store_unavailable"},
		"replica-dead": {"edge is degraded", "1 of 3 replicas", "usher-2 No answer", "usher-3 Dead seen 3 min ago", "Replica usher-2 is missing: no answer within 1s.",
			"Not in these numbers: usher-2: no answer within 1s", "elsewhere", "at least 14 refused in the last minute", "at least 31 would have been refused",
			"192.0.2.17 monica at least 6", "user=crawler at least 4 of 4, full", "at least 5 since the replicas have started", "at least 13 running"},
		"drained":  {"usher-1 Alive Drain…", "usher-2 Draining Undrain…", "usher-2 is not ready: drained"},
		"thousand": {"10 000 running", "1000 kept: the last 1000 of each replica", "1–40 of 1000", "1–50 of 10 000", "1–15 of 1000"},
	} {
		got := text(show(t, samples.Of(name), "/"))
		for _, part := range want {
			if !strings.Contains(got, part) {
				t.Errorf("%s: the page lacks %q:\n%s", name, part, got)
			}
		}
	}
}

// counted counts how often the rules are asked for.
type counted struct {
	*samples.State
	limits api.Limits
	asked  int
}

func (c *counted) Rules(ctx context.Context) api.Rules {
	c.asked++
	return c.State.Rules(ctx)
}

func (c *counted) Limits(ctx context.Context) api.Limits {
	if c.limits.Limits != nil {
		return c.limits
	}
	return c.State.Limits(ctx)
}

// Each rule that the page names opens its text. The texts are asked for once: they are long
// and never change.
func TestTextsOfRules(t *testing.T) {
	source := &counted{State: samples.Of("reload")}
	p := page.New(page.Options{Source: source})
	for range 3 {
		w := httptest.NewRecorder()
		p.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/", nil))
		body := w.Body.String()
		opened := regexp.MustCompile(`popovertarget="([^"]*)" title`).FindAllStringSubmatch(body, -1)
		if len(opened) < 3+31 { // three limits, and the sessions
			t.Fatalf("%d rules can be opened", len(opened))
		}
		for _, m := range opened {
			if n := strings.Count(body, `<div popover id="`+m[1]+`"`); n != 1 {
				t.Errorf("the text %s is there %d times", m[1], n)
			}
		}
		for _, want := range []string{"socks pass {\n    from: ", "    session.max: 12\n", "  session.max: 10\n", "/etc/usher/sockd.conf:12, rules g42-9f31c2ab", "rules g41-7be0c512"} {
			if !strings.Contains(body, want) {
				t.Errorf("the page lacks %q", want)
			}
		}
	}
	if source.asked != 1 {
		t.Errorf("the rules were asked for %d times, want 1", source.asked)
	}
}

// A rule whose text nobody knows any more has its place alone.
func TestUnknownText(t *testing.T) {
	source := &counted{State: samples.Of("busy")}
	source.limits = api.Limits{Limits: []api.Limit{{Rule: "s1", Location: "/etc/usher/sockd.conf:7", Generation: "g1-00000000", Current: true, Max: 1}}}
	if body := show(t, source, "/"); !strings.Contains(body, `<span class="place" title="/etc/usher/sockd.conf:7">sockd.conf:7</span>`) {
		t.Error("the place of the rule is not there")
	}
}

// What a replica has not told the others may be missing in the sums.
func TestPartialLimit(t *testing.T) {
	source := &counted{State: samples.Of("busy")}
	for _, partial := range []bool{false, true} {
		source.limits = api.Limits{Limits: []api.Limit{{
			Rule: "s1", Current: true, Max: 6, Sessions: 6, Refused: 2, Partial: partial,
			Keys: []api.Key{{Key: "ann", Sessions: 4, Max: 5}}, Holders: []record.Holder{{User: "ann", Sessions: 4}},
		}}}
		got := text(show(t, source, "/"))
		for _, want := range []string{"at least 4 of 5", "ann at least 4"} {
			if strings.Contains(got, want) != partial {
				t.Errorf("partial %v: %q in\n%s", partial, want, got)
			}
		}
		if !strings.Contains(got, " 2 refused in the last minute") || strings.Contains(got, "at least 2 refused") {
			t.Error("all replicas have told what they refused")
		}
	}
}

// Replicas that answer can be drained and undrained, if a token is set.
func TestDrainButtons(t *testing.T) {
	for state, want := range map[string]string{
		"busy": "drain usher-1, drain usher-2, drain usher-3", "drained": "drain usher-1, undrain usher-2, drain usher-3",
		"replica-dead": "drain usher-1 last", "empty": "",
	} {
		var got []string
		for _, m := range regexp.MustCompile(`data-((?:un)?drain)="([^"]*)"( data-last)?`).FindAllStringSubmatch(show(t, samples.Of(state), "/"), -1) {
			got = append(got, m[1]+" "+m[2]+strings.Replace(m[3], " data-", " ", 1))
		}
		if list := strings.Join(got, ", "); list != want {
			t.Errorf("%s: buttons %q, want %q", state, list, want)
		}
	}
}

// Nothing is loaded from elsewhere, and nothing in the page is a script or a style: the
// policy would refuse it.
func TestPolicy(t *testing.T) {
	w := ask(t, page.Options{Source: samples.Of("busy")}, "/")
	if got := w.Header().Get("Content-Security-Policy"); !strings.HasPrefix(got, "default-src 'none';") ||
		strings.Contains(got, "unsafe") || !strings.Contains(got, "frame-ancestors 'none'") {
		t.Errorf("policy %q", got)
	}
	for _, name := range append(samples.Names(), "locked") {
		o := page.Options{Source: samples.Of("empty"), MayRead: func(*http.Request) bool { return name != "locked" }}
		if name != "locked" {
			o.Source = samples.Of(name)
		}
		body := ask(t, o, "/").Body.String()
		if m := regexp.MustCompile(`(?i)<style|\sstyle=|\son\w+=|<script(?: defer)?>|="javascript:`).FindString(body); m != "" {
			t.Errorf("%s: %q is in the page", name, m)
		}
		for _, m := range regexp.MustCompile(`(?:src|href|action)="([^"]*)"`).FindAllStringSubmatch(body, -1) {
			if u, err := url.Parse(m[1]); err != nil || u.Host != "" || u.Scheme != "" {
				t.Errorf("%s: %q is elsewhere: %v", name, m[1], err)
			}
		}
	}
}

// Without the right to read, the page tells nothing but how to get it.
func TestLocked(t *testing.T) {
	o := page.Options{Source: samples.Of("busy"), MayRead: func(r *http.Request) bool { return r.Header.Get("Authorization") == "Bearer right" }}
	w := ask(t, o, "/?find=monica")
	if w.Code != http.StatusUnauthorized || !strings.Contains(w.Body.String(), "Admin token") || !strings.Contains(w.Header().Get("Content-Security-Policy"), "'none'") {
		t.Errorf("%d %v %s", w.Code, w.Header(), w.Body)
	}
	for _, secret := range []string{"edge", "usher-1", "redis", "monica", "192.0.2"} {
		if strings.Contains(w.Body.String(), secret) {
			t.Errorf("the form for the token tells %q", secret)
		}
	}
	r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/", nil)
	r.Header.Set("Authorization", "Bearer right")
	w = httptest.NewRecorder()
	if page.New(o).ServeHTTP(w, r); w.Code != http.StatusOK || !strings.Contains(w.Body.String(), "monica") {
		t.Errorf("with the token: %d %s", w.Code, w.Body)
	}
}

// hostile is a cluster in which all names are chosen by somebody who wants harm.
type hostile struct{ *samples.State }

const evil = "<script>alert(1)</script>\"'\u202e\u200b\x07&"

func (hostile) Cluster(context.Context) api.Cluster {
	return api.Cluster{
		Answer:  api.Answer{Time: samples.Now, Replica: evil, Missing: []api.Missing{{Replica: evil, Error: evil}}},
		Cluster: evil, Health: evil, Reasons: []string{evil}, Writing: true, Store: api.Store{Address: evil, Joined: true},
		Replicas: []api.Replica{{ID: evil, Name: evil, Address: evil, Version: evil, State: evil, Error: evil, Generation: evil},
			{Name: "b", State: api.Alive, Generation: "g2"}, {Name: "c", State: api.Alive, Generation: evil}},
	}
}

func (hostile) Limits(context.Context) api.Limits {
	return api.Limits{Limits: []api.Limit{{
		Rule: evil, Name: evil, Location: evil, Generation: evil, Pool: evil, Mode: evil, Max: 1, Sessions: 2, Shares: []api.Share{{Replica: evil, Sessions: 2}},
		Keys: []api.Key{{Key: evil, Sessions: 1, Max: 1}}, Holders: []record.Holder{{User: evil, Sessions: 1}},
	}}}
}

func (hostile) Rules(context.Context) api.Rules {
	return api.Rules{Generations: []api.Generation{{Label: evil, Rules: []api.Rule{{Rule: evil, Name: evil, Location: evil, Text: evil}}}}}
}

func session() record.Session {
	return record.Session{ID: evil, Replica: evil, Generation: evil, User: evil, Rule: evil, RuleName: evil, RuleAt: evil, Command: evil, Target: evil,
		Client: netip.MustParseAddrPort("192.0.2.1:1")}
}

func (hostile) Sessions(context.Context, api.Query) api.Sessions {
	return api.Sessions{Total: 1, Sessions: []record.Running{{Session: session(), State: evil}}}
}

func (hostile) Refusals(context.Context, api.Query) api.Refusals {
	return api.Refusals{Total: 2, Refusals: []record.End{
		{Session: session(), Reason: evil, Error: evil},
		{Session: session(), Reason: "limit", Held: &record.Held{Limit: evil, Holders: []record.Holder{{User: evil}}}},
	}}
}

func TestHostileNames(t *testing.T) {
	body := show(t, hostile{samples.Of("empty")}, "/?"+url.Values{"find": {evil}, "rule": {evil}, "limit": {evil}, "sort": {evil}, "replica": {evil}}.Encode())
	for _, harm := range []string{"<script>alert", "\u202e", "\u200b", "\x07", `"'`} {
		// What was searched for stands in its field as it was typed.
		typed := regexp.MustCompile(`<input[^>]*>`).ReplaceAllString(body, "")
		if i := strings.Index(typed, harm); i >= 0 {
			t.Errorf("the page has %q as it is: %q", harm, typed[max(0, i-80):i+40])
		}
	}
	if !strings.Contains(body, "<pre>&lt;script") {
		t.Error("the text of the rule is not there")
	}
	if strings.Contains(body, "<script>alert") {
		t.Error("what was searched for is no text")
	}
}

// Long lists are cut by the server, and lead on.
func TestPages(t *testing.T) {
	source := samples.Thousand(1000, 10_000)
	for address, want := range map[string]string{
		"/?from=9950":                   "9951–10 000 of 10 000",
		"/?from=100000":                 "9951–10 000 of 10 000",
		"/?limits=960":                  "961–1000 of 1000",
		"/?limits=99999":                "961–1000 of 1000",
		"/?limits=-1":                   "1–40 of 1000",
		"/?refused=990":                 "991–1000 of 1000",
		"/?limit=sales":                 "1–40 of 63",
		"/?limit=sockd.conf:14":         "billing-1",
		"/?find=crawler&from=50":        "51–100 of 1666",
		"/?rule=databases&find=nothing": "No running session matches",
		"/?limit=nothing":               "No limit has “nothing”",
		"/?find=monica":                 "found among the last 1000 of each replica",
	} {
		body := show(t, source, address)
		if !strings.Contains(text(body), want) {
			t.Errorf("%s: the page lacks %q", address, want)
		}
		if len(body) > 200<<10 {
			t.Errorf("%s: the page has %d bytes", address, len(body))
		}
	}
	// The link to the next page keeps the rest of the address.
	body := show(t, source, "/?find=crawler&sort=bytes&order=desc&limit=sales")
	next := "/?find=crawler&amp;from=50&amp;limit=sales&amp;order=desc&amp;sort=bytes#sessions"
	if !strings.Contains(body, next) {
		t.Errorf("no link to %s", next)
	}
	if !strings.Contains(body, `aria-sort="descending"`) {
		t.Error("no column says that the table is ordered by it")
	}
}

// Who looks at a page of a list that has become shorter sees its last page.
func TestPageThatIsGone(t *testing.T) {
	if got := text(show(t, samples.Of("busy"), "/?from=500&refused=500")); strings.Contains(got, "No session") || strings.Contains(got, "Nobody was refused") {
		t.Errorf("a list is empty:\n%s", got)
	}
}

// With one more session than slots, the bar shows where the maximum is.
func TestOverLimit(t *testing.T) {
	body := show(t, samples.Of("busy"), "/")
	if !strings.Contains(body, `<rect class="max" x="857.1"`) || !strings.Contains(body, `aria-label="7 of 6 sessions: usher-1 3, usher-2 2, usher-3 2"`) {
		t.Error("the bar of a limit with 7 of 6 sessions")
	}
}

func TestAssets(t *testing.T) {
	p := page.New(page.Options{Source: samples.Of("empty")})
	w := httptest.NewRecorder()
	p.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/", nil))
	found := regexp.MustCompile(`"(/page/[^"]*)"`).FindAllStringSubmatch(w.Body.String(), -1)
	if len(found) != 3 {
		t.Fatalf("the page loads %v", found)
	}
	for _, m := range found {
		w := httptest.NewRecorder()
		p.Assets().ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodGet, m[1], nil))
		if w.Code != http.StatusOK || !strings.Contains(w.Header().Get("Cache-Control"), "immutable") || w.Body.Len() == 0 {
			t.Errorf("%s: %d %v", m[1], w.Code, w.Header())
		}
		// Another version must not be kept under this name.
		path, _, _ := strings.Cut(m[1], "?")
		w = httptest.NewRecorder()
		p.Assets().ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodGet, path+"?v=other", nil))
		if w.Code != http.StatusOK || strings.Contains(w.Header().Get("Cache-Control"), "immutable") {
			t.Errorf("%s of another version: %d %v", path, w.Code, w.Header())
		}
	}
}

// A limit keeps its id from look to look, so that what is open stays open.
func TestIDsAreUnique(t *testing.T) {
	for _, name := range samples.Names() {
		seen := map[string]bool{}
		for _, m := range regexp.MustCompile(`\sid="([^"]*)"`).FindAllStringSubmatch(show(t, samples.Of(name), "/"), -1) {
			if seen[m[1]] {
				t.Errorf("%s: the id %s stands twice", name, m[1])
			}
			seen[m[1]] = true
		}
	}
}

func BenchmarkThousandLimits(b *testing.B) {
	p := page.New(page.Options{Source: samples.Thousand(1000, 10_000)})
	for b.Loop() {
		w := httptest.NewRecorder()
		p.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/", nil))
		if w.Code != http.StatusOK {
			b.Fatal(w.Code)
		}
	}
}

// refusing answers as busy does, but with one refusal of a limit.
type refusing struct {
	*samples.State
	here int // sessions on the replica; -1: not counted
}

func (s refusing) Refusals(context.Context, api.Query) api.Refusals {
	held := &record.Held{Limit: "session.max", Max: 10, Sessions: 10, Here: s.here}
	return api.Refusals{Total: 1, Refusals: []record.End{{Reason: "limit", Held: held}}}
}

// Of a limit that refuses quickly, nobody counts each time how many sessions are here.
func TestHeldHere(t *testing.T) {
	for here, want := range map[int]bool{2: true, -1: false} {
		got := text(show(t, refusing{samples.Of("busy"), here}, "/"))
		if !strings.Contains(got, "session.max 10: 10 sessions") || strings.Contains(got, "of them here") != want {
			t.Errorf("with %d here, the page says otherwise", here)
		}
	}
}
