package integration

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
)

// TestStatusPage looks at a cluster of three replicas by the page of one of them, in a
// real browser.
func TestStatusPage(t *testing.T) {
	b := startBrowser(t)
	const token = "token-of-the-status-page-test"
	limited := func(most int) func(limited, free endpoint) string {
		return func(limited, free endpoint) string {
			return fmt.Sprintf(`
client pass { from: 0/0 to: 0/0 }
socks pass { from: 0/0 to: %s rule.name: web maxsessions: %d }
socks pass { from: 0/0 to: %s }
`, limited.to(), most, free.to())
		}
	}
	w := newWorld(t, options{alone: true, rules: limited(5), env: map[string]string{"USHER_ADMIN_TOKEN": token, "USHER_CLUSTER": "edge"}})
	p := open(t, b, w.replicas[0].admin+"/")
	p.until(shows("h1", "edge is healthy") + " && document.querySelectorAll('.card.alive').length == 3")
	p.until("document.querySelector('#link.live')")

	var held []crowd
	for i, r := range w.replicas {
		one := (client{proxy: r.socks}).ask(t, i+1, w.limited.String())
		one.want(t, min(i+1, 5), notAllowed)
		held = append(held, one)
		if i == 1 {
			break // 1 and 2 of 5
		}
	}
	p.until("document.querySelectorAll('#sessions tbody tr').length == 3")
	third := (client{proxy: w.replicas[2].socks}).ask(t, 4, w.limited.String())
	third.want(t, 2, notAllowed)

	t.Run("the page of one shows the sessions of all", func(t *testing.T) {
		p.t = t
		p.until("document.querySelectorAll('#sessions tbody tr').length == 5")
		for i := range w.replicas {
			p.until(shows("#sessions td", fmt.Sprintf("usher-%d", i+1)))
		}
		p.until(shows(".limit.full .number", "5 of 5"))
		p.until(shows(".limit.full .shares", "usher-3 2"))
		p.until(shows(".limit.full .holders", "127.0.0.1 5"))
		p.until("document.querySelectorAll('#refusals tbody tr').length == 2")
		p.until(shows("#refusals td", "sockd.conf:3"))
		p.until(shows("#refusals .reason", "limit"))
	})

	t.Run("changes arrive within two seconds", func(t *testing.T) {
		p.t = t
		quickest := time.Hour
		for range 5 { // on a busy machine, one of them is enough
			rows := eval[int](p, "document.querySelectorAll('#sessions tbody tr').length")
			begin := time.Now()
			more := (client{proxy: w.replicas[1].socks}).ask(t, 1, w.free.String())
			p.until(fmt.Sprintf("document.querySelectorAll('#sessions tbody tr').length == %d", rows+1))
			quickest = min(quickest, time.Since(begin))
			more.close()
			p.until(fmt.Sprintf("document.querySelectorAll('#sessions tbody tr').length == %d", rows))
		}
		t.Logf("the quickest of five changes was on the page after %v", quickest)
		if quickest > 2*time.Second {
			t.Errorf("no change arrived within two seconds; the quickest took %v", quickest)
		}
	})

	t.Run("a session is ended with the token and not without", func(t *testing.T) {
		p.t = t
		first := "document.querySelector('#sessions [data-end]')"
		id := eval[string](p, first+".dataset.end")
		p.do(chromedp.Evaluate[chromedp.Void](first + ".click()"))
		p.until("document.querySelector('#ask').open && document.activeElement.id == 'ask-secret'")
		p.do(chromedp.KeyEvent("\r"))
		p.until(shows("#ask-error", "needs the token"))
		p.do(chromedp.SendKeys(chromedp.CSS("#ask-secret"), "wrong\r"))
		p.until(shows("#ask-error", "token") + " && !" + shows("#ask-error", "needs the token"))
		if !eval[bool](p, "!!document.getElementById('session-"+id+"')") {
			t.Fatal("the session was ended without the token")
		}
		p.do(chromedp.SendKeys(chromedp.CSS("#ask-secret"), token+"\r"))
		p.until("!document.querySelector('#ask').open && !document.getElementById('session-" + id + "')")
		p.until(shows("#done", "was ended"))
		if eval[bool](p, "JSON.stringify([document.cookie, {...localStorage}, location.href]).includes('token')") {
			t.Error("the token is kept elsewhere than in this tab")
		}
		alive := 0
		for _, c := range append(held, third) {
			alive += len(c.alive())
		}
		if alive != 4 {
			t.Errorf("%d of 5 sessions are left, want 4", alive)
		}
	})

	t.Run("a reload shows both generations", func(t *testing.T) {
		p.t = t
		w.reload(limited(7)(w.limited, w.free), true)
		p.until(shows(".limit .use.old", "4 of 5") + " && " + shows(".limit .use:not(.old)", "0 of 7"))
		p.until(shows("#sessions .older", "older rules"))
	})

	t.Run("what is typed and focused stays", func(t *testing.T) {
		p.t = t
		p.do(chromedp.SendKeys(chromedp.CSS("#find"), "usher-3"))
		p.until("document.querySelectorAll('#sessions tbody tr').length <= 2 && location.search.includes('usher-3')")
		more := (client{proxy: w.replicas[2].socks}).ask(t, 1, w.free.String())
		p.until(shows("#sessions td", w.free.String()))
		more.close()
		if got := eval[string](p, "document.activeElement.id + ' ' + document.activeElement.value"); got != "find usher-3" {
			t.Errorf("the focus is at %q", got)
		}
		p.do(chromedp.Evaluate[chromedp.Void]("document.querySelector('.filters a').click()"))
		p.until("!location.search.includes('usher-3')")
	})

	t.Run("a replica that was killed is dead", func(t *testing.T) {
		p.t = t
		w.replicas[2].kill()
		p.until("document.querySelectorAll('.card.dead, .card.missing').length == 1")
		p.until("document.querySelectorAll('.card.dead').length == 1")
		p.until(shows("h1", "edge is degraded") + " && " + shows(".card.dead", "usher-3"))
	})

	t.Run("Redis stops and comes back", func(t *testing.T) {
		p.t = t
		w.store.Kill()
		p.until("!" + shows("h1", "healthy") + " && " + shows(".facts", "has failed"))
		w.store.Start()
		p.until(shows(".facts", "answers"))
	})

	t.Run("the replica of the page stops and comes back", func(t *testing.T) {
		p.t = t
		w.replicas[0].kill()
		p.until("document.querySelector('#link.gone') && !document.querySelector('#lost').hidden")
		again := map[string]string{"USHER_REPLICA": "usher-1"}
		for k, v := range w.env {
			if again[k] == "" {
				again[k] = v
			}
		}
		w.replicas[0] = launchReplica(t, "usher 1 again", w.hosts[0], w.ports.socks, w.ports.admin, again)
		p.until("document.querySelector('#link.live') && document.querySelector('#lost').hidden")
	})
	if text := eval[string](p, "document.documentElement.outerHTML"); strings.Contains(text, token) {
		t.Error("the token stands in the page")
	}
}
