package redisstore_test

import (
	"crypto/rand"
	"errors"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"usher/store"
	"usher/store/published"
	"usher/store/redisstore"
	"usher/store/redisstore/redistest"
)

// press publishes in a cluster of a test, and follows.
type press struct {
	t       *testing.T
	cluster string
	store   *redisstore.Store
	conn    published.Conn
}

func newPress(t *testing.T, url string) *press {
	t.Helper()
	p := &press{t: t, cluster: "test-" + rand.Text()}
	p.store = open(t, url, p.cluster)
	p.conn = p.dial()
	t.Cleanup(func() { p.store.Close() })
	return p
}

func (p *press) dial() published.Conn {
	p.t.Helper()
	c, err := p.store.Published(patient(p.t))
	if err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(func() { c.Close() })
	return c
}

func (p *press) text(number uint64, rules string) published.Text {
	return published.New(number, p.cluster, "c1x", "because of \n "+strconv.FormatUint(number, 10), rules, time.Now())
}

// publish expects that a text is published as that number.
func (p *press) publish(number uint64, rules string) published.Text {
	p.t.Helper()
	text := p.text(number, rules)
	latest, ok, err := p.conn.Publish(p.t.Context(), text, number-1)
	if err != nil || latest != number || !ok {
		p.t.Fatalf("publishing %d: %d, %v, %v", number, latest, ok, err)
	}
	return text
}

func (p *press) exchange(report published.Report, have string) published.News {
	p.t.Helper()
	news, err := p.conn.Exchange(p.t.Context(), published.Exchange{Report: report, TTL: time.Minute, Have: have})
	if err != nil {
		p.t.Fatal(err)
	}
	return news
}

// publishing runs each clause of published.Conn against a deployment.
func publishing(t *testing.T, url string) {
	t.Run("nothing is published", func(t *testing.T) {
		p := newPress(t, url)
		if news := p.exchange(published.Report{Replica: "a"}, ""); news.Latest != 0 || news.Text != nil {
			t.Errorf("%+v", news)
		}
		list, err := p.conn.Generations(t.Context())
		text, err2 := p.conn.Text(t.Context(), 1)
		if len(list) > 0 || text != nil || err != nil || err2 != nil {
			t.Error(list, text, err, err2)
		}
	})
	t.Run("a replica gets a text until it has dealt with it", func(t *testing.T) {
		p := newPress(t, url)
		want := p.publish(1, "socks pass { }\n\x00\r\n")
		for range 2 {
			news := p.exchange(published.Report{Replica: "a"}, "0 x")
			if news.Latest != 1 || news.Text == nil || news.ID != want.ID() || news.Text.Rules != want.Rules || !news.Text.When.Equal(want.When) ||
				news.Text.Message != want.Message || news.Text.Check(p.cluster) != nil {
				t.Fatalf("%+v", news)
			}
		}
		if news := p.exchange(published.Report{Replica: "a"}, want.ID()); news.Latest != 1 || news.Text != nil {
			t.Errorf("%+v", news)
		}
	})
	t.Run("of those who publish at once, one does", onePublishes(url))
	t.Run("the last texts are kept", theLastAreKept(url))
	t.Run("lost texts are restored", restoring(url))
	t.Run("the largest text fits", func(t *testing.T) {
		p := newPress(t, url)
		want := p.publish(1, strings.Repeat("x", published.MaxText))
		if news := p.exchange(published.Report{Replica: "a"}, ""); news.Text == nil || news.Text.Rules != want.Rules {
			t.Error("the text was not returned")
		}
	})
	t.Run("reports", reports(url))
	t.Run("what Usher does not write", garbledGenerations(url))
}

