package users

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	htpasswd "github.com/tg123/go-htpasswd"
	"golang.org/x/crypto/bcrypt"

	"usher/proxy/fair"
)

var (
	errLate = errors.New("too late")
	errGone = errors.New("gone")
)

// Passwords of monica's.
const (
	right = "sesame"
	wrong = "guess"
)

// monica returns a users file of one user.
func monica(t *testing.T) *Checker {
	t.Helper()
	hash, err := bcrypt.GenerateFromPassword([]byte(right), bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "users")
	if err := os.WriteFile(file, append([]byte("monica:"), hash...), 0o600); err != nil {
		t.Fatal(err)
	}
	known, err := Load(file)
	if err != nil {
		t.Fatal(err)
	}
	return known
}

// newGuard returns a guard that computes two hashes at a time.
func newGuard(maxFailures int) *Guard {
	return NewGuard(maxFailures, &fair.Queue{Size: 2, Each: 1})
}

// busy makes a guard compute as many hashes as it may, until free is called for
// each.
func busy(t *testing.T, g *Guard) (free []func()) {
	t.Helper()
	for i := range g.hashes.Size {
		source := fair.SourceOf(netip.AddrFrom4([4]byte{198, 51, 100, byte(i)}))
		if err := g.hashes.Acquire(t.Context(), source); err != nil {
			t.Fatal(err)
		}
		free = append(free, func() { g.hashes.Release(source) })
	}
	return free
}

// attempt is the result of one check: ok, failed, throttled, or another error.
func attempt(ctx context.Context, g *Guard, known *Checker, from, password string) string {
	switch ok, err := g.Check(ctx, known, netip.MustParseAddr(from), "monica", password); {
	case errors.Is(err, ErrThrottled):
		return "throttled"
	case err != nil:
		return err.Error()
	case ok:
		return "ok"
	}
	return "failed"
}

func TestTooManyWrongPasswords(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		known, g := monica(t), newGuard(3)
		want := func(from string, password string, want string) {
			t.Helper()
			if got := attempt(t.Context(), g, known, from, password); got != want {
				t.Errorf("%s with %q: %s, want %s", from, password, got, want)
			}
		}
		want("192.0.2.1", wrong, "failed")
		want("192.0.2.1", wrong, "failed")
		time.Sleep(failureWindow) // failures of another minute do not add up
		want("192.0.2.1", wrong, "failed")
		want("::ffff:192.0.2.1", wrong, "failed")
		want("192.0.2.1", right, "ok") // which forgives nothing
		want("192.0.2.1", wrong, "failed")
		want("192.0.2.1", wrong, "throttled")
		want("192.0.2.1", right, "throttled") // be it remembered
		want("192.0.2.2", right, "ok")
		time.Sleep(failureWindow - time.Nanosecond)
		want("192.0.2.1", right, "throttled")
		time.Sleep(time.Nanosecond)
		want("192.0.2.1", right, "ok")

		want("2001:db8::1", wrong, "failed")
		want("2001:db8::2:1", wrong, "failed")
		want("2001:db8::3:0:0:1", wrong, "failed")
		want("2001:db8::4", right, "throttled") // the same /64
		want("2001:db8:0:1::1", right, "ok")
	})
}

// A source is refused for a minute. This minute begins with the failure that exceeds
// the bound, however late in the minute of counting it was.
func TestRefusedForTheNextMinute(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		known, g := monica(t), newGuard(2)
		after := func(pause time.Duration, password string, want string) {
			t.Helper()
			time.Sleep(pause)
			if got := attempt(t.Context(), g, known, "192.0.2.1", password); got != want {
				t.Errorf("%v later, with %q: %s, want %s", pause, password, got, want)
			}
		}
		after(0, wrong, "failed")
		after(failureWindow-time.Second, wrong, "failed")
		after(time.Second, right, "throttled") // a minute after the first
		after(failureWindow-time.Second-time.Nanosecond, right, "throttled")
		after(time.Nanosecond, right, "ok") // a minute after the second
	})
}

// A remembered password needs no hash for a minute, and then needs one again.
func TestHashedAgainAfterAMinute(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		known, g := monica(t), newGuard(0)
		want := func(want string) {
			t.Helper()
			ctx, cancel := context.WithTimeoutCause(t.Context(), time.Nanosecond, errLate)
			defer cancel()
			if got := attempt(ctx, g, known, "192.0.2.1", right); got != want {
				t.Errorf("%s, want %s", got, want)
			}
		}
		want("ok")
		busy(t, g) // nobody gets a hash any more
		time.Sleep(time.Minute - time.Nanosecond)
		want("ok")
		time.Sleep(time.Nanosecond)
		want(errLate.Error())
	})
}

func TestAnyNumberOfWrongPasswords(t *testing.T) {
	known, g := monica(t), newGuard(0)
	for range 50 {
		if got := attempt(t.Context(), g, known, "192.0.2.1", wrong); got != "failed" {
			t.Fatal(got)
		}
	}
}

