package proxy

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"syscall"
	"testing"
	"time"

	"usher/limiter"
	"usher/proxy/rules"
	"usher/store/memstore"
)

// patient bounds every wait of these tests.
const patient = 10 * time.Second

// newSession returns a session that began a while ago, in no goroutine of its
// own, its client's end, and the context to run it in.
func newSession(t *testing.T, text string, ago time.Duration) (*session, *net.TCPConn, context.Context) {
	t.Helper()
	set, found := rules.Parse("sockd.conf", []byte(text), rules.Env{})
	if set == nil {
		t.Fatalf("rules: %v", found)
	}
	st := memstore.New()
	l := limiter.New(limiter.Options{Store: st, TTL: 10 * time.Second, StoreWait: time.Second})
	t.Cleanup(func() {
		leaving, cancel := context.WithTimeout(context.Background(), patient)
		defer cancel()
		if err := errors.Join(l.Close(leaving), st.Close()); err != nil {
			t.Error(err)
		}
	})
	client, ours := pair(t)
	ctx, cancel := context.WithCancelCause(t.Context())
	t.Cleanup(func() { cancel(nil) })
	s := &session{server: New(Options{Limiter: l}, &Policy{Rules: set}), client: ours, began: time.Now().Add(-ago), end: cancel}
	if !s.server.table.add(s) {
		t.Fatal("the server has stopped")
	}
	t.Cleanup(func() {
		s.server.table.remove(s)
		s.server.table.running.Done()
	})
	if err := client.SetDeadline(time.Now().Add(patient)); err != nil {
		t.Fatal(err)
	}
	return s, client, ctx
}

// When run returns, the slot is given back: by then the client's connection
// has to be closed, or it would outlive the slot that it is counted by.
func TestClosedBeforeRelease(t *testing.T) {
	s, client, ctx := newSession(t, "client pass { from: 0/0 to: 0/0\n session.max: 1 }\nsocks pass { from: 0/0 to: 0/0 }\n", 0)
	if _, err := client.Write([]byte{9}); err != nil {
		t.Fatal(err)
	}
	if err := s.run(ctx); outcomeOf(err).reason != "protocol" {
		t.Fatalf("run: %v", err)
	}
	if err := client.SetDeadline(time.Now().Add(time.Second)); err != nil {
		t.Fatal(err)
	}
	if n, err := client.Read(make([]byte, 1)); !errors.Is(err, io.EOF) && !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("read %d, %v; want the end: the slot is given back already", n, err)
	}
	if g, err := s.server.opts.Limiter.Admit(ctx, s.gen.limit(s.clientRule)); err != nil {
		t.Errorf("the slot is not given back: %v", err)
	} else {
		g.Release()
	}
}

// The negotiation's deadline counts from the accept: of its hour all but a
// moment has passed before the rules were asked.
func TestDeadlineCountsFromAccept(t *testing.T) {
	s, client, ctx := newSession(t, "timeout.negotiate: 3600\nclient pass { from: 0/0 to: 0/0 }\nsocks pass { from: 0/0 to: 0/0 }\n",
		time.Hour-100*time.Millisecond)
	ended := make(chan error, 1)
	go func() { ended <- s.run(ctx) }()
	if _, err := client.Read(make([]byte, 1)); errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("the session is still waiting after %v", patient)
		client.Close()
	}
	if err := <-ended; !errors.Is(err, errLate) {
		t.Errorf("ended with %v, want %v", err, errLate)
	}
}
