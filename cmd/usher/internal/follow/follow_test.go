package follow

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"usher/deploy/need"
	"usher/limiter"
	"usher/store"
	"usher/store/published"
	"usher/store/redisstore"
	"usher/store/redisstore/redistest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(need.Summary(m)) }

// The lease is long because a request may take a tenth of it. On a busy machine,
// requests take seconds.
const ttl = 20 * time.Second

// station is a cluster of a test, on its own Redis.
type station struct {
	t       *testing.T
	server  *redistest.Server
	store   *redisstore.Store
	cluster string
	conn    published.Conn
}

func newStation(t *testing.T) *station {
	t.Helper()
	s := &station{t: t, server: redistest.Start(t), cluster: "test-" + rand.Text()}
	s.store = s.open(s.cluster)
	s.conn = s.dial()
	return s
}

func (s *station) open(cluster string) *redisstore.Store {
	s.t.Helper()
	st, err := redisstore.Open(s.server.URL(), cluster, redisstore.Secrets{})
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { st.Close() })
	return st
}

func (s *station) dial() published.Conn {
	s.t.Helper()
	c, err := s.store.Published(s.t.Context())
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { c.Close() })
	return c
}

// put makes t the newest generation, whatever was there before.
func (s *station) put(t published.Text) published.Text {
	s.t.Helper()
	list, err := s.conn.Generations(s.t.Context())
	if err != nil {
		s.t.Fatal(err)
	}
	var newest uint64
	if len(list) > 0 {
		newest = list[0].Number
	}
	if _, ok, err := s.conn.Publish(s.t.Context(), t, newest); err != nil || !ok {
		s.t.Fatal(ok, err)
	}
	return t
}

func (s *station) text(number uint64, rules string) published.Text {
	return published.New(number, s.cluster, "c1x", "", rules, time.Now())
}

// flush removes all data, as a restart does.
func (s *station) flush() {
	s.t.Helper()
	if err := s.server.Client().FlushAll(s.t.Context()).Err(); err != nil {
		s.t.Fatal(err)
	}
}

// target records what a follower does to it.
type target struct {
	mu      sync.Mutex
	loaded  []string
	refused []uint64
	held    int           // holds minus releases
	broken  string        // rules that cannot be loaded
	slow    chan struct{} // if not nil: Load waits for it
}

func (g *target) Load(t published.Text) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.slow != nil {
		<-g.slow
	}
	if t.Rules == g.broken {
		return errors.New("there is no users file")
	}
	g.loaded = append(g.loaded, t.Rules)
	return nil
}

func (g *target) Refused(number uint64, _ error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.refused = append(g.refused, number)
}

func (g *target) Hold() func() {
	g.held++
	return func() { g.held-- }
}

func (g *target) Sessions() map[uint64]int { return map[uint64]int{1: 2} }

// follower is a Follower, and a record of its actions and log lines.
type follower struct {
	*Follower
	*target // what it does to it
	t       *testing.T
	log     *bytes.Buffer
	conn    published.Conn
}

func (s *station) follow(change ...func(*Options)) *follower {
	s.t.Helper()
	o := Options{Replica: limiter.NewID(), Name: "web1", Cluster: s.cluster, TTL: ttl}
	for _, c := range change {
		c(&o)
	}
	f := &follower{target: &target{}, t: s.t, log: &bytes.Buffer{}, conn: s.dial()}
	f.Follower = New(o, f.target, slog.New(slog.NewTextHandler(f.log, nil)))
	s.t.Cleanup(f.Wait)
	return f
}

func (f *follower) exchange() {
	f.t.Helper()
	ctx, cancel := context.WithTimeout(f.t.Context(), time.Minute)
	defer cancel()
	if err := f.Exchange(ctx, f.conn.(store.Conn)); err != nil {
		f.t.Fatal(err)
	}
	if f.held != 0 {
		f.t.Error("clients are held after an exchange")
	}
}

// is checks which rules are in force, and which number is refused for which reason.
func (f *follower) is(number uint64, rules string, refused uint64, reason string) {
	f.t.Helper()
	st := f.State()
	if in := f.InForce(); in.Number != number || in.Rules != rules || st.Number != number {
		f.t.Errorf("in force: %d %q; want %d %q", in.Number, in.Rules, number, rules)
	}
	if st.Refused != refused || !strings.Contains(st.Reason, reason) || reason == "" && st.Reason != "" {
		f.t.Errorf("refused: %d %q; want %d %q", st.Refused, st.Reason, refused, reason)
	}
	if refused != 0 && !slices.Contains(f.refused, refused) {
		f.t.Errorf("the target was not told that %d is refused", refused)
	}
}

