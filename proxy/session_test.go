package proxy

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"usher/limiter"
	"usher/proxy/decide"
	"usher/proxy/resolve"
	"usher/proxy/rules"
	"usher/proxy/socks"
	"usher/store/memstore"
)

// patient is the time limit of every wait in these tests.
const patient = time.Minute

// newSession returns a session that began a while ago, its client's end, and the
// context for live. The test must call live.
func newSession(t *testing.T, text string, ago time.Duration) (*session, *net.TCPConn, context.Context) {
	t.Helper()
	set, found := rules.Parse("sockd.conf", []byte(text), rules.Env{})
	if set == nil {
		t.Fatalf("rules: %v", found)
	}
	st := memstore.New()
	l := limiter.New(limiter.Options{Store: st, TTL: 10 * time.Second, StoreWait: patient})
	t.Cleanup(func() {
		leaving, cancel := context.WithTimeout(context.Background(), patient)
		defer cancel()
		if err := errors.Join(l.Close(leaving), st.Close()); err != nil {
			t.Error(err)
		}
	})
	client, ours := pair(t)
	s := &session{server: New(Options{Limiter: l}, &Policy{Rules: set}), client: ours, began: time.Now().Add(-ago), opening: newOpening(ours), grant: l.NewGrant()}
	ctx := s.sockets.begin(ours)
	if !s.server.table.add(s) {
		t.Fatal("the server has stopped")
	}
	t.Cleanup(func() { // a test that has failed may have left it running
		s.sockets.cut(errDrain)
		s.server.table.running.Wait()
	})
	if err := client.SetDeadline(time.Now().Add(patient)); err != nil {
		t.Fatal(err)
	}
	return s, client, ctx
}

// live runs a session to its end.
func live(ctx context.Context, s *session) {
	s.serve(ctx)
	s.server.table.running.Wait()
}

// pair returns two ends of a TCP connection.
func pair(t *testing.T) (a, b *net.TCPConn) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	dialled, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	accepted, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { dialled.Close(); accepted.Close() })
	return dialled.(*net.TCPConn), accepted.(*net.TCPConn)
}

// A session's sockets are closed before its slot is given back. Otherwise they would
// outlive the slot that counts them.
func TestClosedBeforeRelease(t *testing.T) {
	s, client, ctx := newSession(t, "client pass { from: 0/0 to: 0/0\n session.max: 1 }\nsocks pass { from: 0/0 to: 0/0 }\n", 0)
	admit := func() error {
		g, err := s.server.opts.Limiter.Admit(t.Context(), s.gen.limit(s.clientRule, s.from.Addr(), ""))
		g.Release()
		return err
	}
	closed := false
	s.sockets.closeOnEnd(closer(func() {
		if closed = true; !errors.Is(admit(), limiter.ErrFull) {
			t.Error("the slot is given back before the sockets are closed")
		}
		if n, err := client.Read(make([]byte, 1)); !errors.Is(err, io.EOF) && !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("read %d, %v; want the end", n, err)
		}
	}))
	if _, err := client.Write([]byte{9}); err != nil {
		t.Fatal(err)
	}
	live(ctx, s)
	if !closed {
		t.Error("not closed")
	}
	if err := admit(); err != nil {
		t.Errorf("the slot is not given back: %v", err)
	}
}

// The negotiation deadline counts from the accept. In this test, almost all of its hour
// is over when the rules are asked.
func TestDeadlineCountsFromAccept(t *testing.T) {
	s, client, ctx := newSession(t, "timeout.negotiate: 3600\nclient pass { from: 0/0 to: 0/0 }\nsocks pass { from: 0/0 to: 0/0 }\n",
		time.Hour-100*time.Millisecond)
	var lines bytes.Buffer
	s.server.opts.Logger = slog.New(slog.NewTextHandler(&lines, nil))
	ended := make(chan struct{})
	go func() { live(ctx, s); close(ended) }()
	if _, err := client.Read(make([]byte, 1)); errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("the session is still waiting after %v", patient)
		client.Close()
	}
	if <-ended; !strings.Contains(lines.String(), "reason=negotiation_timeout") {
		t.Errorf("log %q, want negotiation_timeout", &lines)
	}
}

