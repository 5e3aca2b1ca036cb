package main

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"usher/proxy/admin/api"
	"usher/proxy/admin/peers"
	"usher/proxy/record"
	"usher/store/redisstore/redistest"
)

// Tests of the API with three processes on one Redis.

const (
	adminToken = "token-of-the-admin-listener"
	apiRules   = `
client pass { from: 0/0 to: 0/0 }
socks pass { rule.name: web from: 0/0 to: 0/0 command: connect session.max: 5 }
`
)

// trio is a cluster of three replicas, web1 to web3.
type trio struct {
	t      *testing.T
	server *redistest.Server
	file   string // their rules
	web    []*process
}

func startTrio(t *testing.T) *trio {
	t.Helper()
	c := &trio{t: t, server: redistest.Start(t), file: ruleFile(t, apiRules)}
	for i := range 3 {
		c.web = append(c.web, launch(t,
			"USHER_CONFIG="+c.file, "USHER_STORE="+c.server.URL(), "USHER_LEASE_TTL=2s", fmt.Sprintf("USHER_REPLICA=web%d", i+1),
			"USHER_ADMIN_TOKEN="+adminToken))
	}
	for _, p := range c.web {
		p.eventually("/readyz", `"ready": true`)
		c.eventually(p, "three replicas that know each other", func(a api.Cluster) bool {
			return len(a.Replicas) == 3 && len(a.Missing) == 0 && a.Health == api.OK && a.Store.Joined
		})
	}
	return c
}

// client asks a replica, with the token.
func client(p *process) *api.Client { return &api.Client{Address: p.admin, Token: adminToken} }

// eventually polls until the cluster looks as wanted to a replica.
func (c *trio) eventually(p *process, what string, wanted func(api.Cluster) bool) {
	c.t.Helper()
	var last api.Cluster
	defer func() {
		if c.t.Failed() {
			c.t.Logf("the last answer: %+v", last)
		}
	}()
	redistest.Eventually(c.t, patience, what, func() bool {
		a, err := client(p).Cluster(c.t.Context())
		last = a
		return err == nil && wanted(a)
	})
}

// sessions waits until a replica tells of that many sessions.
func (c *trio) sessions(p *process, n int) []record.Running {
	c.t.Helper()
	var last api.Sessions
	redistest.Eventually(c.t, patience, fmt.Sprint(n, " sessions"), func() bool {
		a, err := client(p).Sessions(c.t.Context(), api.Query{State: record.Relaying, Sort: "replica"})
		last = a
		return err == nil && len(a.Sessions) == n && a.Total == n
	})
	return last.Sessions
}

func state(a api.Cluster, name string) string {
	for _, r := range a.Replicas {
		if r.Name == name {
			return r.State
		}
	}
	return "unknown"
}

// onePlace checks that all that a replica answers about the rule web names its place in the
// same words.
func (c *trio) onePlace(p *process) {
	c.t.Helper()
	limits, err1 := client(p).Limits(c.t.Context())
	rules, err2 := client(p).Rules(c.t.Context())
	sessions, err3 := client(p).Sessions(c.t.Context(), api.Query{})
	refusals, err4 := client(p).Refusals(c.t.Context(), api.Query{})
	if err := errors.Join(err1, err2, err3, err4); err != nil {
		c.t.Fatal(err)
	}
	want := c.file + ":3"
	for where, got := range map[string]string{
		"limits": limits.Limits[0].Location, "rules": rules.Generations[0].Rules[1].Location,
		"sessions": sessions.Sessions[0].RuleAt, "refusals": refusals.Refusals[0].RuleAt,
	} {
		if got != want {
			c.t.Errorf("%s: the rule is at %s, want %s", where, got, want)
		}
	}
	for _, part := range []string{"/status", "/metrics"} {
		p.eventually(part, `"`+want+`"`)
	}
}

// withoutTheStopped stops web2 for a while. The others answer meanwhile, and name it.
func (c *trio) withoutTheStopped() {
	c.t.Helper()
	c.web[1].signal(syscall.SIGSTOP)
	redistest.Eventually(c.t, patience, "answers without the stopped replica", func() bool { // it may stop a moment after the signal
		began := time.Now()
		a, err := client(c.web[0]).Sessions(c.t.Context(), api.Query{})
		if took := time.Since(began); err != nil || took > 10*peers.Timeout {
			c.t.Errorf("a stopped replica: %v, after %v", err, took)
		}
		return len(a.Missing) == 1 && a.Missing[0].Replica == "web2"
	})
	c.eventually(c.web[0], "a stopped replica whose lease has ended", func(a api.Cluster) bool {
		return state(a, "web2") == api.Dead && len(a.Missing) == 1 && a.Health == api.Degraded
	})
	c.web[1].signal(syscall.SIGCONT)
	c.eventually(c.web[0], "the replica goes on", func(a api.Cluster) bool {
		return state(a, "web2") == api.Alive && a.Health == api.OK
	})
}

