package integration

import (
	"context"
	"fmt"
	"testing"

	"github.com/chromedp/chromedp"

	"usher/deploy/need"
	"usher/integration/browser"
)

// startBrowser starts Chromium for a test.
func startBrowser(t *testing.T) *browser.Browser {
	t.Helper()
	need.Seconds(t)
	need.Program(t, browser.Program)
	b, err := browser.Start()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	})
	return b
}

// tab is a page in a browser.
type tab struct {
	t   *testing.T
	ctx context.Context
}

// open shows an address in a tab of its own.
func open(t *testing.T, b *browser.Browser, address string, before ...chromedp.Action[chromedp.Void]) *tab {
	t.Helper()
	ctx, done := b.Tab()
	t.Cleanup(done)
	p := &tab{t: t, ctx: ctx}
	if err := chromedp.Do(ctx); err != nil { // the tab lives as long as the context of its first call
		t.Fatal(err)
	}
	p.do(before...)
	p.do(chromedp.Navigate(address))
	return p
}

func (p *tab) do(steps ...chromedp.Action[chromedp.Void]) {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.ctx, 2*patience)
	defer cancel()
	if err := chromedp.Do(ctx, steps...); err != nil {
		p.t.Fatal(err)
	}
}

// eval returns the value of an expression, which may be a promise.
func eval[T any](p *tab, script string) T {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.ctx, 2*patience)
	defer cancel()
	v, err := chromedp.Run(ctx, chromedp.Evaluate[T](script, chromedp.EvalAwaitPromise))
	if err != nil {
		p.t.Fatalf("%.300s: %v", script, err)
	}
	return v
}

// until waits until an expression is true. It says what the page shows if that takes too
// long.
func (p *tab) until(script string) {
	p.t.Helper()
	eventually(p.t, 2*patience, func() string {
		if eval[bool](p, "!!("+script+")") {
			return ""
		}
		return fmt.Sprintf("not so: %s; the page shows\n%s", script, eval[string](p, "document.body.innerText"))
	})
}

// shows is a script that tells whether an element has a text.
func shows(selector, text string) string {
	return fmt.Sprintf("[...document.querySelectorAll(%q)].some((e) => e.innerText.includes(%q))", selector, text)
}
