// Package browser starts Debian's Chromium without a window, for tests of the status
// page and for the pictures of it in the documentation.
package browser

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"syscall"
	"time"

	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/remote"
)

// Program is the name of the browser's program.
const Program = "chromium"

// Browser is a running Chromium.
type Browser struct {
	cmd  *exec.Cmd
	dir  string // its profile
	http string // host:port at which it is driven
	ctx  context.Context
	stop []func()
	read chan struct{} // closed when its output has ended
}

// Start starts a browser with a profile of its own. The caller closes it.
func Start() (*Browser, error) {
	dir, err := os.MkdirTemp("", "usher-browser")
	if err != nil {
		return nil, err
	}
	b := &Browser{dir: dir, read: make(chan struct{})}
	b.cmd = exec.Command(Program, "--headless=new",
		"--no-sandbox", // CI is root, for whom Chromium has no sandbox; it visits our own pages alone
		"--disable-gpu", "--disable-dev-shm-usage", "--disable-background-networking", "--disable-component-update",
		"--disable-sync", "--no-first-run", "--no-default-browser-check", "--hide-scrollbars", "--force-color-profile=srgb",
		"--disable-lcd-text", "--lang=en-GB", "--no-proxy-server", "--remote-debugging-port=0", "--user-data-dir="+dir, "about:blank")
	b.cmd.Env = append(os.Environ(), "HOME="+dir, "XDG_CONFIG_HOME="+dir, "XDG_CACHE_HOME="+dir, "TZ=UTC")
	b.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	out, err := b.cmd.StderrPipe()
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	if err := b.cmd.Start(); err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	ws, err := b.address(out)
	if err != nil {
		return nil, errors.Join(err, b.Close())
	}
	b.connect(ws)
	if err := chromedp.Do(b.ctx); err != nil {
		return nil, errors.Join(err, b.Close())
	}
	return b, nil
}

var listening = regexp.MustCompile(`DevTools listening on (ws://\S+)`)

// address waits until the browser says where it is driven, and goes on reading what it
// writes.
func (b *Browser) address(out io.Reader) (string, error) {
	found := make(chan string, 1)
	go func() {
		defer close(b.read)
		defer close(found)
		for lines := bufio.NewScanner(out); lines.Scan(); {
			if m := listening.FindStringSubmatch(lines.Text()); m != nil {
				found <- m[1]
			}
		}
		_, _ = io.Copy(io.Discard, out) // after a line that is too long
	}()
	select {
	case ws, ok := <-found:
		if !ok {
			return "", errors.New("chromium ended before it listened")
		}
		where, err := url.Parse(ws)
		if err != nil {
			return "", err
		}
		b.http = where.Host
		return ws, nil
	case <-time.After(time.Minute):
		return "", errors.New("chromium did not listen within a minute")
	}
}

func (b *Browser) connect(ws string) {
	allocator, stop := remote.NewAllocator(context.Background(), ws, remote.NoModifyURL)
	ctx, cancel := chromedp.NewContext(allocator)
	b.ctx, b.stop = ctx, []func(){cancel, stop}
}

// Tab opens a tab with nothing in common with others, such as storage. It is closed when
// the returned function is called.
func (b *Browser) Tab() (context.Context, func()) {
	return chromedp.NewContext(b.ctx, chromedp.WithNewBrowserContext())
}

// Close ends the browser and removes its profile.
func (b *Browser) Close() error {
	for _, stop := range b.stop {
		stop()
	}
	// It is the leader of a group of its own processes.
	if err := syscall.Kill(-b.cmd.Process.Pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
		return fmt.Errorf("ending chromium: %w", err)
	}
	<-b.read
	var exit *exec.ExitError
	if err := b.cmd.Wait(); err != nil && !errors.As(err, &exit) {
		return fmt.Errorf("waiting for chromium: %w", err)
	}
	return os.RemoveAll(b.dir)
}

// Axe returns the source of axe-core, which checks the accessibility of a page. It comes
// with Chromium, inside Lighthouse in its developer tools.
func (b *Browser) Axe() (string, error) {
	client := &http.Client{Timeout: time.Minute, Transport: &http.Transport{DisableKeepAlives: true}}
	answer, err := client.Get("http://" + b.http + "/devtools/third_party/lighthouse/lighthouse-dt-bundle.js")
	if err != nil {
		return "", err
	}
	defer answer.Body.Close()
	bundle, err := io.ReadAll(answer.Body)
	if err != nil {
		return "", err
	}
	literal, err := templateLiteral(string(bundle), "`/*! axe v")
	if err != nil {
		return "", fmt.Errorf("axe-core in chromium's developer tools: %w", err)
	}
	ctx, done := b.Tab()
	defer done()
	return chromedp.Run(ctx, chromedp.Evaluate[string](literal))
}

// templateLiteral returns the literal of JavaScript that begins with start.
func templateLiteral(text, start string) (string, error) {
	from := strings.Index(text, start)
	if from < 0 {
		return "", fmt.Errorf("no literal begins with %q", start)
	}
	for i := from + 1; i < len(text); i++ {
		switch text[i] {
		case '\\':
			i++
		case '`':
			return text[from : i+1], nil
		}
	}
	return "", errors.New("the literal does not end")
}
