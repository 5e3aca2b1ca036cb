package integration

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/chromedp/cdproto/accessibility"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/chromedp"

	"usher/integration/browser"
	"usher/proxy/admin/page/samples"
)

// TestStatusPageIsAccessible checks each state of the page, on desktop and phone, light
// and dark, by axe-core for WCAG 2.2 AA, and the tree that Chromium gives to screen
// readers. What neither can tell was looked at: that nothing is told by colour alone, and
// that texts say what they should.
func TestStatusPageIsAccessible(t *testing.T) {
	b := startBrowser(t)
	axe, err := b.Axe()
	if err != nil {
		t.Fatal(err)
	}
	for _, state := range append(samples.Names(), browser.Locked) {
		t.Run(state, func(t *testing.T) {
			address, stop, err := browser.Show(state)
			if err != nil {
				t.Fatal(err)
			}
			defer stop()
			schemes := []string{"light", "dark"}
			if state == "thousand" || state == "drained" {
				schemes = schemes[:1] // they have the colours of busy, and take long
			}
			for _, width := range []int64{1280, 390} {
				for _, scheme := range schemes {
					p := openAs(t, b, "http://"+address+"/", width, scheme)
					p.audit(axe, fmt.Sprintf("%s, %d px, %s", state, width, scheme))
					if state != browser.Locked { // which is a form alone
						p.tree()
					}
					p.fits(width)
				}
			}
		})
	}
}

// openAs shows a page on a screen of some width, for somebody who wants no motion.
func openAs(t *testing.T, b *browser.Browser, address string, width int64, scheme string) *tab {
	t.Helper()
	media := emulation.SetEmulatedMediaParams{Features: []*emulation.MediaFeature{
		{Name: "prefers-color-scheme", Value: scheme}, {Name: "prefers-reduced-motion", Value: "reduce"},
	}}
	p := open(t, b, address, chromedp.EmulateViewport(width, 900), chromedp.Func(func(ctx context.Context, target *chromedp.Target) error {
		_, err := chromedp.Call(ctx, emulation.SetEmulatedMedia, media)
		return err
	}))
	p.until("document.querySelector('#link.live, #unlock')")
	return p
}

// audit runs axe-core.
func (p *tab) audit(axe, where string) {
	p.t.Helper()
	p.do(chromedp.Evaluate[chromedp.Void](axe))
	found := eval[string](p, `axe.run(document, {resultTypes: ['violations'], runOnly: ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'wcag22aa', 'best-practice']})
		.then((r) => JSON.stringify({rules: r.passes.length, violations: r.violations.map((v) => v.id + ': ' + v.help + ' ' + v.nodes.slice(0, 3).map((n) => n.target + ' ' + n.failureSummary).join(' | '))}))`)
	var result struct {
		Rules      int
		Violations []string
	}
	if err := json.Unmarshal([]byte(found), &result); err != nil {
		p.t.Fatal(err)
	}
	if result.Rules < 20 {
		p.t.Errorf("%s: axe-core has applied %d rules alone", where, result.Rules)
	}
	for _, v := range result.Violations {
		p.t.Errorf("%s: %s", where, v)
	}
	if slow := eval[string](p, `[...document.querySelectorAll('*')].map((e) => getComputedStyle(e)).filter((s) => s.animationName !== 'none' || parseFloat(s.transitionDuration) > 0).length + ''`); slow != "0" {
		p.t.Errorf("%s: %s elements move, although the reader wants no motion", where, slow)
	}
}

