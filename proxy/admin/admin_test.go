package admin_test

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
	"unicode"

	"go.uber.org/goleak"

	"usher/deploy/need"
	"usher/limiter"
	"usher/proxy/admin"
	"usher/proxy/admin/access"
	"usher/proxy/admin/api"
	"usher/proxy/admin/page/samples"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// world is a running admin listener and the snapshot that it shows.
type world struct {
	url   string
	ready *admin.Readiness
	ops   *admin.StoreMetrics
	set   func(func(*admin.Snapshot))
}

func serve(t *testing.T) world {
	t.Helper()
	var mu sync.Mutex
	now := admin.Snapshot{
		Version: "v1", Started: time.Unix(1000, 0), Listen: []string{"127.0.0.1:1080"}, Sessions: 3,
		Rules: admin.Rules{
			File: "sockd.conf", Digest: "c19f31c2ab", Generation: "g5-9f31c2ab", Number: 5,
			Loaded: time.Unix(1700000000, 0), ReloadOK: true,
			Limits: []admin.RuleLimit{
				{Rule: "s1", Name: "web", Location: "sockd.conf:4", Generation: "g5-9f31c2ab", Mode: "report", Current: true, Max: 5, Sessions: 2},
				{Rule: "s1", Name: "s:1f0c9a2e", Location: "sockd.conf:4", Generation: "g4-00000000", Mode: "enforce", Max: 9, Sessions: 7},
				{Rule: "s2", Name: "s:00c0ffee", Location: "sockd.conf:9", Generation: "g5-9f31c2ab", Mode: "enforce", Current: true, Max: -1, Sessions: 4},
				{Rule: "s3", Name: "mail", Location: "sockd.conf:11", Generation: "g5-9f31c2ab", Mode: "enforce", Pool: "mails", Current: true, Max: 3, Sessions: 6},
				{Rule: "s4", Name: "smtp", Location: "sockd.conf:13", Generation: "g5-9f31c2ab", Mode: "enforce", Pool: "mails", Current: true, Max: 3, Sessions: 6},
				{Rule: "s2", Name: "mail", Location: "sockd.conf:9", Generation: "g4-00000000", Mode: "enforce", Pool: "mails", Max: 8, Sessions: 6},
			},
		},
		Store: admin.StoreOf("memory", limiter.Status{
			Joined: true, WasReady: true, LeasesLost: 4, Replicas: map[string]string{"a": "c1x", "b": "c1y", "c": "c1x"},
		}),
	}
	snapshot := func() admin.Snapshot {
		mu.Lock()
		defer mu.Unlock()
		return now
	}
	set := func(f func(*admin.Snapshot)) {
		mu.Lock()
		defer mu.Unlock()
		f(&now)
	}
	reg := admin.NewRegistry("v1", "go1.26", "host-1")
	ops := admin.NewStoreMetrics(reg)
	admin.CollectSnapshot(reg, snapshot)
	ready := admin.NewReadiness(time.Now(), time.Hour)
	srv := admin.New(admin.Options{
		Readiness: ready, Snapshot: snapshot, Gatherer: reg, Names: []string{"usher-1.example"}, Logger: slog.New(slog.DiscardHandler),
		API: &admin.API{Cluster: samples.Of("busy"), Read: api.Handler{
			Cluster: samples.Of("busy"), Local: samples.Of("busy"), Events: http.NotFoundHandler(),
		}.Routes(), Write: http.NotFoundHandler()},
		Guard: &access.Guard{Logger: slog.New(slog.DiscardHandler)},
	})
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- srv.Serve(ln) }()
	t.Cleanup(func() {
		http.DefaultClient.CloseIdleConnections()
		if err := errors.Join(srv.Shutdown(t.Context()), <-done); err != nil {
			t.Error(err)
		}
	})
	return world{"http://" + ln.Addr().String(), ready, ops, set}
}

// ask returns the status code and body of one request.
func (w world) ask(t *testing.T, method, path string) (int, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, w.url+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(body)
}