// reports checks the report of a replica in the store.
func (s *station) reports(number, refused uint64, reason string) {
	s.t.Helper()
	all, err := s.conn.Replicas(s.t.Context())
	if err != nil || len(all.Reports) != 1 {
		s.t.Fatalf("%+v, %v", all, err)
	}
	if r := all.Reports[0]; r.Number != number || r.Refused != refused || !strings.Contains(r.Reason, reason) || r.Sessions[1] != 2 || r.Name != "web1" {
		s.t.Errorf("report: %+v", r)
	}
}

func TestFollow(t *testing.T) {
	s := newStation(t)
	f := s.follow()
	f.exchange()
	f.is(0, "", 0, "")
	for n, rules := range []string{"one", "two", "one"} {
		s.put(s.text(uint64(n)+1, rules))
		f.exchange()
		f.exchange()
		f.is(uint64(n)+1, rules, 0, "")
		s.reports(uint64(n)+1, 0, "") // by the same exchange
	}
	if !slices.Equal(f.loaded, []string{"one", "two", "one"}) {
		t.Errorf("loaded %q, each once", f.loaded)
	}
	if err := f.Leave(t.Context(), f.conn); err != nil {
		t.Fatal(err)
	}
	all, err := s.conn.Replicas(t.Context())
	if err != nil || len(all.Reports) > 0 || !slices.Equal(all.Left, []string{f.Replica()}) {
		t.Errorf("%+v, %v", all, err)
	}
	left := fmt.Sprintf("usher:{%s:0}:on:%s", s.cluster, f.Replica())
	redis := s.server.Client()
	if rest, err := redis.PTTL(t.Context(), left).Result(); err != nil || rest <= 0 || rest > ttl {
		t.Errorf("the report is kept for %v, %v", rest, err)
	}
	if err := redis.PExpire(t.Context(), left, time.Millisecond).Err(); err != nil { // as after the TTL
		t.Fatal(err)
	}
	redistest.Eventually(t, time.Minute, "the store has forgotten it", func() bool {
		all, err := s.conn.Replicas(t.Context())
		return err == nil && len(all.Left) == 0
	})
}

func keyPair(t *testing.T) (ed25519.PrivateKey, []ed25519.PublicKey) {
	t.Helper()
	private, public, err := published.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	key, err := published.ParsePrivateKey(private)
	keys, err2 := published.ParsePublicKeys(public)
	if err := errors.Join(err, err2); err != nil {
		t.Fatal(err)
	}
	return key, keys
}

// Nobody can open the proxy by writing to the store. Rules that the key has not signed
// for this cluster and this number are refused and reported, and the old rules stay.
func TestOnlySignedRulesAreTaken(t *testing.T) {
	key, keys := keyPair(t)
	other, _ := keyPair(t)
	s := newStation(t)
	f := s.follow(func(o *Options) { o.Keys = keys })
	good := s.put(s.text(1, "good").Sign(key))
	f.exchange()
	f.is(1, "good", 0, "")
	renumbered := good
	renumbered.Number = 4
	foreign := published.New(5, "elsewhere", "c1x", "", "foreign", time.Now()).Sign(key)
	renamed := foreign
	renamed.Number, renamed.Cluster = 6, s.cluster
	changed := s.text(7, "evil").Sign(key)
	changed.Rules += "\nmore"
	rehashed := s.text(8, "evil").Sign(key)
	rehashed.Rules, rehashed.Hash = "more", published.HashOf("more")
	for _, c := range []struct {
		text published.Text
		want string
	}{
		{s.text(2, "evil"), "it is not signed"},
		{s.text(3, "evil").Sign(other), "another key signed it"},
		{renumbered, "its signature does not match"},
		{foreign, `published for the cluster "elsewhere"`},
		{renamed, "its signature does not match"},
		{changed, "the hash differs"},
		{rehashed, "its signature does not match"},
	} {
		s.put(c.text)
		f.exchange()
		f.is(1, "good", c.text.Number, c.want)
		s.reports(1, c.text.Number, c.want)
		if !strings.Contains(f.log.String(), strings.ReplaceAll(c.want, `"`, `\"`)) {
			t.Errorf("the log does not say %q", c.want)
		}
	}
	s.put(s.text(9, "better").Sign(key))
	f.exchange()
	f.is(9, "better", 0, "")
	if !slices.Equal(f.loaded, []string{"good", "better"}) {
		t.Errorf("loaded %q", f.loaded)
	}
}

