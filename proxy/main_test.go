package proxy_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"
	"golang.org/x/crypto/bcrypt"

	"usher/limiter"
	"usher/proxy"
	"usher/proxy/rules"
	"usher/proxy/socks"
	"usher/proxy/users"
	"usher/store/memstore"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience bounds every wait of these tests.
const patience = 10 * time.Second

// anybody is the rule file in which everything is allowed.
const anybody = `
client pass { from: 0/0 to: 0/0 }
socks pass { from: 0/0 to: 0/0 }
`

// world is a server on a loopback port, with its limiter and its log.
type world struct {
	t       *testing.T
	server  *proxy.Server
	limiter *limiter.Limiter
	metrics *prometheus.Registry
	addr    string
	log     *log
	fds     int // open before any client came
}

// setup changes what a world is made of.
type setup func(*proxy.Options, *proxy.Policy)

func withUser(t *testing.T, user, password string) setup {
	t.Helper()
	hash, err := bcrypt.GenerateFromPassword([]byte(password), bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "users")
	if err := os.WriteFile(file, []byte(user+":"+string(hash)+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	checker, err := users.Load(file)
	if err != nil {
		t.Fatal(err)
	}
	return func(_ *proxy.Options, p *proxy.Policy) { p.Users = checker }
}

func policy(t *testing.T, text string) *proxy.Policy {
	t.Helper()
	set, found := rules.Parse("sockd.conf", []byte(text), rules.Env{})
	if set == nil {
		t.Fatalf("rules: %v", found)
	}
	return &proxy.Policy{Rules: set}
}

func newWorld(t *testing.T, text string, setups ...setup) *world {
	t.Helper()
	w := &world{t: t, metrics: prometheus.NewRegistry(), log: new(log)}
	st := memstore.New()
	w.limiter = limiter.New(limiter.Options{Store: st, TTL: 10 * time.Second, StoreWait: time.Second})
	o := proxy.Options{Limiter: w.limiter, Logger: slog.New(slog.NewJSONHandler(w.log, nil)), Metrics: proxy.NewMetrics(w.metrics)}
	p := policy(t, text)
	for _, s := range setups {
		s(&o, p)
	}
	w.server = proxy.New(o, p)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	w.addr = ln.Addr().String()
	served := make(chan error, 1)
	go func() { served <- w.server.Serve(ln) }()
	t.Cleanup(func() {
		if err := w.server.CloseListeners(); err != nil {
			t.Error(err)
		}
		if err := <-served; err != nil {
			t.Errorf("Serve: %v", err)
		}
		over, cancel := context.WithCancel(context.Background())
		cancel()
		w.server.Drain(over)
		leaving, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := errors.Join(w.limiter.Close(leaving), st.Close()); err != nil {
			t.Error(err)
		}
	})
	w.fds = descriptors(t)
	return w
}

// slots reports how many slots of a rule with this maximum are free.
func (w *world) slots(rule string, maximum int64) int {
	w.t.Helper()
	list := w.server.Generations()
	limit := limiter.Limit{Rule: list[len(list)-1].Digest + "/" + rule, Max: maximum}
	n := 0
	for {
		g, err := w.limiter.Admit(w.t.Context(), limit)
		if errors.Is(err, limiter.ErrFull) {
			return n
		}
		if err != nil {
			w.t.Fatal(err)
		}
		defer g.Release()
		n++
	}
}

// left waits until no session, no descriptor and no slot of rule is in use.
func (w *world) left(rule string, maximum int64) {
	w.t.Helper()
	eventually(w.t, func() string {
		list := w.server.Generations()
		if n := list[len(list)-1].Sessions; n != 0 {
			return fmt.Sprintf("%d sessions left", n)
		}
		if n := descriptors(w.t); n > w.fds {
			return fmt.Sprintf("%d descriptors open, %d before", n, w.fds)
		}
		if rule != "" {
			if n := w.slots(rule, maximum); n != int(maximum) {
				return fmt.Sprintf("%d of %d slots of %s free", n, maximum, rule)
			}
		}
		return ""
	})
}

// metric returns the value of a counter or gauge with these labels.
func (w *world) metric(name string, labels ...string) float64 {
	w.t.Helper()
	families, err := w.metrics.Gather()
	if err != nil {
		w.t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() != name {
			continue
		}
	series:
		for _, m := range f.Metric {
			if len(m.Label) != len(labels)/2 {
				continue
			}
			for i := 0; i < len(labels); i += 2 {
				ok := false
				for _, l := range m.Label {
					ok = ok || l.GetName() == labels[i] && l.GetValue() == labels[i+1]
				}
				if !ok {
					continue series
				}
			}
			return m.GetCounter().GetValue() + m.GetGauge().GetValue()
		}
	}
	return 0
}

func descriptors(t *testing.T) int {
	t.Helper()
	list, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(list)
}

// eventually polls until wrong has nothing to complain about.
func eventually(t *testing.T, wrong func() string) {
	t.Helper()
	end := time.Now().Add(patience)
	for {
		trouble := wrong()
		if trouble == "" {
			return
		}
		if time.Now().After(end) {
			t.Fatal(trouble)
		}
		time.Sleep(2 * time.Millisecond)
	}
}

// log keeps JSON lines.
type log struct {
	mu    sync.Mutex
	lines []map[string]any
}

func (l *log) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for line := range bytes.Lines(b) {
		var m map[string]any
		if err := json.Unmarshal(line, &m); err != nil {
			return 0, err
		}
		l.lines = append(l.lines, m)
	}
	return len(b), nil
}

// wait returns the log's lines once there are n.
func (l *log) wait(t *testing.T, n int) []map[string]any {
	t.Helper()
	var lines []map[string]any
	eventually(t, func() string {
		l.mu.Lock()
		defer l.mu.Unlock()
		lines = append(lines[:0], l.lines...)
		if len(lines) < n {
			return fmt.Sprintf("%d log lines, want %d: %v", len(lines), n, lines)
		}
		return ""
	})
	if len(lines) != n {
		t.Fatalf("%d log lines, want %d: %v", len(lines), n, lines)
	}
	return lines
}

// reason waits for the log's only line and checks why the session ended.
func (w *world) reason(want string) map[string]any {
	w.t.Helper()
	line := w.log.wait(w.t, 1)[0]
	if line["reason"] != want {
		w.t.Errorf("log %v, want reason %q", line, want)
	}
	return line
}

// client is a connection to a server under test, with a deadline.
type client struct {
	t *testing.T
	*net.TCPConn
}

func (w *world) client() *client {
	w.t.Helper()
	conn, err := net.Dial("tcp", w.addr)
	if err != nil {
		w.t.Fatal(err)
	}
	c := &client{w.t, conn.(*net.TCPConn)}
	c.must(c.SetDeadline(time.Now().Add(patience)))
	w.t.Cleanup(func() { c.Close() })
	return c
}

func (c *client) must(err error) {
	c.t.Helper()
	if err != nil {
		c.t.Fatal(err)
	}
}

func (c *client) send(b []byte) {
	c.t.Helper()
	_, err := c.Write(b)
	c.must(err)
}

// expect reads exactly these bytes.
func (c *client) expect(want []byte) {
	c.t.Helper()
	got := make([]byte, len(want))
	n, err := io.ReadFull(c, got)
	if err != nil || !bytes.Equal(got, want) {
		c.t.Fatalf("read %q, %v; want %q", got[:n], err, want)
	}
}

// skip reads n bytes that the test cannot know.
func (c *client) skip(n int64) {
	c.t.Helper()
	_, err := io.CopyN(io.Discard, c, n)
	c.must(err)
}

// closed checks that the server closes without another byte, and closes too.
func (c *client) closed() {
	c.t.Helper()
	b, err := io.ReadAll(c)
	if len(b) > 0 || err != nil && !errors.Is(err, syscall.ECONNRESET) {
		c.t.Fatalf("%q, %v; want the end", b, err)
	}
	c.Close()
}

// request negotiates without a password and asks.
func (c *client) request(q socks.Request) socks.Reply {
	c.t.Helper()
	if q.Command == 0 {
		q.Command = socks.Connect
	}
	if q.Version == 0 {
		q.Version = socks.V5
		c.must(socks.WriteGreeting(c, socks.NoAuth))
		c.expect([]byte{5, 0})
	}
	c.must(socks.WriteRequest(c, q))
	reply, err := socks.ReadReply(c, q.Version)
	c.must(err)
	return reply
}

// connect asks for a and wants the answer code.
func (c *client) connect(a socks.Addr, want socks.Code) socks.Reply {
	c.t.Helper()
	reply := c.request(socks.Request{Addr: a})
	if reply.Code != want {
		c.t.Fatalf("%v: reply %d, want %d", a, reply.Code, want)
	}
	if want != socks.Succeeded {
		c.closed()
	}
	return reply
}

// echoes checks that what is sent comes back.
func (c *client) echoes(text string) {
	c.t.Helper()
	c.send([]byte(text))
	c.expect([]byte(text))
}

// target serves every connection with handle until the test ends.
func target(t *testing.T, network string, handle func(*net.TCPConn)) socks.Addr {
	t.Helper()
	if network == "tcp6" {
		return targetAt(t, "[::1]:0", handle)
	}
	return targetAt(t, "127.0.0.1:0", handle)
}

func targetAt(t *testing.T, address string, handle func(*net.TCPConn)) socks.Addr {
	t.Helper()
	ln, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	var conns sync.WaitGroup
	conns.Go(func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			conns.Go(func() {
				defer conn.Close()
				conn.SetDeadline(time.Now().Add(patience))
				handle(conn.(*net.TCPConn))
			})
		}
	})
	t.Cleanup(func() {
		ln.Close()
		conns.Wait()
	})
	return socks.AddrOf(ln.Addr().(*net.TCPAddr).AddrPort())
}