func (w world) want(t *testing.T, method, path string, code int, parts ...string) {
	t.Helper()
	got, body := w.ask(t, method, path)
	if got != code {
		t.Errorf("%s %s: status %d, want %d; body %s", method, path, got, code, body)
	}
	for _, part := range parts {
		if !strings.Contains(body, part) {
			t.Errorf("%s %s: body lacks %q:\n%s", method, path, part, body)
		}
	}
	if method == http.MethodHead && body != "" {
		t.Errorf("HEAD %s: body %q", path, body)
	}
}

func TestReadyz(t *testing.T) {
	w := serve(t)
	w.want(t, "GET", "/readyz", 503, `"ready": false`, admin.Starting)
	w.ready.Listening()
	w.want(t, "GET", "/readyz", 200, `"ready": true`, `"generation": "g5-9f31c2ab"`, `"joined": true`)
	w.want(t, "HEAD", "/readyz", 200)
	w.ready.Draining()
	w.want(t, "GET", "/readyz", 503, admin.Draining)
	w.want(t, "HEAD", "/readyz", 503)
	w.want(t, "GET", "/healthz", 200, "ok")
}

func TestLosingTheStoreKeepsReadyButNotStrict(t *testing.T) {
	w := serve(t)
	w.ready.Listening()
	w.want(t, "GET", "/readyz?strict=1", 200)
	for what, harm := range map[string]func(*admin.Snapshot){
		"not joined": func(s *admin.Snapshot) { s.Store.Joined = false },
		"recovering": func(s *admin.Snapshot) { s.Store.Joined, s.Store.Recovering = true, true },
		"ttl=5":      func(s *admin.Snapshot) { s.Store.Mismatch = "ttl=5" },
	} {
		w.set(harm)
		w.want(t, "GET", "/readyz", 200, `"ready": true`)
		w.want(t, "GET", "/readyz?strict=1", 503, what)
		w.set(func(s *admin.Snapshot) { s.Store = admin.Store{Joined: true, WasReady: true} })
	}
	// Rules without a limit need no store, strict or not.
	w.set(func(s *admin.Snapshot) { s.Store.Joined, s.Rules.Limits = false, nil })
	w.want(t, "GET", "/readyz?strict=1", 200, `"limited": false`)
}

// /readyz tells how the store fails, and since when.
func TestReasonsNameTheFailure(t *testing.T) {
	w := serve(t)
	w.ready.Listening()
	const failing = "; failing since 2001-09-09T01:46:40Z, last error: dial: NOAUTH"
	fail := func(store admin.Store) {
		store.Failure, store.FailingSince = "dial: NOAUTH", time.Unix(1e9, 0).UTC()
		w.set(func(s *admin.Snapshot) { s.Store = store })
	}
	fail(admin.Store{})
	w.want(t, "GET", "/readyz", 503, admin.StorePending+failing)
	w.want(t, "GET", "/status", 200, admin.StorePending+failing, `"failure": "dial: NOAUTH"`, `"failing_since": "2001-09-09T01:46:40Z"`)
	fail(admin.Store{WasReady: true})
	w.want(t, "GET", "/readyz", 200, `"failure": "dial: NOAUTH"`)
	w.want(t, "GET", "/readyz?strict=1", 503, "the store is not joined"+failing)
	fail(admin.Store{Joined: true, Recovering: true, WasReady: true})
	w.want(t, "GET", "/readyz?strict=1", 503, "it confirms no new sessions yet"+failing)
	w.set(func(s *admin.Snapshot) { s.Store = admin.Store{Joined: true, WasReady: true} })
	if _, body := w.ask(t, "GET", "/status"); strings.Contains(body, "fail") {
		t.Errorf("nothing fails, and the status says\n%s", body)
	}
}