func onePublishes(url string) func(t *testing.T) {
	return func(t *testing.T) {
		p := newPress(t, url)
		var wg sync.WaitGroup
		var mu sync.Mutex
		won := 0
		for i := range 8 {
			c := p.dial()
			wg.Go(func() {
				text := p.text(1, "rules "+strconv.Itoa(i))
				latest, ok, err := c.Publish(t.Context(), text, 0)
				if err != nil {
					t.Error(err)
				}
				got, err := c.Text(t.Context(), 1)
				if latest != 1 || err != nil || got == nil || ok != (got.ID() == text.ID()) {
					t.Errorf("%d, %v, %v, %v", latest, ok, got, err)
					return
				}
				if ok {
					mu.Lock()
					won++
					mu.Unlock()
				}
			})
		}
		wg.Wait()
		if won != 1 {
			t.Errorf("%d have published", won)
		}
	}
}

func theLastAreKept(url string) func(t *testing.T) {
	return func(t *testing.T) {
		p := newPress(t, url)
		for n := range uint64(published.Keep + 5) {
			p.publish(n+1, "text "+strconv.FormatUint(n+1, 10))
		}
		list, err := p.conn.Generations(t.Context())
		if err != nil || len(list) != published.Keep || list[0].Number != published.Keep+5 || list[published.Keep-1].Number != 6 {
			t.Errorf("%d generations: %+v, %v", len(list), list, err)
		}
		for number, want := range map[uint64]string{5: "", 6: "text 6"} {
			got, err := p.conn.Text(t.Context(), number)
			if err != nil || (got == nil) != (want == "") || got != nil && got.Rules != want {
				t.Errorf("text %d: %+v, %v", number, got, err)
			}
		}
	}
}

func restoring(url string) func(t *testing.T) {
	return func(t *testing.T) {
		p := newPress(t, url)
		p.publish(1, "one")
		for _, step := range []struct{ number, want uint64 }{{7, 7}, {7, 7}, {6, 7}, {9, 9}} {
			latest, err := p.conn.Restore(t.Context(), p.text(step.number, "restored"))
			if err != nil || latest != step.want {
				t.Errorf("restoring %d: %d, %v, want %d", step.number, latest, err, step.want)
			}
		}
		if latest, ok, err := p.conn.Publish(t.Context(), p.text(10, "ten"), 8); err != nil || latest != 9 || ok {
			t.Error("published after another number than the newest:", latest, ok, err)
		}
		p.publish(10, "ten")
	}
}

func reports(url string) func(t *testing.T) {
	return func(t *testing.T) {
		p := newPress(t, url)
		for _, r := range []published.Report{
			{Replica: "b", Name: "two", Number: 3, Refused: 4, Reason: "no users", Sessions: map[uint64]int{3: 9}},
			{Replica: "a", Name: "one", Number: 4},
			{Replica: "b", Name: "two", Number: 3, Refused: 4, Reason: "no users", Sessions: map[uint64]int{3: 8}},
		} {
			p.exchange(r, "")
		}
		c, err := p.store.Dial(patient(t), 0)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		settings := store.Settings{Protocol: 1, TTL: time.Second, Shards: 1}
		for _, replica := range []string{"a", "silent"} {
			if _, err := c.Join(t.Context(), store.Join{Replica: replica, Candidate: rand.Text(), Stream: 1, Settings: settings, Space: "c1x"}); err != nil {
				t.Fatal(err)
			}
		}
		got, err := p.conn.Replicas(t.Context())
		if err != nil || len(got.Reports) != 2 || got.Reports[0].Name != "one" || got.Reports[1].Sessions[3] != 8 || !slices.Equal(got.Silent, []string{"silent"}) {
			t.Fatalf("%+v, %v", got, err)
		}
		// A replica that reports no more is forgotten.
		if _, err := p.conn.Exchange(t.Context(), published.Exchange{Report: published.Report{Replica: "b"}, TTL: time.Millisecond}); err != nil {
			t.Fatal(err)
		}
		redistest.Eventually(t, time.Minute, "the report is outdated", func() bool {
			got, err = p.conn.Replicas(t.Context())
			return err == nil && len(got.Reports) == 1
		})
	}
}

