package integration

import (
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp"

	"usher/deploy/need"
	"usher/integration/browser"
)

const pageToken = "token-of-the-status-page-test"

// limitedTo returns rules with a limit for one target, and none for the other.
func limitedTo(most int) func(limited, free endpoint) string {
	return func(limited, free endpoint) string {
		return fmt.Sprintf(`
client pass { from: 0/0 to: 0/0 }
socks pass { from: 0/0 to: %s rule.name: web maxsessions: %d }
socks pass { from: 0/0 to: %s }
`, limited.to(), most, free.to())
	}
}

// viewed is a cluster, the page of its first replica, and the sessions of clients.
type viewed struct {
	b    *browser.Browser
	w    *world
	p    *tab
	held []crowd
}

// TestStatusPage looks at a cluster of three replicas by the page of one of them, in a
// real browser.
func TestStatusPage(t *testing.T) {
	b := startBrowser(t)
	w := newWorld(t, options{alone: true, rules: limitedTo(5), env: map[string]string{"USHER_ADMIN_TOKEN": pageToken, "USHER_CLUSTER": "edge"}})
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

	v := &viewed{b: b, w: w, p: p, held: append(held, third)}
	for _, step := range []struct {
		name string
		test func(*testing.T)
	}{
		{"the page of one shows the sessions of all", v.all},
		{"changes arrive within two seconds", v.changes},
		{"a rule shows its text", v.showsRule},
		{"a session is ended with the token and not without", v.endsSession},
		{"a replica is drained with the token and not without", v.drains},
		{"a reload shows both generations", v.reloads},
		{"what is typed and focused stays", v.keepsFocus},
		{"a replica that was killed is dead", v.replicaDies},
		{"Redis stops and comes back", v.storeStops},
		{"the replica of the page stops and comes back", v.replicaRestarts},
		{"from another machine, the page asks for the token", v.locked},
	} {
		t.Run(step.name, func(t *testing.T) {
			p.t = t
			step.test(t)
		})
	}
	if text := eval[string](p, "document.documentElement.outerHTML"); strings.Contains(text, pageToken) {
		t.Error("the token stands in the page")
	}
}

func (v *viewed) all(t *testing.T) {
	v.p.until("document.querySelectorAll('#sessions tbody tr').length == 5")
	for i := range v.w.replicas {
		v.p.until(shows("#sessions td", fmt.Sprintf("usher-%d", i+1)))
	}
	v.p.until(shows(".limit.full .number", "5 of 5"))
	v.p.until(shows(".limit.full .shares", "usher-3 2"))
	v.p.until(shows(".limit.full .holders", "127.0.0.1 5"))
	v.p.until("document.querySelectorAll('#refusals tbody tr').length == 2")
	v.p.until(shows("#refusals td", "sockd.conf:3"))
	v.p.until(shows("#refusals .reason", "limit"))
}

func (v *viewed) changes(t *testing.T) {
	quickest := time.Hour
	for range 5 { // on a busy machine, one of them is enough
		rows := eval[int](v.p, "document.querySelectorAll('#sessions tbody tr').length")
		begin := time.Now()
		more := (client{proxy: v.w.replicas[1].socks}).ask(t, 1, v.w.free.String())
		v.p.until(fmt.Sprintf("document.querySelectorAll('#sessions tbody tr').length == %d", rows+1))
		quickest = min(quickest, time.Since(begin))
		more.close()
		v.p.until(fmt.Sprintf("document.querySelectorAll('#sessions tbody tr').length == %d", rows))
	}
	t.Logf("the quickest of five changes was on the page after %v", quickest)
	if quickest > 2*time.Second {
		t.Errorf("no change arrived within two seconds; the quickest took %v", quickest)
	}
}

