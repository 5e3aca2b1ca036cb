package proxy

import (
	"bytes"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/bcrypt"

	"usher/proxy/fair"
	"usher/proxy/socks"
	"usher/proxy/users"
)

var right = socks.Credentials{User: "monica", Password: "sesame"}

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

// inLine returns a session whose password waits for its turn, with this much time left
// to negotiate. Other hashes are computed until free is called. If the machine is too
// busy for a session to get there in time, it gets more time.
func inLine(t *testing.T, left time.Duration) (client *net.TCPConn, lines *bytes.Buffer, ended chan struct{}, free func()) {
	t.Helper()
	known := monica(t)
	for range 8 {
		if client, lines, ended, free, ok := tryInLine(t, known, left); ok {
			return client, lines, ended, free
		}
		left *= 2
	}
	t.Fatalf("no session gets to its password within %v", left/2)
	return nil, nil, nil, nil
}

func tryInLine(t *testing.T, known *users.Checker, left time.Duration) (client *net.TCPConn, lines *bytes.Buffer, ended chan struct{}, free func(), ok bool) {
	t.Helper()
	s, client, ctx := newSession(t, "timeout.negotiate: 3600\nclient pass { from: 0/0 to: 0/0 }\nsocks pass { from: 0/0 to: 0/0 }\n", time.Hour-left)
	s.gen.policy.Users, s.gen.decide.Logins = known, true
	lines, ended = new(bytes.Buffer), make(chan struct{})
	s.server.opts.Logger = slog.New(slog.NewTextHandler(lines, nil))
	queue := s.server.hashes
	busy := func(i int) netip.Prefix {
		return fair.SourceOf(netip.AddrFrom4([4]byte{192, 0, 2, byte(i)}))
	}
	for i := range queue.Size {
		if err := queue.Acquire(t.Context(), busy(i)); err != nil {
			t.Fatal(err)
		}
	}
	go func() { live(ctx, s); close(ended) }()
	free = func() {
		for i := range queue.Size {
			queue.Release(busy(i))
		}
	}
	err := errors.Join(socks.WriteGreeting(client, socks.Username), socks.WriteCredentials(client, right))
	if _, read := io.ReadFull(client, make([]byte, 2)); read != nil || err != nil {
		client.Close()
		<-ended
		free()
		if !strings.Contains(lines.String(), "reason=negotiation_timeout") {
			t.Fatalf("%v, %v; log %q", err, read, lines)
		}
		return nil, nil, nil, nil, false
	}
	return client, lines, ended, free, true
}

// Watched reports whether a session watches its client and has found it connected.
func Watched() bool {
	stacks := make([]byte, 16<<20)
	stacks = stacks[:runtime.Stack(stacks, true)]
	for stack := range strings.SplitSeq(string(stacks), "\n\n") {
		if strings.Contains(stack, "[IO wait") && strings.Contains(stack, "proxy.(*session).watch.") {
			return true
		}
	}
	return false
}

// A client that leaves while it waits for its turn is forgotten at once. No hash is
// computed for it.
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
	t.Parallel()
	client, lines, ended, free := inLine(t, 2*time.Second)
	for over := false; !over && !Watched(); {
		select {
		case <-ended:
			over = true // the deadline was quicker
		case <-time.After(time.Millisecond):
		}
	}
	free()
	if b, err := io.ReadAll(client); err != nil {
		t.Errorf("%q, %v; want the end", b, err)
		client.Close()
	}
	if <-ended; !strings.Contains(lines.String(), "reason=negotiation_timeout") {
		t.Errorf("log %q, want negotiation_timeout", lines)
	}
}

// The same for a wait that does not end: it does not last beyond the deadline.
func TestDeadlineWhileHashesWait(t *testing.T) {
	t.Parallel()
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
