package proxy

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/crypto/bcrypt"

	"usher/proxy/socks"
	"usher/proxy/users"
)

var (
	right = socks.Credentials{User: "monica", Password: "sesame"}
	wrong = socks.Credentials{User: "monica", Password: "guess"}
)

// monica returns a users file of one user.
func monica(t *testing.T) *users.Checker {
	t.Helper()
	hash, err := bcrypt.GenerateFromPassword([]byte(right.Password), bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "users")
	if err := os.WriteFile(file, append([]byte(right.User+":"), hash...), 0o600); err != nil {
		t.Fatal(err)
	}
	known, err := users.Load(file)
	if err != nil {
		t.Fatal(err)
	}
	return known
}

// attempt is what one check says: ok, failed, throttled, or another error.
func attempt(ctx context.Context, p *passwords, known *users.Checker, from string, c socks.Credentials) string {
	switch ok, err := p.check(ctx, known, netip.MustParseAddr(from), c); {
	case errors.Is(err, errAuthThrottled):
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
		known, p := monica(t), newPasswords(3)
		want := func(from string, c socks.Credentials, want string) {
			t.Helper()
			if got := attempt(t.Context(), p, known, from, c); got != want {
				t.Errorf("%s with %q: %s, want %s", from, c.Password, got, want)
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

// The minute for which a source is refused begins with the failure that was one
// too many, whenever in its own minute that was.
func TestRefusedForTheNextMinute(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		known, p := monica(t), newPasswords(2)
		after := func(pause time.Duration, c socks.Credentials, want string) {
			t.Helper()
			time.Sleep(pause)
			if got := attempt(t.Context(), p, known, "192.0.2.1", c); got != want {
				t.Errorf("%v later, with %q: %s, want %s", pause, c.Password, got, want)
			}
		}
		after(0, wrong, "failed")
		after(failureWindow-time.Second, wrong, "failed")
		after(time.Second, right, "throttled") // a minute after the first
		after(failureWindow-time.Second-time.Nanosecond, right, "throttled")
		after(time.Nanosecond, right, "ok") // a minute after the second
	})
}

// What is remembered needs no hash, and after its minute it does again.
func TestHashedAgainAfterAMinute(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		known, p := monica(t), newPasswords(0)
		want := func(want string) {
			t.Helper()
			ctx, cancel := context.WithTimeoutCause(t.Context(), time.Nanosecond, errLate)
			defer cancel()
			if got := attempt(ctx, p, known, "192.0.2.1", right); got != want {
				t.Errorf("%s, want %s", got, want)
			}
		}
		want("ok")
		for range cap(p.slots) { // nobody gets a hash any more
			p.slots <- struct{}{}
		}
		time.Sleep(time.Minute - time.Nanosecond)
		want("ok")
		time.Sleep(time.Nanosecond)
		want(errLate.Error())
	})
}

func TestAnyNumberOfWrongPasswords(t *testing.T) {
	known, p := monica(t), newPasswords(0)
	for range 50 {
		if got := attempt(t.Context(), p, known, "192.0.2.1", wrong); got != "failed" {
			t.Fatal(got)
		}
	}
}

func TestSourcesAreBounded(t *testing.T) {
	p := newPasswords(1)
	for i := range maxSources + 10 {
		p.fail(sourceOf(netip.MustParseAddr(fmt.Sprintf("2001:db8:%x:%x::1", i>>16, i&0xffff))))
	}
	if n := p.failed.Len(); n != maxSources {
		t.Errorf("%d sources remembered, want %d", n, maxSources)
	}
}

