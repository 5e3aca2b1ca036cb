package agent

import (
	"fmt"
	"io"
	"net"
	"os"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"usher/proxy/admin"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestLine(t *testing.T) {
	weight := func() int { return 42 }
	for unready, want := range map[string]string{
		"":             "up ready 42%\n",
		admin.Draining: "drain\n",
		admin.Drained:  "drain\n",
		admin.Starting: "down #" + admin.Starting + "\n",
		"two\nlines":   "down #two lines\n",
	} {
		if got := Line(unready, weight); got != want {
			t.Errorf("%q: %q, want %q", unready, got, want)
		}
	}
}

func TestWeight(t *testing.T) {
	for _, c := range []struct{ used, limit, want int }{
		{0, 100, 100}, {1, 100, 99}, {50, 100, 50}, {99, 100, 1}, {100, 100, 1}, {200, 100, 1},
		{1, 1000000, 99}, {999999, 1000000, 1}, {5, 0, 100}, {2_000_000_000, 2_147_483_647, 6},
	} {
		if got := Weight(c.used, c.limit); got != c.want {
			t.Errorf("%d of %d: %d%%, want %d%%", c.used, c.limit, got, c.want)
		}
	}
}

func TestDescriptors(t *testing.T) {
	before := Descriptors(1000)
	if before < 3 {
		t.Fatal(before)
	}
	f, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if got := Descriptors(1000); got != before+1 {
		t.Errorf("%d, want %d", got, before+1)
	}
}

// Without a descriptor left to count them, all are in use.
func TestNoDescriptorLeft(t *testing.T) {
	var was syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &was); err != nil {
		t.Fatal(err)
	}
	low := was
	low.Cur = 3 // standard streams
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &low); err != nil {
		t.Fatal(err)
	}
	got := Descriptors(1000)
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &was); err != nil {
		t.Fatal(err)
	}
	if got != 1000 {
		t.Errorf("%d in use, want all 1000", got)
	}
}

// A check gets its line and the end, also if it sends something (agent-send) or
// never closes. Close ends all.
func TestServe(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := New(Options{Unready: func() string { return "" }, Weight: func() int { return 7 }})
	served := make(chan error)
	go func() { served <- s.Serve(ln) }()
	for i := range 2 * maxChecks {
		conn, err := net.Dial("tcp", ln.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		fmt.Fprintf(conn, "check %d\n", i)
		if err := conn.SetDeadline(time.Now().Add(time.Minute)); err != nil {
			t.Fatal(err)
		}
		if got, err := io.ReadAll(conn); string(got) != "up ready 7%\n" || err != nil {
			t.Errorf("%q, %v", got, err)
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-served; err != nil {
		t.Error(err)
	}
	again, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Serve(again); err != nil {
		t.Errorf("after Close: %v", err)
	}
	if err := s.Close(); err != nil {
		t.Errorf("closed twice: %v", err)
	}
}

// Connections that stay silent do not keep a check waiting: it gets its line at once, and
// the oldest ones of their address are closed.
func TestSilentConnectionsDelayNoCheck(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := New(Options{Unready: func() string { return "" }, Weight: func() int { return 7 }})
	served := make(chan error)
	go func() { served <- s.Serve(ln) }()
	dial := func(from string) net.Conn {
		d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}
		conn, err := d.Dial("tcp", ln.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		if err := conn.SetDeadline(time.Now().Add(time.Minute)); err != nil {
			t.Fatal(err)
		}
		return conn
	}
	const silent = 100 * maxChecks // they would take 100 times patience
	for range silent {
		dial("127.0.0.3")
	}
	if got, err := io.ReadAll(dial("127.0.0.1")); string(got) != "up ready 7%\n" || err != nil {
		t.Errorf("%q, %v", got, err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-served; err != nil {
		t.Error(err)
	}
}