// echo sends back what it gets, and ends when its peer ends.
func echo(t *testing.T) socks.Addr { return target(t, "tcp4", echoing) }

// echoing hides what c is: splicing would keep the descriptors of a pipe.
func echoing(c *net.TCPConn) { io.Copy(struct{ io.Writer }{c}, struct{ io.Reader }{c}) }

// names is a resolver without a network.
type names map[string][]netip.Addr

func (n names) LookupNetIP(_ context.Context, _, host string) ([]netip.Addr, error) {
	if addrs := n[host]; addrs != nil {
		return addrs, nil
	}
	return nil, &net.DNSError{Err: "no such host", Name: host, IsNotFound: true}
}

func withNames(n names) setup { return func(o *proxy.Options, _ *proxy.Policy) { o.Resolver = n } }

// blackhole returns an address whose connections are neither accepted nor
// refused: its queue is full.
func blackhole(t *testing.T) socks.Addr {
	t.Helper()
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { syscall.Close(fd) })
	if err := errors.Join(syscall.Bind(fd, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}), syscall.Listen(fd, 0)); err != nil {
		t.Fatal(err)
	}
	name, err := syscall.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	addr := netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), uint16(name.(*syscall.SockaddrInet4).Port))
	for range 8 {
		conn, err := net.DialTimeout("tcp", addr.String(), 200*time.Millisecond)
		if err != nil {
			return socks.AddrOf(addr)
		}
		t.Cleanup(func() { conn.Close() })
	}
	t.Fatal("the queue does not fill")
	return socks.Addr{}
}

// refused returns an address where nobody listens.
func refused(t *testing.T) socks.Addr {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	return socks.AddrOf(ln.Addr().(*net.TCPAddr).AddrPort())
}