func TestStatusIsJSON(t *testing.T) {
	w := serve(t)
	code, body := w.ask(t, "GET", "/status")
	var st admin.Status
	if err := json.Unmarshal([]byte(body), &st); err != nil || code != 200 {
		t.Fatal(code, err, body)
	}
	if st.Ready || st.Reason != admin.Starting || st.Sessions != 3 || st.Rules.Limits[1].Sessions != 7 {
		t.Errorf("status %+v", st)
	}
}

// Redis chooses its error texts; a terminal that shows the JSON must not obey them.
func TestStatusIsPrintable(t *testing.T) {
	const evil = "\u202e\u200b\u009b\x7f"
	w := serve(t)
	w.set(func(s *admin.Snapshot) { s.Store.Failure = evil })
	for _, path := range []string{"/status", "/readyz"} {
		_, body := w.ask(t, "GET", path)
		if strings.ContainsFunc(body, func(r rune) bool { return r != '\n' && !unicode.IsPrint(r) }) {
			t.Errorf("%s: %q", path, body)
		}
		var got struct{ Store admin.Store }
		if err := json.Unmarshal([]byte(body), &got); err != nil || got.Store.Failure != evil {
			t.Errorf("%s: %v, the failure became %q", path, err, got.Store.Failure)
		}
	}
}

func TestMetrics(t *testing.T) {
	w := serve(t)
	w.ops.Observe("batch", 2*time.Millisecond, nil)
	w.ops.Observe("batch", 3*time.Millisecond, errors.New("away"))
	w.set(func(s *admin.Snapshot) { s.Rules.ReloadOK = false })
	w.want(t, "GET", "/metrics", 200,
		"go_goroutines ", "process_open_fds ",
		`usher_build_info{goversion="go1.26",version="v1"} 1`,
		`usher_replica_info{replica="host-1"} 1`,
		"usher_config_generation 5\n",
		`usher_generation_info{generation="g5-9f31c2ab"} 1`,
		"usher_config_last_reload_successful 0\n",
		"usher_config_last_reload_success_timestamp_seconds 1.7e+09\n",
		`usher_limit_sessions{generation="g5-9f31c2ab",rule="web"} 2`,
		`usher_limit_sessions{generation="g4-00000000",rule="s:1f0c9a2e"} 7`,
		`usher_limit_sessions{generation="g5-9f31c2ab",rule="s:00c0ffee"} 4`,
		`usher_limit_max{generation="g5-9f31c2ab",mode="report",rule="web"} 5`,
		`usher_limit_max{generation="g4-00000000",mode="enforce",rule="s:1f0c9a2e"} 9`,
		`usher_pool_sessions{pool="mails"} 6`,
		`usher_pool_max{generation="g5-9f31c2ab",mode="enforce",pool="mails"} 3`,
		`usher_pool_max{generation="g4-00000000",mode="enforce",pool="mails"} 8`,
		`usher_store_operation_duration_seconds_count{op="batch"} 2`,
		`usher_store_errors_total{op="batch"} 1`, `usher_store_errors_total{op="dial"} 0`, `usher_store_operation_duration_seconds_count{op="dial"} 0`,
		"usher_store_joined 1\n", "usher_store_recovering 0\n", "usher_store_settings_mismatch 0\n",
		"usher_store_replicas 3\n", "usher_store_generations 2\n",
		"# TYPE usher_store_leases_lost_total counter\n", "usher_store_leases_lost_total 4\n",
	)
	if _, body := w.ask(t, "GET", "/metrics"); strings.Contains(body, `usher_limit_max{generation="g5-9f31c2ab",mode="enforce",rule="s:00c0ffee"}`) {
		t.Error("there is a limit of a rule that has no maximum")
	}
}

func TestAdminIsReadOnly(t *testing.T) {
	w := serve(t)
	for _, path := range []string{"/healthz", "/readyz", "/metrics", "/status", "/"} {
		for _, method := range []string{"POST", "PUT", "DELETE", "PATCH"} {
			w.want(t, method, path, 405)
		}
	}
	w.want(t, "GET", "/nothing", 404)
	w.want(t, "GET", "/", 200, "/readyz")
}