// showsRule opens the text of a rule on a phone. It stays open while the page changes.
func (v *viewed) showsRule(t *testing.T) {
	v.p.do(chromedp.EmulateViewport(390, 800))
	v.p.do(chromedp.Evaluate[chromedp.Void]("document.querySelector('.limit [popovertarget]').click()"))
	v.p.until(shows(".rule:popover-open pre", "session.max: 5") + " && " + shows(".rule:popover-open", v.w.ruleFile+":3"))
	// The text of the client-rule comes before that one, and goes when this client is not
	// among those that are searched for.
	silent, err := net.Dial("tcp", v.w.replicas[1].socks)
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	if _, err := silent.Write([]byte{5}); err != nil {
		t.Fatal(err)
	}
	v.p.until("document.querySelectorAll('#sessions tbody tr').length == 6 && document.querySelectorAll('.rule').length == 2")
	find := func(text string) {
		v.p.do(chromedp.Evaluate[chromedp.Void]("document.querySelector('#find').value = '" + text + "'; document.querySelector('#find').dispatchEvent(new Event('input', {bubbles: true}))"))
	}
	find("nobody")
	v.p.until("document.querySelectorAll('.rule').length == 1")
	if got := eval[string](v.p, `(() => {
		const box = document.querySelector('.rule:popover-open')?.getBoundingClientRect();
		return !box ? 'closed' : box.left < 0 || box.right > innerWidth || box.bottom > innerHeight ? 'not all on the screen' : '';
	})()`); got != "" {
		t.Errorf("the text of the rule is %s", got)
	}
	v.p.do(chromedp.Evaluate[chromedp.Void]("document.querySelector('.rule:popover-open button').click()"))
	v.p.until("!document.querySelector('.rule:popover-open')")
	v.p.do(chromedp.EmulateViewport(1280, 900))
	silent.Close()
	find("")
	v.p.until("document.querySelectorAll('#sessions tbody tr').length == 5")
}

func (v *viewed) endsSession(t *testing.T) {
	first := "document.querySelector('#sessions [data-end]')"
	id := eval[string](v.p, first+".dataset.end")
	v.p.do(chromedp.Evaluate[chromedp.Void](first + ".click()"))
	v.p.until("document.querySelector('#ask').open && document.activeElement.id == 'ask-secret'")
	v.p.do(chromedp.KeyEvent("\r"))
	v.p.until(shows("#ask-error", "needs the token"))
	v.p.do(chromedp.SendKeys(chromedp.CSS("#ask-secret"), "wrong\r"))
	v.p.until(shows("#ask-error", "token") + " && !" + shows("#ask-error", "needs the token"))
	if !eval[bool](v.p, "!!document.getElementById('session-"+id+"')") {
		t.Fatal("the session was ended without the token")
	}
	v.p.do(chromedp.SendKeys(chromedp.CSS("#ask-secret"), pageToken+"\r"))
	v.p.until("!document.querySelector('#ask').open && !document.getElementById('session-" + id + "')")
	v.p.until(shows("#done", "was ended"))
	if eval[bool](v.p, "JSON.stringify([document.cookie, {...localStorage}, location.href]).includes('token')") {
		t.Error("the token is kept elsewhere than in this tab")
	}
	alive := 0
	for _, c := range v.held {
		alive += len(c.alive())
	}
	if alive != 4 {
		t.Errorf("%d of 5 sessions are left, want 4", alive)
	}
}

// drains begins with the token that the tab has kept.
func (v *viewed) drains(t *testing.T) {
	press := func(deed string) {
		t.Helper()
		v.p.do(chromedp.Evaluate[chromedp.Void]("document.querySelector('[data-" + deed + "=usher-2]').click()"))
		v.p.until("document.querySelector('#ask').open && " + shows("#ask", "usher-2?"))
	}
	press("drain")
	if !eval[bool](v.p, "document.querySelector('#ask-token').hidden") {
		t.Error("the page asks for a token that it has")
	}
	v.p.do(chromedp.Evaluate[chromedp.Void]("document.querySelector('#ask-no').click(); sessionStorage.clear()"))
	press("drain")
	v.p.do(chromedp.KeyEvent("\r"))
	v.p.until(shows("#ask-error", "needs the token"))
	v.p.do(chromedp.SendKeys(chromedp.CSS("#ask-secret"), "wrong\r"))
	v.p.until(shows("#ask-error", "This is not the token"))
	if eval[bool](v.p, "!!document.querySelector('.card.draining')") {
		t.Fatal("the replica was drained without the token")
	}
	v.p.do(chromedp.SendKeys(chromedp.CSS("#ask-secret"), pageToken+"\r"))
	v.p.until("!document.querySelector('#ask').open && " + shows("#done", "usher-2 takes no new sessions"))
	v.p.until(shows(".card.draining", "usher-2"))
	if code, body, err := v.w.replicas[1].get("/readyz"); code != 503 {
		t.Errorf("readyz of the drained replica: %d %s %v", code, body, err)
	}
	press("undrain")
	v.p.do(chromedp.Evaluate[chromedp.Void]("document.querySelector('#ask-yes').click()"))
	v.p.until(shows("#done", "takes new sessions again") + " && document.querySelectorAll('.card.alive').length == 3")
	if code, body, err := v.w.replicas[1].get("/readyz"); code != 200 {
		t.Errorf("readyz of the undrained replica: %d %s %v", code, body, err)
	}
}