// The negotiation deadline ends a client-rule's lookup of a name. Then there is no
// verdict: the rule whose name is not known might block.
func TestDeadlineOfClientRules(t *testing.T) {
	s, client, ctx := newSession(t, `timeout.negotiate: 3600
client block { from: slow.test to: 0/0 }
client pass { from: 0/0 to: 0/0 }
socks pass { from: 0/0 to: 0/0 }
`, time.Hour-100*time.Millisecond)
	s.server.names = resolve.NewCache(slowResolver(time.Hour), 0, nil)
	t.Cleanup(s.server.names.Wait)
	var lines bytes.Buffer
	s.server.opts.Logger = slog.New(slog.NewTextHandler(&lines, nil))
	ended := make(chan struct{})
	go func() { live(ctx, s); close(ended) }()
	if _, err := client.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("%v, want the end", err)
		s.sockets.cut(errDrain)
	}
	if <-ended; !strings.Contains(lines.String(), "reason=negotiation_timeout") || s.clientRule != nil {
		t.Errorf("log %q, want negotiation_timeout and no rule", &lines)
	}
}

// Each reason for which clients are closed is reported, even if another one was
// reported just before.
func TestTurnedAwayForTwoReasons(t *testing.T) {
	var lines bytes.Buffer
	s := &Server{opts: Options{Logger: slog.New(slog.NewTextHandler(&lines, nil)), Metrics: NewMetrics(nil)}}
	for range 3 {
		s.turnAway("negotiating", "too many")
		s.turnAway("descriptors", "none left")
	}
	for _, want := range []string{"reason=negotiating", "reason=descriptors"} {
		if n := strings.Count(lines.String(), want); n != 1 {
			t.Errorf("%s: %d lines, want one", want, n)
		}
	}
}

// slowResolver is a resolver that answers after a while, unless it is cancelled.
type slowResolver time.Duration