// garbledGenerations: data that others write into the keys causes an error that does
// not end the connection, because the limits are counted over the same connection. It
// hides no other generation, and a new one can be published.
func garbledGenerations(url string) func(t *testing.T) {
	return func(t *testing.T) {
		for _, about := range []string{"", "null", "{}", `{"number":2}`, `{"number":"x"}`, strings.Repeat("[", 1000)} {
			p := newPress(t, url)
			p.publish(1, "one")
			p.rewrite("1", about)
			e := published.Exchange{Report: published.Report{Replica: "a"}, TTL: time.Minute}
			_, err := p.conn.Exchange(t.Context(), e)
			_, err2 := p.conn.Text(t.Context(), 1)
			for _, err := range []error{err, err2} {
				if !errors.Is(err, published.ErrUnreadable) || strings.Contains(err.Error(), "\n") {
					t.Errorf("%q: %v", about, err)
				}
			}
			for number := range uint64(2) { // as the newest, and as an older one
				list, err := p.conn.Generations(t.Context())
				if err != nil || len(list) != int(number)+1 || list[number].Number != 1 || list[number].Unreadable == "" || number == 1 && list[0].Unreadable != "" {
					t.Errorf("%q: %+v, %v", about, list, err)
				}
				p.publish(number+2, "more")
			}
		}
	}
}

// rewrite overwrites a field of what is published.
func (p *press) rewrite(field, value string) {
	p.t.Helper()
	if err := p.store.Command(patient(p.t), "HSET", "usher:{"+p.cluster+":0}:g", field, value); err != nil {
		p.t.Fatal(err)
	}
}

func TestPublishing(t *testing.T) { publishing(t, redistest.Start(t).URL()) }

// TestPublishingNeedsNoOtherRights: the user of the documentation may publish and follow.
func TestPublishingNeedsNoOtherRights(t *testing.T) {
	server := redistest.Start(t)
	rules := aclRules(t)
	setUser(t, "usher", slices.Replace(slices.Clone(rules), slices.Index(rules, "~usher:{default:*"), slices.Index(rules, "~usher:{default:*")+1, "~usher:{test-*"), server)
	publishing(t, strings.Replace(server.URL(), "://", "://"+login(t, rules), 1))
}

// TestKeysOfOtherTypes: keys of a wrong type do not stop the counting.
func TestKeysOfOtherTypes(t *testing.T) {
	server := redistest.Start(t)
	p := newPress(t, server.URL())
	for _, key := range []string{"g", "on"} {
		name := "usher:{" + p.cluster + ":0}:" + key
		if err := server.Client().Set(t.Context(), name, "x", 0).Err(); err != nil {
			t.Fatal(err)
		}
		_, err := p.conn.Exchange(t.Context(), published.Exchange{Report: published.Report{Replica: "a"}, TTL: time.Minute})
		if !errors.Is(err, published.ErrUnreadable) || !strings.Contains(err.Error(), "WRONGTYPE") {
			t.Error(key, err)
		}
		if err := server.Client().Del(t.Context(), name).Err(); err != nil {
			t.Fatal(err)
		}
		p.exchange(published.Report{Replica: "a"}, "")
	}
}

// TestExchangeWithoutMemory: replicas follow a Redis that is out of memory. Only
// publishing is refused.
func TestExchangeWithoutMemory(t *testing.T) {
	server := redistest.Start(t)
	p := newPress(t, server.URL())
	p.publish(1, "one")
	if err := server.Client().ConfigSet(t.Context(), "maxmemory", "1").Err(); err != nil {
		t.Fatal(err)
	}
	if news := p.exchange(published.Report{Replica: "a"}, ""); news.Text == nil {
		t.Error("no text")
	}
	if _, _, err := p.conn.Publish(t.Context(), p.text(2, "two"), 1); err == nil || !strings.Contains(err.Error(), "OOM") {
		t.Error(err)
	}
}
