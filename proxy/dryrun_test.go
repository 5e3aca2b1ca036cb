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
	eventually(t, func() string { // the store tells the number of the generation
		if n, exists := w.series(would, "rule", "s1", "generation", w.server.Generation()); n != 0 || !exists {
			return fmt.Sprintf("the series begins at %v, %t", n, exists)
		}
		return ""
	})
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
	if n := w.metric(would, "rule", "s1", "generation", w.server.Generation()); n != 23 {
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

// A change of the mode is a reload as any other. The count goes on over a reload of the
// same rules, and ends with the last session of its generation.
func TestModeReloads(t *testing.T) {
	to := echo(t)
	enforced := strings.Replace(dryRun, "report", "enforce", 1)
	one := func(text string) *proxy.Policy { return policy(t, strings.Replace(text, "max: 7", "max: 1", 1)) }
	w := newWorld(t, strings.Replace(dryRun, "max: 7", "max: 1", 1))
	reported := func(label string, want float64) {
		t.Helper()
		if n := w.metric(would, "rule", "s1", "generation", label); n != want {
			t.Errorf("%v would have been refused by %s, want %v", n, label, want)
		}
	}
	first, second := w.client(), w.client()
	first.connect(to, socks.Succeeded)
	second.connect(to, socks.Succeeded)
	dry := w.server.Generation() // with its number
	reported(dry, 1)
	w.server.SetPolicy(one("# again\n" + dryRun))
	third := w.client()
	third.connect(to, socks.Succeeded)
	reported(dry, 2)
	w.server.SetPolicy(one(enforced))
	fourth := w.client()
	fourth.connect(to, socks.Succeeded) // a new generation counts from 0
	w.client().connect(to, socks.NotAllowed)
	reported(dry, 2)
	for _, c := range []*client{first, second, third} {
		c.echoes("still here")
		c.Close()
	}
	eventually(t, func() string {
		if _, exists := w.series(would, "rule", "s1", "generation", dry); exists {
			return "the series of the old generation is still there"
		}
		return ""
	})
	w.server.SetPolicy(one(dryRun))
	w.client().connect(to, socks.Succeeded)
	w.client().connect(to, socks.Succeeded)
	reported(w.server.Generation(), 1)
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
