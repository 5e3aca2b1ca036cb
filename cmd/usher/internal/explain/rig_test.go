package explain

import (
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
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"
	"golang.org/x/crypto/bcrypt"

	"usher/limiter"
	"usher/proxy"
	"usher/proxy/decide"
	"usher/proxy/rules"
	"usher/proxy/selfaddr"
	"usher/proxy/users"
	"usher/store/memstore"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience bounds every wait of these tests.
const patience = time.Minute

// rig is a running server, targets for its clients, and explain beside it.
type rig struct {
	t       *testing.T
	server  *proxy.Server
	addr    netip.AddrPort // where it listens
	policy  *proxy.Policy  // in force
	users   *users.Checker
	names   hosts
	metrics *prometheus.Registry
	log     *lines
	logged  int            // lines that were read
	port    uint16         // of all targets
	counted map[string]int // datagrams by what became of them, until now
}

// targets are the addresses at which targets listen, TCP and UDP.
var targets = []string{"127.0.1.1", "127.0.1.2"}

func newRig(t *testing.T) *rig {
	t.Helper()
	r := &rig{t: t, metrics: prometheus.NewRegistry(), log: new(lines), counted: map[string]int{}}
	r.names = hosts{
		"one.test": {"127.0.1.1"}, "two.test": {"127.0.1.2", "127.0.1.1"}, "client.test": {"127.9.0.1"}, "six.test": {"::1", "127.0.1.2"},
		"zero.test": {"0.0.0.0", "127.0.1.1"}, "null.test": {"0.0.0.0", "::"},
	}
	for i := range 64 { // the 65th address of a name counts only in rules
		r.names["many.test"] = append(r.names["many.test"], fmt.Sprintf("127.0.2.%d", i+1))
	}
	r.names["many.test"] = append(r.names["many.test"], "127.0.1.1")
	r.names["lots.test"] = append(slices.Clone(r.names["many.test"]), "127.0.1.2")
	r.listenTargets()
	hash, err := bcrypt.GenerateFromPassword([]byte("sesame"), bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "users")
	if err := os.WriteFile(file, append([]byte("monica:"), hash...), 0o600); err != nil {
		t.Fatal(err)
	}
	if r.users, err = users.Load(file); err != nil {
		t.Fatal(err)
	}
	store := memstore.New()
	lim := limiter.New(limiter.Options{Store: store, TTL: 10 * time.Second, StoreWait: time.Second})
	r.load("client pass { from: 0/0 to: 0/0 }\n", nil)
	r.server = proxy.New(proxy.Options{Limiter: lim, Logger: slog.New(slog.NewJSONHandler(r.log, nil)),
		Metrics: proxy.NewMetrics(r.metrics), Resolver: r.names}, r.policy)
	ln, err := proxy.Listen(t.Context(), "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r.addr = ln.Addr().(*net.TCPAddr).AddrPort()
	served := make(chan error, 1)
	go func() { served <- r.server.Serve(ln) }()
	t.Cleanup(func() {
		over, cancel := context.WithCancel(context.Background())
		cancel()
		err := errors.Join(r.server.CloseListeners(), <-served)
		r.server.Drain(over)
		leaving, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := errors.Join(err, lim.Close(leaving), store.Close()); err != nil {
			t.Error(err)
		}
	})
	return r
}

// listenTargets opens targets that send back what they get.
func (r *rig) listenTargets() {
	r.t.Helper()
	var open []io.Closer
	var running sync.WaitGroup
	r.t.Cleanup(func() {
		for _, c := range open {
			c.Close()
		}
		running.Wait()
	})
	for _, a := range targets {
		ln, err := net.Listen("tcp", net.JoinHostPort(a, fmt.Sprint(r.port)))
		if err != nil {
			r.t.Fatal(err)
		}
		at := ln.Addr().(*net.TCPAddr)
		r.port = uint16(at.Port)
		pc, err := net.ListenUDP("udp", &net.UDPAddr{IP: at.IP, Port: at.Port})
		if err != nil {
			r.t.Fatal(err)
		}
		open = append(open, ln, pc)
		running.Go(func() {
			for {
				c, err := ln.Accept()
				if err != nil {
					return
				}
				c.Close()
			}
		})
		running.Go(func() {
			b := make([]byte, 100)
			for {
				n, from, err := pc.ReadFromUDPAddrPort(b)
				if err != nil {
					return
				}
				pc.WriteToUDPAddrPort(b[:n], from) //nolint:errcheck // as with any datagram
			}
		})
	}
}

// load makes a policy of rules. It reports false if they are refused.
func (r *rig) load(text string, external []netip.Addr) bool {
	set, _ := rules.Parse("random", []byte(text), rules.Env{})
	if set != nil {
		r.policy = &proxy.Policy{Rules: set, Users: r.users, External: external}
	}
	return set != nil
}

// explain asks about the policy in force.
func (r *rig) explain(t failer, q Question) *Answer {
	t.Helper()
	q.Local = r.addr
	machine := decide.Machine{Toward: selfaddr.Toward,
		Own: func(to netip.AddrPort) bool { return selfaddr.Reaches([]netip.AddrPort{r.addr}, to) }}
	a, err := Ask(context.Background(), q, r.policy, machine, r.names)
	if err != nil {
		t.Fatalf("%+v: %v", q, err)
	}
	return a
}

// failer is a *testing.T or a *rapid.T.
type failer interface {
	Helper()
	Fatalf(format string, args ...any)
}

// line returns the next line of the log.
func (r *rig) line(t failer) map[string]any {
	t.Helper()
	r.logged++
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(time.Millisecond) {
		if line := r.log.at(r.logged - 1); line != nil {
			return line
		}
	}
	t.Fatalf("no log line %d", r.logged)
	return nil
}

// datagram returns what became of the next datagram from the client, or of the
// next answer: up, down, or why it was dropped.
func (r *rig) datagram(t failer, answer bool) string {
	t.Helper()
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(time.Millisecond) {
		for kind, n := range r.datagrams(t) {
			if n > r.counted[kind] && answer == slices.Contains([]string{"down", "reply_blocked", "unsolicited"}, kind) {
				r.counted[kind]++
				return kind
			}
		}
	}
	t.Fatalf("no datagram")
	return ""
}

// datagrams returns how many datagrams there were by what became of them.
func (r *rig) datagrams(t failer) map[string]int {
	t.Helper()
	families, err := r.metrics.Gather()
	must(t, err)
	counts := map[string]int{}
	for _, f := range families {
		if strings.HasPrefix(f.GetName(), "usher_udp_datagrams") {
			for _, m := range f.Metric {
				counts[m.Label[0].GetValue()] = int(m.GetCounter().GetValue())
			}
		}
	}
	return counts
}

// settle waits for what a request that failed has left.
func (r *rig) settle(t failer) {
	t.Helper()
	for end := time.Now().Add(patience); r.server.Sessions() > 0; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%d sessions are left", r.server.Sessions())
		}
	}
	r.logged, r.counted = r.log.len(), r.datagrams(t)
}

func must(t failer, err error) {
	t.Helper()
	if err != nil {
		t.Fatalf("%v", err)
	}
}

// lines keeps a log.
type lines struct {
	mu   sync.Mutex
	list []map[string]any
}

func (l *lines) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	var m map[string]any
	err := json.Unmarshal(b, &m)
	l.list = append(l.list, m)
	return len(b), err
}

func (l *lines) at(i int) map[string]any {
	l.mu.Lock()
	defer l.mu.Unlock()
	if i >= len(l.list) {
		return nil
	}
	return l.list[i]
}

func (l *lines) len() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.list)
}
