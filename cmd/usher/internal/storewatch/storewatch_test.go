package storewatch

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"usher/cmd/usher/internal/settings"
	"usher/limiter"
)

func TestStoreNews(t *testing.T) {
	same := map[string]string{"aaaaaaaaaaaa": "c1x", "bbbbbbbbbbbb": "c1x"}
	differ := map[string]string{"aaaaaaaaaaaa": "c1x", "bbbbbbbbbbbb": "c1y"}
	n := news{effects: effectsOf(settings.Config{})}
	for i, step := range []struct {
		at   time.Duration
		st   limiter.Status
		want string // in the only line, "" for none
	}{
		{0, limiter.Status{}, ""},
		{1, limiter.Status{Joined: true, Recovering: true}, "joined a recovering store"},
		{2, limiter.Status{Joined: true, Recovering: true}, ""},
		{3, limiter.Status{Joined: true, Replicas: same}, "joined the store"},
		{4, limiter.Status{Replicas: same}, "lost the store"},
		{5, limiter.Status{Mismatch: "v1 ttl=1"}, "conflicting lease settings"},
		{6, limiter.Status{Mismatch: "v1 ttl=1"}, ""},
		{7, limiter.Status{Joined: true, Replicas: differ}, "joined the store"},
		{8 + splitPatience - 2, limiter.Status{Joined: true, Replicas: differ}, ""},
		{7 + splitPatience, limiter.Status{Joined: true, Replicas: differ}, "different rules"},
		{8 + splitPatience, limiter.Status{Joined: true, Replicas: differ}, ""},
		{9 + splitPatience, limiter.Status{Joined: true, Replicas: same, LeasesLost: 2}, "lease lost"}, // and back within a tick
		{10 + splitPatience, limiter.Status{Joined: true, Replicas: same, LeasesLost: 2}, ""},
	} {
		lines := n.next(step.st, "dial: NOAUTH", time.Unix(1000, 0).Add(step.at))
		switch {
		case step.want == "" && len(lines) > 0:
			t.Errorf("step %d: %v", i, lines)
		case step.want != "" && (len(lines) != 1 || !strings.Contains(lines[0].text, step.want)):
			t.Errorf("step %d: %v, want %q", i, lines, step.want)
		case step.want == "lost the store" && !strings.HasSuffix(fmt.Sprint(lines[0].attrs), " error dial: NOAUTH]"):
			t.Errorf("step %d: %v names no cause", i, lines)
		}
	}
}

// If a request ends by its own time limit, the line has the limit and the variable that
// sets it.
func TestFailureOfALateAnswer(t *testing.T) {
	w := Watch{ttl: 2 * time.Second}
	late := fmt.Errorf("read: %w", os.ErrDeadlineExceeded)
	for _, c := range []struct {
		op   string
		took time.Duration
		err  error
		want string
	}{
		{"batch", 200 * time.Millisecond, late, "no answer within 200ms, a tenth of USHER_LEASE_TTL: read: i/o timeout"},
		{"join", time.Second, context.DeadlineExceeded, "no answer within 200ms, a tenth of USHER_LEASE_TTL: context deadline exceeded"},
		{"dial", 400 * time.Millisecond, late, "no answer within 400ms, a fifth of USHER_LEASE_TTL: read: i/o timeout"},
		{"dial", 300 * time.Millisecond, late, "read: i/o timeout"}, // a limit of the client's own
		{"batch", time.Second, errors.New("EOF"), "EOF"},
	} {
		if got := w.describe(c.op, c.took, c.err); got != c.want {
			t.Errorf("%s after %v: %q, want %q", c.op, c.took, got, c.want)
		}
	}
}

// The effect on sessions is logged as the settings have it.
func TestEffectsDependOnTheSettings(t *testing.T) {
	const unlimited = "rules without a limit are not affected"
	for _, c := range []struct {
		cfg                  settings.Config
		failing, lost, lease string // the ends of the effects
	}{
		{settings.Config{LeaseLoss: "keep", StoreDown: "refuse"}, unlimited, "USHER_STORE_WAIT, then are refused", "may be exceeded until they end"},
		{settings.Config{LeaseLoss: "keep", StoreDown: "admit"}, unlimited, "USHER_STORE_WAIT, then are admitted by this replica's own count", "may be exceeded until they end"},
		{settings.Config{LeaseLoss: "close", StoreDown: "refuse"}, "limited sessions end after 0.7 USHER_LEASE_TTL without the store", "then are refused; running ones end with their lease", "have ended"},
	} {
		var out told
		w := New(slog.New(slog.NewTextHandler(&out, nil)), c.cfg)
		w.Observe("batch", 0, errors.New("EOF"))
		out.want(t, 1, "msg=\"the store fails\"", c.failing+"\"")
		n := news{effects: w.effects, last: limiter.Status{Joined: true}}
		lines := n.next(limiter.Status{LeasesLost: 1}, "", time.Now())
		if len(lines) != 2 {
			t.Errorf("%+v: %d lines: %v", c.cfg, len(lines), lines)
			continue
		}
		for i, want := range []struct{ text, effect string }{{"lease lost", c.lease}, {"lost the store", c.lost}} {
			if attrs := fmt.Sprint(lines[i].attrs); lines[i].text != want.text || !strings.HasSuffix(attrs, want.effect+"]") {
				t.Errorf("%+v: %q %s, want %q with an effect that ends in %q", c.cfg, lines[i].text, attrs, want.text, want.effect)
			}
		}
	}
}