// An older generation is not taken, even if it is signed: the replica publishes its own
// again. It does the same after the store has lost its data.
func TestOlderRulesAreNotTaken(t *testing.T) {
	key, keys := keyPair(t)
	s := newStation(t)
	f := s.follow(func(o *Options) { o.Keys = keys })
	one := s.put(s.text(1, "one").Sign(key))
	f.exchange()
	two := s.put(s.text(2, "two").Sign(key))
	f.exchange()
	for _, old := range []*published.Text{&one, nil, &one} {
		s.flush()
		if old != nil {
			s.put(*old)
		}
		f.exchange()
		f.exchange()
		f.is(2, "two", 0, "")
		if got, err := s.conn.Text(t.Context(), 2); err != nil || got == nil || got.ID() != two.ID() || got.Verify(keys) != nil {
			t.Errorf("the own rules were not published again: %+v, %v", got, err)
		}
	}
	if n := strings.Count(f.log.String(), "older rules than this replica"); n != 3 {
		t.Errorf("said %d times:\n%s", n, f.log)
	}
	s.flush()
	s.put(s.text(2, "other").Sign(key))
	f.exchange()
	f.is(2, "two", 2, "another text with the number 2")
}

// Rules that cannot be loaded here change nothing, and are tried again on demand.
func TestRulesThatCannotBeLoaded(t *testing.T) {
	s := newStation(t)
	f := s.follow()
	f.broken = "names"
	s.put(s.text(1, "one"))
	f.exchange()
	s.put(s.text(2, "names"))
	f.exchange()
	f.exchange()
	f.is(1, "one", 2, "no users file")
	s.reports(1, 2, "no users file")
	if err := f.Retry(); err == nil {
		t.Error("it was loaded")
	}
	f.broken = ""
	if err := f.Retry(); err != nil {
		t.Error(err)
	}
	f.is(2, "names", 0, "")
	f.exchange()
	s.reports(2, 0, "")
	f.loaded = nil
	if err := f.Retry(); err != nil || !slices.Equal(f.loaded, []string{"names"}) {
		t.Errorf("the rules in force are loaded again: %v, %q", err, f.loaded)
	}
}

// A replica that loads for longer than a request may take renews its lease meanwhile.
// Clients wait until the rules are in force.
func TestSlowLoad(t *testing.T) {
	s := newStation(t)
	f := s.follow()
	s.put(s.text(1, "one"))
	f.slow = make(chan struct{})
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if err := f.Exchange(ctx, f.conn.(store.Conn)); err != nil {
		t.Error(err)
	}
	if f.InForce().Number != 0 || f.held != 1 {
		t.Error("rules are in force while they are still being loaded, or clients are admitted")
	}
	s.put(s.text(2, "two"))
	if err := f.Exchange(t.Context(), f.conn.(store.Conn)); err != nil {
		t.Error(err)
	}
	var again sync.WaitGroup
	again.Go(func() { // a reload waits for its turn, and brings nothing older back
		if err := f.Retry(); err != nil {
			t.Error(err)
		}
	})
	close(f.slow)
	f.Wait()
	again.Wait()
	f.is(1, "one", 0, "")
	f.exchange()
	f.is(2, "two", 0, "")
}

