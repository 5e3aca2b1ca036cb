package proxy_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"usher/limiter"
	"usher/proxy"
	"usher/proxy/record"
	"usher/proxy/socks"
	"usher/store/memstore"
)

const (
	would = "usher_sessions_would_refuse_total"

	dryRun = `
client pass { from: 0/0 to: 0/0 }
socks pass { from: 0/0 to: 0/0
	session.mode: report
	session.max: 7 }
`
)

// Of 30 simultaneous clients, a limit of 7 that only reports admits all and reports
// exactly 23: in the metric, in the list of sessions and in their log lines.
func TestReportsAreExactUnderABurst(t *testing.T) {
	to := echo(t)
	w := newWorld(t, dryRun)
	if n, exists := w.series(would, "rule", "s1"); n != 0 || !exists {
		t.Errorf("the series begins at %v, %t", n, exists)
	}
	var wg sync.WaitGroup
	clients := make([]*client, 30)
	for i := range clients {
		clients[i] = w.client()
		wg.Go(func() {
			if code := clients[i].request(socks.Request{Addr: to}).Code; code != socks.Succeeded {
				t.Errorf("reply %d", code)
			}
		})
	}
	wg.Wait()
	if n := w.metric(would, "rule", "s1"); n != 23 {
		t.Errorf("%v would have been refused, want 23", n)
	}
	count := func(texts []string) (n int) {
		for _, text := range texts {
			switch text {
			case "s1 session.max: 7":
				n++
			case "":
			default:
				t.Errorf("would_refuse %q", text)
			}
		}
		return n
	}
	var texts []string
	for _, r := range w.server.Running() {
		texts = append(texts, r.WouldRefuse)
	}
	if n := count(texts); n != 23 || len(texts) != 30 {
		t.Errorf("%d of %d running sessions would have been refused, want 23 of 30", n, len(texts))
	}
	for _, c := range clients {
		c.Close()
	}
	texts = nil
	for _, line := range w.log.wait(t, 30) {
		text, _ := line["would_refuse"].(string)
		texts = append(texts, text)
	}
	if n := count(texts); n != 23 {
		t.Errorf("%d of %d log lines say would_refuse, want 23", n, len(texts))
	}
	w.left("", 0)
}

// Limits by key, rates and the client-rule report in the words of the rule file. A
// session may be over two limits.
func TestReportNamesTheLimits(t *testing.T) {
	to := echo(t)
	for rules, want := range map[string]string{
		"client pass { from: 0/0 to: 0/0 }\nsocks pass { from: 0/0 to: 0/0\nsession.mode: report\nsession.state.key: from\nsession.state.max: 1 }": "s1 session.state.max: 1 for 127.0.0.1",
		"client pass { from: 0/0 to: 0/0 }\nsocks pass { from: 0/0 to: 0/0\nsession.mode: report\nsession.throttle: 1/9999 }":                      "s1 session.throttle: 1/9999",
		"client pass { from: 0/0 to: 0/0\nsession.mode: report\nsession.max: 1 }\nsocks pass { from: 0/0 to: 0/0 }":                                "c1 session.max: 1",
		"client pass { from: 0/0 to: 0/0\nsession.mode: report\nsession.max: 1\nsession.pool: one }\n" +
			"socks pass { from: 0/0 to: 0/0\nsession.pool: one\nsession.mode: report\nsession.max: 1 }": "c1 session.max: 1 in pool one",
		"client pass { from: 0/0 to: 0/0\nsession.mode: report\nsession.throttle: 1/9999 }\n" +
			"socks pass { from: 0/0 to: 0/0\nsession.mode: report\nsession.max: 1 }": "c1 session.throttle: 1/9999; s1 session.max: 1",
	} {
		w := newWorld(t, rules)
		first, second := w.client(), w.client()
		first.connect(to, socks.Succeeded)
		second.connect(to, socks.Succeeded)
		var texts []string
		for _, r := range w.server.Running() {
			texts = append(texts, r.WouldRefuse)
		}
		if len(texts) != 2 || texts[0]+texts[1] != want {
			t.Errorf("%s:\nwould_refuse %q, want %q once", rules, texts, want)
		}
	}
}