// Each replica answers for all, whatever happens to the others.
func TestAPIOfThreeReplicas(t *testing.T) {
	t.Parallel()
	c := startTrio(t)
	target := webServer(t)
	var held []net.Conn
	for _, p := range c.web {
		conn, code := connect(t, p, target)
		if code != 0 {
			t.Fatal("reply", code)
		}
		held = append(held, conn)
	}
	for _, p := range c.web {
		list := c.sessions(p, 3)
		if list[0].Replica != "web1" || list[1].Replica != "web2" || list[2].Replica != "web3" || list[0].RuleName != "web" {
			t.Errorf("%+v", list)
		}
		redistest.Eventually(t, patience, "a limit of which each replica has a share", func() bool {
			a, err := client(p).Limits(t.Context())
			return err == nil && len(a.Limits) == 1 && a.Limits[0].Max == 5 && a.Limits[0].Sessions == 3 && len(a.Limits[0].Shares) == 3 &&
				len(a.Limits[0].Holders) == 1 && a.Limits[0].Holders[0].Sessions == 3 && a.Limits[0].Current
		})
		a, err := client(p).Rules(t.Context())
		if err != nil || len(a.Generations) != 1 || len(a.Generations[0].Replicas) != 3 || a.Generations[0].Sessions != 3 || a.Generations[0].Rules[1].Sessions != 3 {
			t.Errorf("%+v, %v", a, err)
		}
	}
	for range 3 { // two of them fill the limit
		conn, _ := connect(t, c.web[0], target)
		held = append(held, conn)
	}
	redistest.Eventually(t, patience, "the limit tells that it refused, and that it was full", func() bool {
		a, err := client(c.web[2]).Limits(t.Context())
		return err == nil && a.Limits[0].Refused == 1 && a.Limits[0].Highest == 5 && !a.Limits[0].HighestAt.IsZero()
	})
	redistest.Eventually(t, patience, "the refusal is told by another replica", func() bool {
		a, err := client(c.web[2]).Refusals(t.Context(), api.Query{Limit: 10, Rule: "web"})
		return err == nil && a.Total == 1 && a.Refusals[0].Reason == "limit" && a.Refusals[0].Replica == "web1"
	})
	c.onePlace(c.web[0])

	c.withoutTheStopped()

	c.web[2].signal(syscall.SIGKILL)
	c.web[2].exit()
	c.eventually(c.web[0], "a killed replica", func(a api.Cluster) bool {
		return state(a, "web3") == api.Dead && len(a.Missing) == 0 && len(a.Replicas) == 3
	})
	c.web[1].signal(syscall.SIGTERM)
	held[1].Close()
	c.web[1].exit()
	c.eventually(c.web[0], "a replica has stopped in good order", func(a api.Cluster) bool { return state(a, "web2") == "unknown" })

	c.server.Kill()
	c.eventually(c.web[0], "the store is away", func(a api.Cluster) bool { return a.Health == api.Degraded && a.Store.Failure != "" })
	c.server.Start()
	c.eventually(c.web[0], "the store is back", func(a api.Cluster) bool { return a.Store.Joined && a.Store.Failure == "" })
}

