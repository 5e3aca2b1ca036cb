package proxy_test

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"go.uber.org/goleak"
	"golang.org/x/crypto/bcrypt"

	"usher/deploy/need"
	"usher/limiter"
	"usher/proxy"
	"usher/proxy/rules"
	"usher/proxy/users"
	"usher/store/memstore"
)

// Tests that wait run in parallel, because they use no processor meanwhile. Tests that
// count the descriptors of the process, as world.left does, run before them, one at a
// time.
func TestMain(m *testing.M) {
	flag.Parse()
	given := false
	flag.Visit(func(f *flag.Flag) { given = given || f.Name == "test.parallel" })
	if !given {
		if err := flag.Set("test.parallel", "16"); err != nil {
			panic(err)
		}
	}
	goleak.VerifyTestMain(need.Summary(m))
}

// patience is the time limit of every wait in these tests.
const patience = time.Minute

// anybody is a rule file that allows everything.
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
	fds     census // open before any client came
}

// setup changes the options of a world.
type setup func(*proxy.Options, *proxy.Policy)

// withMonica adds a users file: monica, whose password is sesame.
func withMonica(t *testing.T) setup {
	t.Helper()
	hash, err := bcrypt.GenerateFromPassword([]byte("sesame"), bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "users")
	if err := os.WriteFile(file, append([]byte("monica:"), hash...), 0o600); err != nil {
		t.Fatal(err)
	}
	checker, err := users.Load(file)
	if err != nil {
		t.Fatal(err)
	}
	return func(_ *proxy.Options, p *proxy.Policy) { p.Users = checker }
}

// withGroups adds a groups file.
func withGroups(t *testing.T, text string) setup {
	t.Helper()
	file := filepath.Join(t.TempDir(), "groups")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	groups, err := users.LoadGroups(file)
	if err != nil {
		t.Fatal(err)
	}
	return func(_ *proxy.Options, p *proxy.Policy) { p.Groups = groups }
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
	w.limiter = limiter.New(limiter.Options{Store: st, TTL: 10 * time.Second, StoreWait: patience})
	o := proxy.Options{Limiter: w.limiter, Logger: slog.New(slog.NewJSONHandler(w.log, nil)), Metrics: proxy.NewMetrics(w.metrics)}
	p := policy(t, text)
	for _, s := range setups {
		s(&o, p)
	}
	w.server = proxy.New(o, p)
	begun := w.counters()
	ln, err := proxy.Listen(t.Context(), "127.0.0.1:0")
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
		w.beganAtZero(begun, p)
		leaving, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := errors.Join(w.limiter.Close(leaving), st.Close()); err != nil {
			t.Error(err)
		}
	})
	w.fds = descriptors(t)
	return w
}

// counters returns the series of all counters, each with its label rule.
func (w *world) counters() map[string]string {
	w.t.Helper()
	families, err := w.metrics.Gather()
	if err != nil {
		w.t.Fatal(err)
	}
	all := make(map[string]string)
	for _, f := range families {
		for _, m := range f.Metric {
			if labels := labelsOf(m); f.GetType() == dto.MetricType_COUNTER {
				all[fmt.Sprint(f.GetName(), labels)] = labels["rule"]
			}
		}
	}
	return all
}

// beganAtZero checks that no series has begun with its first event, which increase()
// would miss. Series of rules are left out if p is no longer in force.
func (w *world) beganAtZero(begun map[string]string, p *proxy.Policy) {
	w.t.Helper()
	gens := w.server.Generations()
	same := gens[len(gens)-1].Rules == p.Rules
	for series, rule := range w.counters() {
		if _, has := begun[series]; !has && (same || rule == "") {
			w.t.Errorf("the series %s began with its first event", series)
		}
	}
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
		if n++; n > int(maximum) { // as of a limit that reports
			w.t.Fatalf("%s admits more than %d", rule, maximum)
		}
	}
}