// A refusal by a limit that enforces says also what the client-rule would have done.
func TestRefusedAfterAReport(t *testing.T) {
	w := newWorld(t, "client pass { from: 0/0 to: 0/0\nsession.mode: report\nmaxsessions: 0 }\nsocks pass { from: 0/0 to: 0/0\nmaxsessions: 0 }")
	w.client().connect(echo(t), socks.NotAllowed)
	if line := w.reason("limit"); line["would_refuse"] != "c1 maxsessions: 0" || line["error"] != "maxsessions: 0" {
		t.Errorf("log %v", line)
	}
	if got := w.server.Refusals(); len(got) != 1 || got[0].WouldRefuse != "c1 maxsessions: 0" {
		t.Errorf("refusals %+v", got)
	}
}

// reported returns what the rule s1 would have refused, by the generation in force.
func (w *world) reported() uint64 {
	w.t.Helper()
	all := w.server.Generations()
	return all[len(all)-1].WouldRefuse["s1"]
}

// A change of the mode is a reload as any other. The metric of a rule goes on over all
// reloads. The count of a generation goes on over reloads of the same rules, also if
// others were in force meanwhile, until its last session has ended.
func TestModeReloads(t *testing.T) {
	to := echo(t)
	dry := strings.Replace(dryRun, "max: 7", "max: 1", 1)
	enforced := strings.Replace(dry, "report", "enforce", 1)
	w := newWorld(t, dry)
	total := 0.0
	admit := func(inGeneration uint64) *client {
		t.Helper()
		c := w.client()
		c.connect(to, socks.Succeeded)
		if got := w.reported(); got != inGeneration {
			t.Errorf("the generation would have refused %d, want %d", got, inGeneration)
		}
		if got := w.metric(would, "rule", "s1"); got != total {
			t.Errorf("the metric is %v, want %v", got, total)
		}
		return c
	}
	held := []*client{admit(0)}
	total++
	held = append(held, admit(1))
	w.server.SetPolicy(policy(t, "# again\n"+dry))
	total++
	held = append(held, admit(2))
	w.server.SetPolicy(policy(t, enforced)) // a new generation counts from 0
	fourth := admit(0)
	w.client().connect(to, socks.NotAllowed)
	w.server.SetPolicy(policy(t, dry))
	total++
	held = append(held, admit(3))
	w.server.SetPolicy(policy(t, enforced))
	for _, c := range held {
		c.echoes("still here")
		c.Close()
	}
	eventually(t, func() string {
		if n := len(w.server.Running()); n > 1 {
			return fmt.Sprintf("%d sessions run", n)
		}
		return ""
	})
	w.server.SetPolicy(policy(t, dry))
	admit(0).Close()
	fourth.echoes("still here")
}

// A client that negotiates while unchanged rules are loaded again is let in once: it is
// counted, charged and reported once, and its line says so. In a pool, this holds also if
// other rules have changed.
func TestLetInOnce(t *testing.T) {
	const (
		rate = "session.mode: report\nsession.throttle: 1/9999\n"
		full = "session.mode: report\nmaxsessions: 0\n"
		pool = full + "session.pool: one\n"
	)
	rules := func(limit, more string) string {
		return "client pass { from: 0/0 to: 0/0\n" + limit + "}\nsocks pass { from: 0/0 to: 0/0 }\n" + more
	}
	for name, c := range map[string]struct {
		limit, more, line string
		reports           float64
	}{
		"no limit":                 {},
		"maximum":                  {limit: full, line: "c1 maxsessions: 0", reports: 1},
		"rate that is not used up": {limit: rate},
		"pool":                     {limit: pool, line: "c1 maxsessions: 0 in pool one", reports: 1},
		"pool, other rules":        {limit: pool, more: "socks block { from: 0/0 to: 0/0 }\n", line: "c1 maxsessions: 0 in pool one", reports: 1},
	} {
		t.Run(name, func(t *testing.T) {
			to := echo(t)
			w := newWorld(t, rules(c.limit, ""))
			client := w.client()
			client.greet(socks.NoAuth)
			for range 2 {
				w.server.SetPolicy(policy(t, "# again\n"+rules(c.limit, c.more)))
			}
			client.ask(socks.Connect, to, socks.Succeeded)
			if c.limit != "" {
				if n := w.metric(would, "rule", "c1"); n != c.reports {
					t.Errorf("%v reports, want %v", n, c.reports)
				}
			}
			admitted := 1.0
			if c.more != "" {
				admitted = 2 // changed rules have let it in, too
			}
			if n := w.metric("usher_sessions_admitted_total", "rule", "c1", "command", "negotiate"); n != admitted {
				t.Errorf("c1 has let in %v sessions, want %v", n, admitted)
			}
			if running := w.server.Running(); len(running) != 1 || running[0].WouldRefuse != c.line {
				t.Errorf("running %+v, want would_refuse %q", running, c.line)
			}
			client.Close()
			if line, _ := w.log.wait(t, 1)[0]["would_refuse"].(string); line != c.line {
				t.Errorf("would_refuse %q in the log, want %q", line, c.line)
			}
		})
	}
}