// What the API changes: sessions end, replicas drain.
func TestAPIWrites(t *testing.T) {
	t.Parallel()
	c := startTrio(t)
	target := webServer(t)
	var ends []string
	for range 5 { // the limit is full
		if _, code := connect(t, c.web[0], target); code != 0 {
			t.Fatal("reply", code)
		}
	}
	for _, s := range c.sessions(c.web[1], 5) {
		ends = append(ends, s.ID)
	}
	if _, code := connect(t, c.web[2], target); code != 2 {
		t.Fatal("the limit is not full: reply", code)
	}

	a, err := client(c.web[1]).End(t.Context(), ends[0]) // it runs on web1
	if err != nil || !slices.Equal(a.Ended, ends[:1]) {
		t.Errorf("%+v, %v", a, err)
	}
	if line := c.web[1].logged("sessions ended through the admin listener"); line["by"] != "127.0.0.1" || line["which"] != "session "+ends[0] || line["ended"] != 1.0 {
		t.Errorf("the log of the replica that was asked: %v", line)
	}
	if line := c.web[0].logged("sessions ended through the admin listener"); line["by"] != "127.0.0.1 through 127.0.0.1" {
		t.Errorf("the log of the replica that has ended it: %v", line)
	}
	if line := c.web[0].logged("session ended"); line["reason"] != "ended" || line["session"] != ends[0] {
		t.Errorf("%v", line)
	}
	redistest.Eventually(t, patience, "its slot is free", func() bool {
		_, code := connect(t, c.web[2], target)
		return code == 0
	})
	var failed *api.FailedError
	if _, err := client(c.web[1]).End(t.Context(), ends[0]); !errors.As(err, &failed) || failed.Code != http.StatusNotFound {
		t.Errorf("the second time: %v", err)
	}

	// Sessions of an old generation end, and no others.
	old := c.sessions(c.web[1], 5)[0].Generation
	write(t, c.file, strings.ReplaceAll(apiRules, "max: 5", "max: 6"))
	for _, p := range c.web {
		p.signal(syscall.SIGHUP)
		p.logged("reloaded")
	}
	if _, code := connect(t, c.web[1], target); code != 0 { // by the new rules
		t.Fatal("reply", code)
	}
	for _, s := range c.sessions(c.web[1], 6) {
		if s.Generation == old {
			continue
		}
		if a, err := client(c.web[1]).EndGeneration(t.Context(), s.Generation); err != nil || len(a.Ended) > 0 {
			t.Errorf("the generation in force, %s: %+v, %v", s.Generation, a, err)
		}
	}
	var unknown *api.FailedError
	if _, err := client(c.web[1]).EndGeneration(t.Context(), "g9-typo"); !errors.As(err, &unknown) || unknown.Code != http.StatusNotFound || !strings.Contains(err.Error(), old) {
		t.Errorf("a generation that does not exist: %v, want one that names %s", err, old)
	}
	if a, err := client(c.web[1]).EndGeneration(t.Context(), old); err != nil || len(a.Ended) != 5 {
		t.Errorf("the old generation %s: %+v, %v", old, a, err)
	}
	if left := c.sessions(c.web[2], 1); left[0].Replica != "web2" {
		t.Errorf("left: %+v", left)
	}
}

// Sessions that newer rules would not admit end on all replicas, and no others.
func TestAPIEndsWhatIsNotAdmitted(t *testing.T) {
	t.Parallel()
	c := startTrio(t)
	refused, kept := webServer(t), webServer(t)
	for _, p := range c.web[:2] {
		for _, target := range []string{refused, kept} {
			if _, code := connect(t, p, target); code != 0 {
				t.Fatal("reply", code)
			}
		}
	}
	var want []string
	for _, s := range c.sessions(c.web[2], 4) {
		if s.Target == refused {
			want = append(want, s.ID)
		}
	}
	if a, err := client(c.web[2]).EndNotAdmitted(t.Context()); err != nil || len(a.Ended) > 0 || len(a.Missing) > 0 {
		t.Errorf("before the reload: %+v, %v", a, err)
	}
	_, port, _ := net.SplitHostPort(refused)
	write(t, c.file, strings.Replace(apiRules, "socks pass", "socks block { from: 0/0 to: 127.0.0.1/32 port = "+port+" }\nsocks pass", 1))
	for _, p := range c.web {
		p.signal(syscall.SIGHUP)
		p.logged("reloaded")
	}
	a, err := client(c.web[2]).EndNotAdmitted(t.Context()) // it has none itself
	slices.Sort(a.Ended)
	slices.Sort(want)
	if err != nil || len(want) != 2 || !slices.Equal(a.Ended, want) || len(a.Missing) > 0 {
		t.Errorf("%+v, %v, want %q", a, err, want)
	}
	for _, s := range c.sessions(c.web[0], 2) {
		if s.Target != kept {
			t.Errorf("left: %+v", s)
		}
	}
	for _, p := range c.web[:2] {
		if line := p.logged("session ended"); line["reason"] != "ended" || line["target"] != refused {
			t.Errorf("%v", line)
		}
	}
}