func (r slowResolver) LookupNetIP(ctx context.Context, _, _ string) ([]netip.Addr, error) {
	select {
	case <-time.After(time.Duration(r)):
		return []netip.Addr{netip.MustParseAddr("192.0.2.1")}, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// noting is a resolver that records that it was asked.
type noting struct {
	asked atomic.Bool
	addr  netip.Addr
}

func (r *noting) LookupNetIP(context.Context, string, string) ([]netip.Addr, error) {
	r.asked.Store(true)
	return []netip.Addr{r.addr}, nil
}

// If a session loses its lease while it negotiates, nothing begins for it, and its
// client is told neither a method nor a verdict.
func TestLostLeaseBeforeTheReply(t *testing.T) {
	const pass = "socks pass { from: 0/0 to: 0/0 }\n"
	for _, c := range []struct {
		when, socksRules string
		early            bool // before a byte was written; else while the target is looked up
		want, reason     string
	}{
		{"negotiating", pass, true, "", "lease_lost"},
		{"refusing", "socks block { from: 0/0 to: 127.0.0.0/8 }\n" + pass, false, "\x05\x00", "blocked"},
		{"connecting", pass, false, "\x05\x00", "lease_lost"},
	} {
		t.Run(c.when, func(t *testing.T) {
			target, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { target.Close() })
			s, client, ctx := newSession(t, "client pass { from: 0/0 to: 0/0 }\n"+c.socksRules, 0)
			resolver := &noting{addr: loopback}
			s.server.names = resolve.NewCache(resolver, 0, nil)
			t.Cleanup(s.server.names.Wait)
			s.valid = func() bool { return !c.early && !resolver.asked.Load() }
			var said bytes.Buffer
			to := socks.Addr{Name: "target.test", Port: uint16(target.Addr().(*net.TCPAddr).Port)}
			if err := errors.Join(socks.WriteGreeting(&said, socks.NoAuth),
				socks.WriteRequest(&said, socks.Request{Version: socks.V5, Command: socks.Connect, Addr: to})); err != nil {
				t.Fatal(err)
			}
			wantAnswers(ctx, t, s, client, said.Bytes(), c.want, c.reason)
			if asked := resolver.asked.Load(); asked == c.early {
				t.Errorf("the target was looked up: %v, want %v", asked, !c.early)
			}
		})
	}
}

// Nor is the client told that its password is right.
func TestLostLeaseBeforeTheVerdictOnAPassword(t *testing.T) {
	s, client, ctx := newSession(t, "client pass { from: 0/0 to: 0/0 }\nsocks pass { from: 0/0 to: 0/0 }\n", 0)
	known := monica(t)
	s.gen.policy.Users, s.gen.decide.Logins = known, true
	s.valid = func() bool { return !known.Remembers(right.User, right.Password) } // until it was checked
	var said bytes.Buffer
	if err := errors.Join(socks.WriteGreeting(&said, socks.Username), socks.WriteCredentials(&said, right)); err != nil {
		t.Fatal(err)
	}
	wantAnswers(ctx, t, s, client, said.Bytes(), "\x05\x02", "lease_lost")
}

// wantAnswers runs a session whose client sends everything at once, so that nothing
// comes after the end, and checks the answers.
func wantAnswers(ctx context.Context, t *testing.T, s *session, client *net.TCPConn, said []byte, want, reason string) {
	t.Helper()
	var lines bytes.Buffer
	s.server.opts.Logger = slog.New(slog.NewTextHandler(&lines, nil))
	if _, err := client.Write(said); err != nil {
		t.Fatal(err)
	}
	go live(ctx, s)
	if b, err := io.ReadAll(client); string(b) != want || err != nil {
		t.Errorf("%q, %v; want %q and the end", b, err, want)
		s.sockets.cut(errDrain)
	}
	s.server.table.running.Wait()
	if log := lines.String(); !strings.Contains(log, "reason="+reason) {
		t.Errorf("log %q, want %s", log, reason)
	}
}

// A refusal has its own second. It is sent even if the time to negotiate is over, and
// does not wait longer for a client that reads nothing.
func TestRefusalHasASecond(t *testing.T) {
	t.Parallel()
	s, client, _ := newSession(t, "client pass { from: 0/0 to: 0/0 }\nsocks pass { from: 0/0 to: 0/0 }\n", 0)
	t.Cleanup(s.server.table.running.Done) // it is not let live
	s.request.Version = socks.V5
	s.setDeadline(time.Now())
	s.refuse(decide.ErrBlocked)
	if r, err := socks.ReadReply(client, socks.V5); err != nil || r.Code != socks.NotAllowed {
		t.Fatalf("%+v, %v; want reply %d", r, err, socks.NotAllowed)
	}

	for n := 1; n > 0; { // until not a byte more fits in
		s.setDeadline(time.Now().Add(200 * time.Millisecond))
		n, _ = s.client.Write(make([]byte, 1<<20))
	}
	s.setDeadline(time.Time{})
	over := make(chan struct{})
	go func() { s.refuse(decide.ErrBlocked); close(over) }()
	select {
	case <-over:
	case <-time.After(patient):
		t.Errorf("the refusal still waits after %v", patient)
		s.client.Close()
		<-over
	}
}

// A client that a client-rule blocks is closed without waiting for its first byte. The
// session begins in an hour, so that such a wait would last.
func TestBlockedClientIsClosedAtOnce(t *testing.T) {
	s, client, ctx := newSession(t, "client block { from: 0/0 to: 0/0 }\n", -time.Hour)
	go s.serve(ctx)
	if n, err := client.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("read %d, %v; want the end", n, err)
	}
	s.server.table.running.Wait()
}

// The first bytes of a blocked client tell whether it is a balancer that is missing in
// USHER_PROXY_PROTOCOL_FROM.
func TestBlockedBalancerIsNamed(t *testing.T) {
	const remedy = "add it to USHER_PROXY_PROTOCOL_FROM"
	trusted := []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}
	for _, c := range []struct {
		sent    string
		trusted []netip.Prefix
		want    bool
	}{
		{"PROXY TCP4 192.0.2.7 192.0.2.1 4711 1080\r\n", nil, true},
		{"\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x0c", nil, true},
		{"PROXY TCP4 192.0.2.7 192.0.2.1 4711 1080\r\n", trusted, false}, // what is left is the client's
		{"\x05\x01\x00", nil, false},
		{"GET / HTTP/1.1\r\n\r\n", nil, false},
	} {
		s, client, _ := newSession(t, "client block { from: 0/0 to: 0/0 }\n", 0)
		s.server.opts.TrustedProxies = c.trusted
		if _, err := client.Write([]byte(c.sent)); err != nil {
			t.Fatal(err)
		}
		if err := awaitByte(s.client); err != nil {
			t.Fatal(err)
		}
		err := s.blocked()
		if !errors.Is(err, decide.ErrBlocked) || strings.Contains(err.Error(), remedy) != c.want {
			t.Errorf("%q: %v, want the remedy: %v", c.sent, err, c.want)
		}
		go s.finish(err)
		s.server.table.running.Wait()
	}
}