// While all processors compute, others wait as long as their context lets
// them, but for those whose password is remembered; and who waits behind the
// last failure that is allowed costs no hash.
func TestHashesAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		known, p := monica(t), newPasswords(1)
		if got := attempt(t.Context(), p, known, "192.0.2.1", right); got != "ok" {
			t.Fatal(got)
		}
		for range cap(p.slots) {
			p.slots <- struct{}{}
		}
		if got := attempt(t.Context(), p, known, "192.0.2.9", right); got != "ok" {
			t.Errorf("remembered: %s, want ok", got)
		}
		ctx, cancel := context.WithTimeoutCause(t.Context(), time.Second, errLate)
		defer cancel()
		if got := attempt(ctx, p, known, "192.0.2.2", wrong); got != errLate.Error() {
			t.Errorf("waited too long: %s", got)
		}

		got := map[string]int{}
		var mu sync.Mutex
		var group sync.WaitGroup
		for range 5 {
			group.Go(func() {
				verdict := attempt(t.Context(), p, known, "192.0.2.3", wrong)
				mu.Lock()
				defer mu.Unlock()
				got[verdict]++
			})
		}
		synctest.Wait()
		if len(got) > 0 {
			t.Errorf("%v without a free processor", got)
		}
		<-p.slots
		group.Wait()
		if got["failed"] != 1 || got["throttled"] != 4 {
			t.Errorf("%v, want 1 failed and 4 throttled", got)
		}
		if n := len(p.slots); n != cap(p.slots)-1 {
			t.Errorf("%d slots taken, want %d", n, cap(p.slots)-1)
		}
	})
}

// inLine returns a session, for which so much time is left to negotiate, whose
// password waits for its turn: all processors compute until free is called.
func inLine(t *testing.T, left time.Duration) (client *net.TCPConn, lines *bytes.Buffer, ended chan struct{}, free func()) {
	t.Helper()
	known := monica(t)
	s, client, ctx := newSession(t, "timeout.negotiate: 3600\nclient pass { from: 0/0 to: 0/0 }\nsocks pass { from: 0/0 to: 0/0 }\n", time.Hour-left)
	s.gen.policy.Users, s.gen.decide.Logins = known, true
	lines, ended = new(bytes.Buffer), make(chan struct{})
	s.server.opts.Logger = slog.New(slog.NewTextHandler(lines, nil))
	slots := s.server.passwords.slots
	for range cap(slots) {
		slots <- struct{}{}
	}
	go func() { live(ctx, s); close(ended) }()
	err := errors.Join(socks.WriteGreeting(client, socks.Username), socks.WriteCredentials(client, right))
	if _, read := io.ReadFull(client, make([]byte, 2)); read != nil || err != nil {
		t.Fatal(err, read)
	}
	return client, lines, ended, func() {
		for range cap(slots) {
			<-slots
		}
	}
}

// A client that leaves while it waits for its turn is forgotten at once, and
// costs no hash.
func TestHangUpWhileHashesWait(t *testing.T) {
	client, lines, ended, free := inLine(t, time.Hour)
	client.Close()
	select {
	case <-ended:
	case <-time.After(patient):
		t.Errorf("the session still waits after %v", patient)
		free()
		<-ended
	}
	if !strings.Contains(lines.String(), "reason=client_gone") {
		t.Errorf("log %q, want client_gone", lines)
	}
}

// The negotiation's deadline holds after a wait in which the client was watched.
func TestDeadlineAfterHashesWaited(t *testing.T) {
	client, lines, ended, free := inLine(t, 2*time.Second)
	time.AfterFunc(100*time.Millisecond, free) // by then the client is watched
	if b, err := io.ReadAll(client); err != nil {
		t.Errorf("%q, %v; want the end", b, err)
		client.Close()
	}
	if <-ended; !strings.Contains(lines.String(), "reason=negotiation_timeout") {
		t.Errorf("log %q, want negotiation_timeout", lines)
	}
}

// Nor does a wait that does not end go on beyond it.
func TestDeadlineWhileHashesWait(t *testing.T) {
	client, lines, ended, free := inLine(t, 300*time.Millisecond)
	if b, err := io.ReadAll(client); err != nil {
		t.Errorf("%q, %v; want the end", b, err)
		client.Close()
	}
	if <-ended; !strings.Contains(lines.String(), "reason=negotiation_timeout") {
		t.Errorf("log %q, want negotiation_timeout", lines)
	}
	free()
}

// Who is gone when the turn comes costs no hash, though both may come at once.
func TestNoHashForWhoIsGone(t *testing.T) {
	known, p := monica(t), newPasswords(0)
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(errGone)
	for range 50 {
		if got := attempt(ctx, p, known, "192.0.2.1", right); got != errGone.Error() {
			t.Fatalf("%s, want %v", got, errGone)
		}
	}
}