// tree checks what screen readers are given.
func (p *tab) tree() {
	p.t.Helper()
	all, err := chromedp.Call(p.ctx, accessibility.GetFullAXTree, accessibility.GetFullAXTreeParams{})
	if err != nil {
		p.t.Fatal(err)
	}
	text := func(v *accessibility.Value) (s string) {
		if v != nil {
			_ = json.Unmarshal(v.Value, &s) // "" for what is no text
		}
		return s
	}
	named := []string{"button", "link", "searchbox", "textbox", "image", "img", "table", "region", "search", "navigation", "DisclosureTriangle"}
	count := map[string]int{}
	for _, n := range all.Nodes {
		role := text(n.Role)
		if n.Ignored {
			continue
		}
		count[role]++
		if slices.Contains(named, role) && strings.TrimSpace(text(n.Name)) == "" {
			p.t.Errorf("a %s has no name: %v", role, n.NodeID)
		}
	}
	for _, role := range []string{"main", "heading", "status", "banner", "contentinfo"} {
		if count[role] == 0 {
			p.t.Errorf("there is no %s in the tree: %v", role, count)
		}
	}
	// On a phone the style sheet lays tables out as blocks, and they must stay tables.
	rows := eval[int](p, "document.querySelectorAll('tr').length")
	if count["row"] != rows || rows > 0 && (count["table"] == 0 || count["columnheader"] == 0 || count["cell"] == 0) {
		p.t.Errorf("%d rows of tables: %v", rows, count)
	}
}

// fits checks that nothing is wider than the screen.
func (p *tab) fits(width int64) {
	p.t.Helper()
	if got := eval[int64](p, "document.documentElement.scrollWidth"); got > width {
		p.t.Errorf("the page is %d pixels wide on a screen of %d", got, width)
	}
}

// TestStatusPageByKeyboard uses the page without a mouse.
func TestStatusPageByKeyboard(t *testing.T) {
	b := startBrowser(t)
	address, stop, err := browser.Show("busy")
	if err != nil {
		t.Fatal(err)
	}
	defer stop()
	p := openAs(t, b, "http://"+address+"/", 1280, "light")
	const where = "(document.activeElement.id || document.activeElement.innerText || document.activeElement.className).trim().split('\\n')[0]"
	press := func(keys string, o ...chromedp.KeyOption) string {
		p.do(chromedp.KeyEvent(keys, o...))
		return eval[string](p, where)
	}
	if got := press("\t"); got != "Skip to the limits" {
		t.Errorf("the first stop is %q", got)
	}
	p.do(chromedp.Evaluate[chromedp.Void]("window.went = []; navigation.addEventListener('navigate', (e) => window.went.push(e.navigationType)); window.addEventListener('popstate', () => { window.there = location.hash })"))
	press("\r")
	p.until("window.there")
	if got := eval[string](p, "window.went + ' ' + window.there"); got != "push #limits" {
		t.Errorf("the skip link leads elsewhere, or loads the page again: %s", got)
	}
	p.do(chromedp.Reload())
	p.until("document.querySelector('#link.live')")
	// Each stop comes after the one before in the page, and can be seen.
	p.do(chromedp.Evaluate[chromedp.Void]("window.stops = []"))
	stops := eval[int](p, `[...document.querySelectorAll('a[href], button, input:not([type=hidden]), summary, [tabindex="0"]')].filter((e) => e.checkVisibility()).length`)
	for range stops {
		p.do(chromedp.KeyEvent("\t"), chromedp.Evaluate[chromedp.Void]("window.stops.push(document.activeElement)"))
	}
	if trouble := eval[string](p, `(() => {
		for (let i = 0; i < stops.length; i++) {
			const style = getComputedStyle(stops[i]);
			if (stops[i] === document.body) return 'stop ' + i + ' is nothing';
			if (!stops[i].matches(':focus-visible') && i === stops.length - 1) return 'the last stop is not to be seen';
			if (i > 0 && !(stops[i - 1].compareDocumentPosition(stops[i]) & Node.DOCUMENT_POSITION_FOLLOWING)) return 'stop ' + i + ' is before the one before';
		}
		return new Set(stops).size === stops.length ? '' : 'a stop is visited twice';
	})()`); trouble != "" {
		t.Error(trouble)
	}
	// A dialog takes the focus, keeps it, and gives it back.
	p.do(chromedp.Evaluate[chromedp.Void]("document.querySelector('[data-end]').focus()"))
	if got := press("\r"); got != "ask-secret" {
		t.Errorf("in the dialog, the focus is at %q", got)
	}
	for range 4 {
		press("\t")
		if !eval[bool](p, "document.activeElement === document.body || document.querySelector('#ask').contains(document.activeElement)") {
			t.Error("the focus leaves the dialog")
		}
	}
	press("\x1b")
	p.until("!document.querySelector('#ask').open && document.activeElement.matches('[data-end]')")
}