func TestSourcesAreBounded(t *testing.T) {
	g := newGuard(1)
	for i := range maxFailed + 10 {
		g.fail(login{source: fair.SourceOf(netip.MustParseAddr(fmt.Sprintf("2001:db8:%x:%x::1", i>>16, i&0xffff)))})
		g.fail(login{user: digest{uint64(i)}})
	}
	if s, l := g.sources.of.Len(), g.logins.of.Len(); s != maxFailed || l != maxFailed {
		t.Errorf("%d sources and %d logins remembered, want %d of each", s, l, maxFailed)
	}
}

// A client with wrong passwords locks out this user at its address, and nobody else
// there. If it tries many users, its whole address is locked out in the end.
func TestWrongPasswordsOfOneUser(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		known, g := monica(t), newGuard(3)
		check := func(from, user, password string) string {
			t.Helper()
			ok, err := g.Check(t.Context(), known, netip.MustParseAddr(from), user, password)
			if err != nil {
				return err.Error()
			}
			return map[bool]string{true: "ok", false: "failed"}[ok]
		}
		want := func(from, user, password, want string) {
			t.Helper()
			if got := check(from, user, password); got != want {
				t.Fatalf("%s of %s: %s, want %s", user, from, got, want)
			}
		}
		const here, there = "192.0.2.1", "192.0.2.2"
		for range 3 {
			want(here, "fred", wrong, "failed")
		}
		for range 100 { // which adds up to nothing
			want(here, "fred", wrong, errThrottledUser.Error())
		}
		want(here, "monica", right, "ok")
		want(there, "fred", wrong, "failed")
		for i := range 3*usersOfSource - 3 {
			want(here, fmt.Sprintf("user %d", i), wrong, "failed")
		}
		want(here, "monica", right, ErrThrottled.Error())
		want(here, "fred", wrong, ErrThrottled.Error())
		want(there, "monica", right, "ok")
		time.Sleep(failureWindow)
		want(here, "monica", right, "ok")
	})
}

// While the maximum number of hashes is being computed, others wait as long as their
// context allows, except for remembered passwords. A check that waits behind the last
// allowed failure costs no hash.
func TestHashesAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		known, g := monica(t), newGuard(1)
		if got := attempt(t.Context(), g, known, "192.0.2.1", right); got != "ok" {
			t.Fatal(got)
		}
		free := busy(t, g)
		if got := attempt(t.Context(), g, known, "192.0.2.9", right); got != "ok" {
			t.Errorf("remembered: %s, want ok", got)
		}
		ctx, cancel := context.WithTimeoutCause(t.Context(), time.Second, errLate)
		defer cancel()
		if got := attempt(ctx, g, known, "192.0.2.2", wrong); got != errLate.Error() {
			t.Errorf("waited too long: %s", got)
		}

		got := map[string]int{}
		var mu sync.Mutex
		var group sync.WaitGroup
		for range 5 {
			group.Go(func() {
				verdict := attempt(t.Context(), g, known, "192.0.2.3", wrong)
				mu.Lock()
				defer mu.Unlock()
				got[verdict]++
			})
		}
		synctest.Wait()
		if len(got) > 0 {
			t.Errorf("%v without a free processor", got)
		}
		free[0]()
		group.Wait()
		if got["failed"] != 1 || got["throttled"] != 4 {
			t.Errorf("%v, want 1 failed and 4 throttled", got)
		}
	})
}

// A client that has gone when its turn comes costs no hash, even if both happen at the
// same time.
func TestNoHashAfterTheClientHasLeft(t *testing.T) {
	known, g := monica(t), newGuard(0)
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(errGone)
	for range 50 {
		if got := attempt(ctx, g, known, "192.0.2.1", right); got != errGone.Error() {
			t.Fatalf("%s, want %v", got, errGone)
		}
	}
}

// order is a password that nobody has. It records which ones were tried.
type order struct{ tried []string }

func (o *order) MatchesPassword(password string) bool {
	o.tried = append(o.tried, password)
	return false
}

// Only one hash of a source is computed at a time. If a source has much to compute,
// others do not wait for all of it. Sources without wrong passwords go first.
func TestHashesTakeTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var done order
		known := &Checker{hashes: map[string]htpasswd.EncodedPasswd{"monica": &done}, memory: newMemory()}
		g := NewGuard(0, &fair.Queue{Size: 1, Each: 1})
		free := busy(t, g)
		for range 2 { // these two have failed before
			g.fail(login{source: fair.SourceOf(netip.MustParseAddr("192.0.2.1"))})
			g.fail(login{source: fair.SourceOf(netip.MustParseAddr("192.0.2.2"))})
		}
		var group sync.WaitGroup
		for _, from := range []string{"192.0.2.1", "192.0.2.1", "192.0.2.1", "192.0.2.2", "192.0.2.3"} {
			group.Go(func() {
				if got := attempt(t.Context(), g, known, from, from); got != "failed" {
					t.Errorf("%s: %s", from, got)
				}
			})
			synctest.Wait() // it waits
		}
		free[0]()
		group.Wait()
		want := []string{"192.0.2.3", "192.0.2.1", "192.0.2.2", "192.0.2.1", "192.0.2.1"}
		if !slices.Equal(done.tried, want) {
			t.Errorf("hashes were computed for %v, want %v", done.tried, want)
		}
	})
}
