// Pictures makes the pictures of the status page for the documentation:
//
//	go -C integration run ./pictures ../docs/images
//
// It shows made-up clusters, so that the pictures are the same each time. It needs
// Chromium, and the font Inter (Debian: chromium, fonts-inter).
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/chromedp"

	"usher/integration/browser"
	"usher/proxy/admin/page/samples"
)

// picture is one file.
type picture struct {
	name, state, query string
	width, height      int64 // height 0: all of the page
	dark               bool
	script             string // run before
}

const desktop, phone = 1280, 390

// documented are the pictures that the documentation shows.
var documented = []picture{
	{name: "status-page", state: "busy", width: desktop, height: 1010},
	{name: "status-page-dark", state: "busy", width: desktop, height: 1010, dark: true},
	{name: "status-page-reload", state: "reload", width: desktop, height: 800},
	{name: "status-page-store-down", state: "store-down", width: desktop, height: 800},
	{name: "status-page-replica-dead", state: "replica-dead", width: desktop, height: 800},
	{name: "status-page-drained", state: "drained", width: desktop, height: 440},
	{name: "status-page-locked", state: browser.Locked, width: desktop, height: 560},
	{name: "status-page-phone", state: "busy", width: phone, height: 1100},
	{name: "status-page-end", state: "busy", width: desktop, height: 800, script: `document.querySelector('[data-end]').click()`},
}

func main() {
	all := flag.Bool("all", false, "each state, on desktop and phone, light and dark, in full height")
	only := flag.String("only", "", "pictures with this in their names")
	flag.Usage = func() {
		fmt.Fprintln(flag.CommandLine.Output(), "usage: pictures [-all] [-only TEXT] FOLDER")
		flag.PrintDefaults()
	}
	flag.Parse()
	if flag.NArg() != 1 {
		flag.Usage()
		os.Exit(2)
	}
	if err := run(flag.Arg(0), *all, *only); err != nil {
		fmt.Fprintln(os.Stderr, "pictures:", err)
		os.Exit(1)
	}
}

func run(folder string, all bool, only string) (err error) {
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return err
	}
	b, err := browser.Start()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.Close()) }()
	list := documented
	if all {
		list = everything()
	}
	for _, p := range list {
		if !strings.Contains(p.name, only) {
			continue
		}
		png, err := p.take(b)
		if err != nil {
			return fmt.Errorf("%s: %w", p.name, err)
		}
		file := filepath.Join(folder, p.name+".png")
		if err := os.WriteFile(file, png, 0o644); err != nil {
			return err
		}
		fmt.Printf("%s: %d kB\n", file, len(png)/1000)
	}
	return nil
}

// scripts open what is not open at first, in the state busy.
var scripts = map[string]string{
	"drain": `document.querySelector('[data-drain]').click()`,
	"rule":  `document.querySelector('.limit [popovertarget]').click()`,
}

func everything() (list []picture) {
	for _, state := range append(samples.Names(), browser.Locked, "drain", "rule") {
		for _, width := range []int64{desktop, phone} {
			for _, dark := range []bool{false, true} {
				name := fmt.Sprintf("%s-%d", state, width)
				if dark {
					name += "-dark"
				}
				p := picture{name: name, state: state, width: width, dark: dark}
				if p.script = scripts[state]; p.script != "" {
					p.state, p.height = "busy", 900
				}
				list = append(list, p)
			}
		}
	}
	return list
}

// take shows the state on a page and takes a picture of it.
func (p picture) take(b *browser.Browser) (png []byte, err error) {
	address, stop, err := browser.Show(p.state)
	if err != nil {
		return nil, err
	}
	defer stop()
	tab, done := b.Tab()
	defer done()
	ctx, cancel := context.WithTimeout(tab, time.Minute)
	defer cancel()
	scheme := "light"
	if p.dark {
		scheme = "dark"
	}
	media := emulation.SetEmulatedMediaParams{Features: []*emulation.MediaFeature{
		{Name: "prefers-color-scheme", Value: scheme}, {Name: "prefers-reduced-motion", Value: "reduce"},
	}}
	height := p.height
	if height == 0 {
		height = 900
	}
	if err := chromedp.Do(tab); err != nil { // a tab lives as long as the context of its first call
		return nil, err
	}
	if _, err := chromedp.Call(ctx, emulation.SetEmulatedMedia, media); err != nil {
		return nil, err
	}
	if err := chromedp.Do(ctx,
		chromedp.EmulateViewport(p.width, height),
		chromedp.Navigate("http://"+address+"/"+p.query),
		chromedp.WaitVisible(chromedp.CSS("#link.live, #unlock")),
	); err != nil {
		return nil, err
	}
	if p.script != "" {
		if err := chromedp.Do(ctx, chromedp.Evaluate[chromedp.Void](p.script)); err != nil {
			return nil, err
		}
	}
	if p.height == 0 {
		return chromedp.Run(ctx, chromedp.FullScreenshot(100))
	}
	return chromedp.Run(ctx, chromedp.CaptureScreenshot())
}