func TestSilentConnectionIsClosed(t *testing.T) {
	need.Seconds(t)
	w := serve(t)
	c, err := net.Dial("tcp", strings.TrimPrefix(w.url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.SetReadDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(c, "GET /healthz HTTP/1.1\r\n"); err != nil {
		t.Fatal(err)
	}
	if rest, err := io.ReadAll(c); err != nil {
		t.Fatalf("half a request is still waited for: %v %q", err, rest)
	}
}

// Connections of one client keep no other client out, however many they are.
func TestIdleConnectionsKeepNobodyOut(t *testing.T) {
	w := serve(t)
	at := strings.TrimPrefix(w.url, "http://")
	dial := func(from string) net.Conn {
		dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}
		c, err := dialer.DialContext(t.Context(), "tcp", at)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		return c
	}
	checker := dial("127.0.0.2") // it is kept, although it is idle
	var idle []net.Conn
	for range 3 * admin.MaxConnections {
		idle = append(idle, dial("127.0.0.1"))
	}
	var closed atomic.Int32
	var group sync.WaitGroup
	for _, c := range idle {
		group.Go(func() {
			if _, err := io.Copy(io.Discard, c); err == nil || errors.Is(err, syscall.ECONNRESET) {
				closed.Add(1)
			}
		})
	}
	for end := time.Now().Add(time.Minute); int(closed.Load()) < len(idle)+1-admin.MaxConnections; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%d of %d were closed, want all but %d", closed.Load(), len(idle), admin.MaxConnections-1)
		}
	}
	if _, err := io.WriteString(checker, "GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	if answer, err := bufio.NewReader(checker).ReadString('\n'); err != nil || !strings.Contains(answer, "200 OK") {
		t.Errorf("%q, %v", answer, err)
	}
	for _, c := range idle {
		c.Close()
	}
	group.Wait()
}

// A request for a name that somebody else has pointed at this address is refused.
func TestHosts(t *testing.T) {
	w := serve(t)
	for host, want := range map[string]int{
		"": 200, "127.0.0.1": 200, "127.0.0.1:9090": 200, "[::1]:9090": 200, "[::1]": 200, "192.0.2.7": 200,
		"localhost": 200, "LocalHost:9090": 200, "localhost.": 200, "usher-1.example:9090": 200, "USHER-1.example.": 200,
		"rebound.example": 421, "rebound.example:9090": 421, "127.0.0.1.rebound.example": 421, "localhost.rebound.example": 421, "usher-1": 421,
	} {
		c, err := net.Dial("tcp", strings.TrimPrefix(w.url, "http://"))
		if err != nil {
			t.Fatal(err)
		}
		version := "1.1\r\nConnection: close\r\nHost: " + host
		if host == "" {
			version = "1.0" // without the header
		}
		if _, err := io.WriteString(c, "GET /status HTTP/"+version+"\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
		answer, err := io.ReadAll(c)
		if err != nil || !strings.Contains(string(answer), fmt.Sprintf(" %d ", want)) || (want == 200) != strings.Contains(string(answer), "sockd.conf") {
			t.Errorf("host %q: %.200q, %v; want %d", host, answer, err, want)
		}
		c.Close()
	}
}

// Browsers get the status page, and everything else the list of paths.
func TestStatusPageIsForBrowsers(t *testing.T) {
	w := serve(t)
	for accept, want := range map[string]string{
		"":    "/readyz",
		"*/*": "/readyz",
		"text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8": "<!doctype html>",
	} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, w.url+"/", nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Accept", accept)
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil || resp.StatusCode != http.StatusOK || !strings.Contains(string(body), want) {
			t.Errorf("Accept %q: %d, %v, %.100s", accept, resp.StatusCode, err, body)
		}
	}
	w.want(t, "GET", "/page/page.css", 200, "prefers-color-scheme")
	w.want(t, "GET", "/page/nothing", 404)
	w.want(t, "POST", "/page/page.css", 405)
}