// told is a log that counts its lines and has the last one.
type told struct{ bytes.Buffer }

func (o *told) want(t *testing.T, lines int, last ...string) {
	t.Helper()
	text := strings.TrimSpace(o.String())
	got := text[strings.LastIndex(text, "\n")+1:]
	for _, part := range last {
		if !strings.Contains(got, part) {
			t.Errorf("the last line lacks %q:\n%s", part, text)
		}
	}
	if n := strings.Count(o.String(), "\n"); n != lines {
		t.Errorf("%d lines, want %d:\n%s", n, lines, text)
	}
}

// A failing store is logged once, and once more when nothing has failed for a while and
// something was written.
func TestStoreFailureIsLoggedOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out told
		w := Watch{log: slog.New(slog.NewTextHandler(&out, nil)), effects: effectsOf(settings.Config{})}
		refused := errors.New("MISCONF")
		w.Observe("batch", 0, nil)
		out.want(t, 0)
		for range 100 { // it answers, and takes nothing; another server does
			w.Observe("batch", 0, refused)
			w.Observe("dial", 0, nil)
			w.Observe("join", 0, nil)
			w.Observe("batch", 0, nil)
			time.Sleep(quietPeriod / 50)
		}
		out.want(t, 1, "the store fails")
		time.Sleep(quietPeriod)
		w.Observe("dial", 0, nil)
		w.Observe("observe", 0, nil)
		out.want(t, 1, "the store fails")
		w.Observe("join", 0, nil)
		w.Observe("batch", 0, nil)
		out.want(t, 2, "the store answers again", "no_failure_for=5s")
		w.Observe("batch", 0, refused)
		out.want(t, 3, "the store fails")
	})
}

// The first failure may differ from the lasting one. Changes are logged, but not each
// one if failures alternate. A lasting failure is repeated.
func TestChangedStoreFailureIsLogged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out told
		w := Watch{log: slog.New(slog.NewTextHandler(&out, nil))}
		fail := func(op, text string) { w.Observe(op, 0, errors.New(text)) }
		if text, since := w.Trouble(); text != "" || !since.IsZero() {
			t.Error("there is trouble before anything failed:", text, since)
		}
		began := time.Now()
		fail("observe", "EOF")
		out.want(t, 1, "op=observe error=EOF")
		for range 9 {
			time.Sleep(time.Second)
			fail("dial", "NOAUTH at port 4711")
			fail("dial", "refused at port 4712")
			fail("dial", "NOAUTH at port 4713")
		}
		out.want(t, 1)
		time.Sleep(time.Second)
		fail("dial", "NOAUTH at port 4714")
		out.want(t, 2, "op=dial", "NOAUTH at port 4714", "for=10s")
		for range 5 { // the port alone is no change
			time.Sleep(11 * time.Second)
			fail("dial", "NOAUTH at port 4715")
		}
		out.want(t, 2)
		time.Sleep(5 * time.Second)
		fail("dial", "NOAUTH at port 4716")
		out.want(t, 3, "NOAUTH at port 4716", "for=1m10s")
		if text, since := w.Trouble(); text != "dial: NOAUTH at port 4716" || !since.Equal(began) {
			t.Error("trouble is", text, "since", since)
		}
		time.Sleep(quietPeriod)
		w.Observe("join", 0, nil)
		out.want(t, 4, "the store answers again")
		if text, _ := w.Trouble(); text != "" {
			t.Error("there is trouble after the end:", text)
		}
		fail("dial", "NOAUTH")
		out.want(t, 5, "NOAUTH")
	})
}

func TestStoreSettingsAreCheckedOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		w := Watch{log: slog.New(slog.NewTextHandler(&out, nil))}
		attempts := 0
		w.Check(t.Context(), func(context.Context) ([]string, error) {
			if attempts++; attempts < 3 {
				return []string{"one"}, errors.New("another is away") // told at once, and once
			}
			return []string{"one", "two"}, nil
		})
		if lines := strings.Count(out.String(), "\n"); attempts != 3 || lines != 2 || !strings.Contains(out.String(), "finding=two") {
			t.Errorf("%d attempts, log:\n%s", attempts, out.String())
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		w.Check(ctx, func(context.Context) ([]string, error) { return nil, errors.New("away") })
	})
}