// hold waits until n sessions have a slot of rule. Unlike slots, it takes no slot
// itself, so that it never keeps another session out. Sessions that still wait for their
// slot do not count, unlike in Counts.
func (w *world) hold(rule string, n int) {
	w.t.Helper()
	eventually(w.t, func() string {
		held := 0
		for _, r := range w.server.Running() {
			if cmp.Or(r.Rule, r.ClientRule) == rule {
				held++
			}
		}
		if held != n {
			return fmt.Sprintf("%d sessions hold a slot of %s, want %d", held, rule, n)
		}
		return ""
	})
}

// left waits until no session, no descriptor and no slot of rule is in use.
func (w *world) left(rule string, maximum int64) {
	w.t.Helper()
	eventually(w.t, func() string {
		for _, g := range w.server.Generations() {
			if g.Sessions != 0 {
				return fmt.Sprintf("%d sessions of %s left", g.Sessions, g.Label)
			}
		}
		if left := descriptors(w.t).since(w.fds); len(left) > 0 {
			return fmt.Sprintf("descriptors left open: %v", left)
		}
		if rule != "" {
			if n := w.slots(rule, maximum); n != int(maximum) {
				return fmt.Sprintf("%d of %d slots of %s free", n, maximum, rule)
			}
		}
		return ""
	})
}

// metric returns the value of a counter or gauge with these labels, 0 if there is no
// such series. A rule may be given by its position in the rules in force.
func (w *world) metric(name string, labels ...string) float64 {
	w.t.Helper()
	n, _ := w.series(name, labels...)
	return n
}

// series does what metric does, and reports whether the series exists.
func (w *world) series(name string, labels ...string) (value float64, exists bool) {
	w.t.Helper()
	families, err := w.metrics.Gather()
	if err != nil {
		w.t.Fatal(err)
	}
	want := map[string]string{}
	for i := 0; i < len(labels); i += 2 {
		want[labels[i]] = labels[i+1]
	}
	if label := ruleLabel(families, want["rule"]); label != "" {
		want["rule"] = label
	}
	for _, f := range families {
		if f.GetName() != name {
			continue
		}
		for _, m := range f.Metric {
			if maps.Equal(labelsOf(m), want) {
				return m.GetCounter().GetValue() + m.GetGauge().GetValue(), true
			}
		}
	}
	return 0, false
}

// ruleLabel returns the label of the rule in force at a position, "" if there is none.
func ruleLabel(families []*dto.MetricFamily, position string) string {
	for _, f := range families {
		if f.GetName() != "usher_rule_info" {
			continue
		}
		for _, m := range f.Metric {
			if labels := labelsOf(m); labels["position"] == position {
				return labels["rule"]
			}
		}
	}
	return ""
}

func labelsOf(m *dto.Metric) map[string]string {
	labels := map[string]string{}
	for _, l := range m.Label {
		labels[l.GetName()] = l.GetValue()
	}
	return labels
}

// census names what exists at one moment. A count would not do, because something of an
// earlier test may end between two counts.
type census map[string]bool

// since returns what did not exist before.
func (c census) since(before census) []string {
	var fresh []string
	for name := range c {
		if !before[name] {
			fresh = append(fresh, name)
		}
	}
	return fresh
}

// descriptors returns the kernel's names of the open descriptors. Each socket has its
// own number.
func descriptors(t *testing.T) census {
	t.Helper()
	const dir = "/proc/self/fd"
	list, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	open := census{}
	for _, fd := range list {
		if name, err := os.Readlink(filepath.Join(dir, fd.Name())); err == nil { // the folder itself is closed again
			open[name] = true
		}
	}
	return open
}

// goroutines returns the names of the running goroutines.
func goroutines() census {
	stacks := make([]byte, 16<<20)
	stacks = stacks[:runtime.Stack(stacks, true)]
	running := census{}
	for _, m := range regexp.MustCompile(`(?m)^goroutine \d+`).FindAll(stacks, -1) {
		running[string(m)] = true
	}
	return running
}

// eventually polls until wrong returns no complaint.
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

// log records JSON lines.
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