// Series of reports go with the rule, as those of refusals do.
func TestReportSeriesEnd(t *testing.T) {
	w := newWorld(t, strings.Replace(dryRun, "socks pass {", "socks pass { rule.name: trial\n", 1))
	for range 2 {
		if _, exists := w.series(would, "rule", "trial"); !exists {
			t.Error("there is no series")
		}
		w.server.SetPolicy(policy(t, anybody))
	}
	if _, exists := w.series(would, "rule", "trial"); exists {
		t.Error("a rule that is gone still has a series")
	}
}

// In a pool, the count goes on over a change of the mode. Sessions that were admitted
// over the number keep those out that come under rules that enforce.
func TestModeReloadsInAPool(t *testing.T) {
	to := echo(t)
	pooled := strings.Replace(dryRun, "session.max: 7", "session.pool: web\nsession.max: 2", 1)
	w := newWorld(t, pooled)
	var held []*client
	connect := func() {
		t.Helper()
		c := w.client()
		c.connect(to, socks.Succeeded)
		held = append(held, c)
	}
	for range 4 {
		connect()
	}
	w.server.SetPolicy(policy(t, strings.Replace(pooled, "report", "enforce", 1)))
	w.client().connect(to, socks.NotAllowed)
	for _, c := range held[:2] {
		c.Close()
	}
	eventually(t, func() string {
		if len(w.server.Running()) > 2 {
			return "two sessions have not ended"
		}
		return ""
	})
	w.client().connect(to, socks.NotAllowed)
	held[2].Close()
	eventually(t, func() string { // the slot is free at once
		c := w.client()
		defer c.Close()
		if r := c.request(socks.Request{Addr: to}); r.Code != socks.Succeeded {
			return "the slot is not free"
		}
		return ""
	})
	held[3].echoes("still here")
	w.server.SetPolicy(policy(t, pooled))
	connect()
	connect()
	var last record.Running
	for _, r := range w.server.Running() {
		if last.ID == "" || r.Began.After(last.Began) {
			last = r
		}
	}
	if last.WouldRefuse != "s1 session.max: 2 in pool web" {
		t.Errorf("the third session of the pool: would_refuse %q", last.WouldRefuse)
	}
}

// Sessions that a dry run admits without the store are counted apart from those by which
// a limit may be exceeded, also if they keep the slot of their client-rule.
func TestUnconfirmedByMode(t *testing.T) {
	to := echo(t)
	st := &leased{Store: memstore.New()}
	st.cut.Store(true)
	away := limiter.New(limiter.Options{Store: st, TTL: 6 * time.Second, StoreWait: time.Millisecond})
	t.Cleanup(func() {
		over, cancel := context.WithCancel(context.Background())
		cancel()
		_ = away.Close(over) // it cannot: the store is cut off
	})
	w := newWorld(t, "client pass { from: 0/0 to: 0/0\nsession.mode: report\nsession.max: 7 }\nsocks pass { from: 0/0 to: 0/0 }",
		func(o *proxy.Options, _ *proxy.Policy) { o.Limiter = away })
	w.client().connect(to, socks.Succeeded)
	for mode, want := range map[string]float64{"report": 2, "enforce": 0} { // as a client, and as a request
		if n, exists := w.series("usher_sessions_unconfirmed_total", "mode", mode); n != want || !exists {
			t.Errorf("%s: %v counted, exists: %v, want %v", mode, n, exists, want)
		}
	}
}