func TestCache(t *testing.T) {
	key, keys := keyPair(t)
	file := filepath.Join(t.TempDir(), "cache")
	cached := func(o *Options) { o.Cache, o.Keys = file, keys }
	s := newStation(t)
	f := s.follow(cached)
	s.put(s.text(1, "one").Sign(key))
	f.exchange()
	s.put(s.text(2, "two").Sign(key))
	f.exchange()
	if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
		t.Error(info, err)
	}

	again := s.follow(cached)
	again.UseCache()
	again.is(2, "two", 0, "")

	// It is the floor: an older generation is not taken at a start, though it is signed.
	s.flush()
	s.put(s.text(1, "one").Sign(key))
	floor := s.follow(cached)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if !floor.First(ctx, s.store.Published, func(string) {}) {
		t.Error("no rules")
	}
	floor.is(2, "two", 0, "")

	_, otherKeys := keyPair(t)
	for _, c := range []struct {
		content string // "": what it was
		keys    []ed25519.PublicKey
		want    string
	}{
		{"", otherKeys, "another key signed it"},
		{"x", keys, "no cache of published rules"},
		{"{}", keys, "names no generation"},
		{`{"number":9,"cluster":"` + s.cluster + `","hash":"` + published.HashOf("x") + `","rules":"x"}`, keys, "not signed"},
	} {
		if c.content != "" {
			if err := os.WriteFile(file, []byte(c.content), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		f := s.follow(func(o *Options) { o.Cache, o.Keys = file, c.keys })
		f.UseCache()
		f.is(0, "", 0, "")
		if !strings.Contains(f.log.String(), c.want) {
			t.Errorf("%q: the log does not say %q: %s", c.content, c.want, f.log)
		}
	}
}

// First waits, reports for what, and ends when rules are published.
func TestFirst(t *testing.T) {
	need.Seconds(t)
	s := newStation(t)
	f := s.follow()
	s.server.Kill()
	var mu sync.Mutex
	why := ""
	result := make(chan bool)
	go func() {
		result <- f.First(t.Context(), s.store.Published, func(reason string) {
			mu.Lock()
			defer mu.Unlock()
			why = reason
		})
	}()
	says := func(want string) {
		t.Helper()
		redistest.Eventually(t, time.Minute, want, func() bool {
			mu.Lock()
			defer mu.Unlock()
			return strings.Contains(why, want)
		})
	}
	says("the store cannot be asked")
	s.server.Start()
	says("usher apply FILE")
	s.conn = s.dial()
	f.target.mu.Lock()
	f.broken = "bad"
	f.target.mu.Unlock()
	s.put(s.text(1, "bad"))
	says("no users file")
	s.put(s.text(2, "two"))
	if !<-result {
		t.Error("no rules")
	}
	f.is(2, "two", 0, "")
}

// Members that do not follow cause a warning, once, and only if they stay.
func TestMix(t *testing.T) {
	s := newStation(t)
	f := s.follow()
	s.put(s.text(1, "one"))
	f.exchange()
	c, err := s.store.Dial(t.Context(), 0)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	settings := store.Settings{Protocol: 1, TTL: ttl, Shards: 1}
	for _, replica := range []string{f.o.Replica, "silent"} {
		if _, err := c.Join(t.Context(), store.Join{Replica: replica, Candidate: rand.Text(), Stream: 1, Settings: settings, Space: "c1x"}); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 4 {
		f.Follower.mu.Lock()
		f.mixedAt = time.Time{}
		f.Follower.mu.Unlock()
		f.exchange()
		if warned := strings.Contains(f.log.String(), "do not follow"); warned != (i > 0) {
			t.Errorf("after %d looks: warned %v", i+1, warned)
		}
	}
	if n := strings.Count(f.log.String(), "do not follow"); n != 1 || !slices.Equal(f.State().Silent, []string{"silent"}) {
		t.Errorf("warned %d times, %v", n, f.State().Silent)
	}
}

// If the store answers something that Usher never writes, nothing changes, and this is
// reported once.
func TestUnreadable(t *testing.T) {
	s := newStation(t)
	f := s.follow()
	s.put(s.text(1, "one"))
	f.exchange()
	if err := s.server.Client().HSet(t.Context(), "usher:{"+s.cluster+":0}:g", "n", "2", "id", "2 x", "2", "{").Err(); err != nil {
		t.Fatal(err)
	}
	f.exchange()
	f.exchange()
	if st := f.State(); st.Number != 1 || !strings.Contains(st.Trouble, "cannot be read") || strings.Count(f.log.String(), "cannot read the published rules") != 1 {
		t.Errorf("%+v\n%s", st, f.log)
	}
}

func TestKeys(t *testing.T) {
	if keys, err := Keys(""); keys != nil || err != nil {
		t.Error(keys, err)
	}
	file := filepath.Join(t.TempDir(), "key")
	if _, err := Keys(file); err == nil || !strings.Contains(err.Error(), "USHER_CONFIG_KEY") {
		t.Error(err)
	}
	private, public, err := published.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	for text, want := range map[string]string{string(private): "private key", string(public): "", "": "no public key"} {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := Keys(file)
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%v, want %q", err, want)
		}
	}
}