// Drain and undrain, of the replica that is asked and of another one.
func TestAPIDrains(t *testing.T) {
	t.Parallel()
	c := startTrio(t)
	for asked, of := range []string{"", "web3"} {
		at := client(c.web[asked])
		drained := []*process{c.web[0], c.web[2]}[asked]
		a, err := at.Drain(t.Context(), of)
		if err != nil || a.Changed.State != api.Draining || a.Changed.Name == "" || a.Changed.Ready {
			t.Errorf("%+v, %v", a, err)
		}
		drained.logged("draining until undrain")
		drained.eventually("/readyz", "until usher undrain")
		c.eventually(c.web[1], "a replica drains", func(a api.Cluster) bool { return state(a, c.name(drained)) == api.Draining })
		if a, err = at.Undrain(t.Context(), of); err != nil || a.Changed.State != api.Alive {
			t.Errorf("%+v, %v", a, err)
		}
		drained.eventually("/readyz", `"ready": true`)
	}
	var failed *api.FailedError
	if _, err := client(c.web[0]).Drain(t.Context(), "web9"); !errors.As(err, &failed) || failed.Code != http.StatusNotFound {
		t.Errorf("a replica that is not: %v", err)
	}
}

func (c *trio) name(p *process) string { return fmt.Sprintf("web%d", 1+slices.Index(c.web, p)) }

// Who is refused, at a real listener.
func TestAPIAccess(t *testing.T) {
	t.Parallel()
	with := launch(t, "USHER_ADMIN_TOKEN="+adminToken, "USHER_ADMIN_PPROF=on")
	without := launch(t)
	for _, c := range []struct {
		what   string
		p      *process
		method string
		path   string
		header string // name: value
		code   int
		says   string
	}{
		{"read", with, "GET", "/api/v1/cluster", "", 200, `"writing":true`},
		{"write without a token", with, "POST", "/api/v1/drain", "", 401, "needs the token"},
		{"write with a wrong token", with, "POST", "/api/v1/drain", "Authorization: Bearer " + adminToken + "x", 401, "not the token"},
		{"write", with, "POST", "/api/v1/sessions/none-1/end", "Authorization: Bearer " + adminToken, 404, "no session"},
		{"read through a proxy", with, "GET", "/api/v1/cluster", "X-Forwarded-For: 192.0.2.1", 401, "open the path / in a browser"},
		{"metrics through a proxy", with, "GET", "/metrics", "X-Forwarded-For: 192.0.2.1", 401, "needs the token"},
		{"status through a proxy", with, "GET", "/status", "X-Forwarded-For: 192.0.2.1", 401, "needs the token"},
		{"health through a proxy", with, "GET", "/healthz", "X-Forwarded-For: 192.0.2.1", 200, "ok"},
		{"another site", with, "GET", "/api/v1/cluster", "Origin: http://evil.example", 403, "another site"},
		{"another site writes", with, "POST", "/api/v1/drain", "Origin: http://evil.example", 403, "another site"},
		{"rebound name", with, "GET", "/api/v1/cluster", "Host: evil.example", 421, `"remedy":"ask for an address, or add the name to USHER_ADMIN_HOSTS"`},
		{"another method", with, "PUT", "/api/v1/drain", "Authorization: Bearer " + adminToken, 405, `"error":"the method PUT is not known here"`},
		{"preflight of another site", with, "OPTIONS", "/api/v1/drain", "Origin: http://evil.example", 405, `"error"`},
		{"profiles", with, "GET", "/debug/pprof/goroutine?debug=1", "", 200, "goroutine profile"},
		{"command line", with, "GET", "/debug/pprof/cmdline", "", 404, ""},
		{"long profile", with, "GET", "/debug/pprof/profile?seconds=3600", "", 400, "1 to 60"},
		{"profiles through a proxy", with, "GET", "/debug/pprof/", "Via: 1.1 proxy", 401, "needs the token"},
		{"read without a token set", without, "GET", "/api/v1/cluster", "", 200, `"writing":false`},
		{"write without a token set", without, "POST", "/api/v1/drain", "Authorization: Bearer " + adminToken, 403, "USHER_ADMIN_TOKEN"},
		{"profiles that are off", without, "GET", "/debug/pprof/", "", 404, ""},
	} {
		req, err := http.NewRequestWithContext(t.Context(), c.method, "http://"+c.p.admin+c.path, nil)
		if err != nil {
			t.Fatal(err)
		}
		if name, value, ok := strings.Cut(c.header, ": "); ok && name == "Host" {
			req.Host = value
		} else if ok {
			req.Header.Set(name, value)
		}
		code, body, header := do(t, req)
		if code != c.code || !strings.Contains(body, c.says) {
			t.Errorf("%s: %d %s, want %d and %q", c.what, code, body, c.code, c.says)
		}
		if policy := header.Get("Content-Security-Policy"); policy == "" || header.Get("Access-Control-Allow-Origin") != "" {
			t.Errorf("%s: headers %v", c.what, header)
		}
	}
	with.logged("admin request refused")
}

func do(t *testing.T, req *http.Request) (code int, body string, header http.Header) {
	t.Helper()
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(text), resp.Header
}