func (v *viewed) reloads(t *testing.T) {
	v.w.reload(limitedTo(7)(v.w.limited, v.w.free), true)
	v.p.until(shows(".limit .use.old", "4 of 5") + " && " + shows(".limit .use:not(.old)", "0 of 7"))
	v.p.until(shows("#sessions .older", "older rules"))
}

func (v *viewed) keepsFocus(t *testing.T) {
	v.p.do(chromedp.SendKeys(chromedp.CSS("#find"), "usher-3"))
	v.p.until("document.querySelectorAll('#sessions tbody tr').length <= 2 && location.search.includes('usher-3')")
	more := (client{proxy: v.w.replicas[2].socks}).ask(t, 1, v.w.free.String())
	v.p.until(shows("#sessions td", v.w.free.String()))
	more.close()
	if got := eval[string](v.p, "document.activeElement.id + ' ' + document.activeElement.value"); got != "find usher-3" {
		t.Errorf("the focus is at %q", got)
	}
	v.p.do(chromedp.Evaluate[chromedp.Void]("document.querySelector('.filters a').click()"))
	v.p.until("!location.search.includes('usher-3')")
}

func (v *viewed) replicaDies(t *testing.T) {
	v.w.replicas[2].kill()
	v.p.until("document.querySelectorAll('.card.dead, .card.missing').length == 1")
	v.p.until("document.querySelectorAll('.card.dead').length == 1")
	v.p.until(shows("h1", "edge is degraded") + " && " + shows(".card.dead", "usher-3"))
}

func (v *viewed) storeStops(t *testing.T) {
	v.w.store.Kill()
	v.p.until("!" + shows("h1", "healthy") + " && " + shows(".facts", "has failed"))
	v.w.store.Start()
	v.p.until(shows(".facts", "answers"))
}

func (v *viewed) replicaRestarts(t *testing.T) {
	v.w.replicas[0].kill()
	v.p.until("document.querySelector('#link.gone') && !document.querySelector('#lost').hidden")
	again := map[string]string{"USHER_REPLICA": "usher-1"}
	for k, v := range v.w.env {
		if again[k] == "" {
			again[k] = v
		}
	}
	v.w.replicas[0] = launchReplica(t, "usher 1 again", v.w.hosts[0], v.w.ports.socks, v.w.ports.admin, again)
	v.p.until("document.querySelector('#link.live') && document.querySelector('#lost').hidden")
	// Nothing is missing of the process before: it is no replica any more.
	v.p.until(shows("h1", "healthy"))
}

// locked looks at a replica from an address that is none of loopback.
func (v *viewed) locked(t *testing.T) {
	r := launchReplica(t, "locked", outside(t), need.Port(t), need.Port(t), map[string]string{
		"USHER_CONFIG": v.w.ruleFile, "USHER_ADMIN_TOKEN": pageToken, "USHER_REPLICA": "locked-1",
	})
	r.waitReady(t)
	p := open(t, v.b, r.admin+"/?find=nobody")
	p.until(shows("#unlock", "enter the admin token") + " && " + shows("#unlock", "USHER_ADMIN_TOKEN") + " && document.activeElement.id == 'unlock-secret'")
	if text := eval[string](p, "document.documentElement.outerHTML"); strings.Contains(text, "locked-1") {
		t.Error("without the token, the page names the replica")
	}
	p.do(chromedp.SendKeys(chromedp.CSS("#unlock-secret"), "wrong\r"))
	p.until(shows("#unlock-error", "not accepted") + " && document.querySelector('#unlock-secret').value == ''")
	p.do(chromedp.SendKeys(chromedp.CSS("#unlock-secret"), pageToken+"\r"))
	unlocked := shows(".card.alive", "locked-1") + " && document.querySelector('#link.live') && document.querySelector('#find').value == 'nobody'"
	p.until(unlocked)
	p.do(chromedp.Reload()) // the tab keeps the token
	p.until(unlocked)
}

// outside returns an address of this machine that is none of loopback.
func outside(t *testing.T) string {
	t.Helper()
	list, err := net.InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range list {
		if p, err := netip.ParsePrefix(a.String()); err == nil && p.Addr().Is4() && p.Addr().IsGlobalUnicast() {
			return p.Addr().String()
		}
	}
	need.Missing(t, "an address besides loopback")
	return ""
}
