package events

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"usher/proxy/admin/api"
	"usher/proxy/record"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// source is a cluster that the test changes.
type source struct {
	mu       sync.Mutex
	health   string
	sessions []int64 // of limits s1, s2 ...
	refused  []record.End
}

func (s *source) change(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f()
}

func (s *source) answer() api.Answer {
	return api.Answer{Time: time.Now(), Replica: "web1", Missing: []api.Missing{}}
}

func (s *source) Cluster(context.Context) api.Cluster {
	s.mu.Lock()
	defer s.mu.Unlock()
	return api.Cluster{Answer: s.answer(), Health: s.health, Replicas: []api.Replica{{Name: "web1", Seen: time.Now()}}}
}

func (s *source) Rules(context.Context) api.Rules { return api.Rules{Answer: s.answer()} }

func (s *source) Limits(context.Context) api.Limits {
	s.mu.Lock()
	defer s.mu.Unlock()
	a := api.Limits{Answer: s.answer()}
	for i, n := range s.sessions {
		a.Limits = append(a.Limits, api.Limit{Rule: string(rune('a' + i)), Sessions: n})
	}
	return a
}

func (s *source) Sessions(context.Context, api.Query) api.Sessions {
	return api.Sessions{Answer: s.answer()}
}

func (s *source) Refusals(context.Context, api.Query) api.Refusals {
	s.mu.Lock()
	defer s.mu.Unlock()
	return api.Refusals{Answer: s.answer(), Refusals: append([]record.End{}, s.refused...)}
}

// client reads a stream.
type client struct {
	t    *testing.T
	scan *bufio.Scanner
	stop context.CancelFunc
}

func serve(t *testing.T, s api.Source) (*Hub, string) {
	t.Helper()
	h := New(s)
	h.every = time.Millisecond
	srv := httptest.NewServer(h)
	t.Cleanup(srv.Close)
	t.Cleanup(h.Close)
	return h, srv.URL
}

func open(t *testing.T, url string) (*client, int) {
	t.Helper()
	ctx, stop := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(stop)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { resp.Body.Close() })
	scan := bufio.NewScanner(resp.Body)
	scan.Buffer(nil, 1<<20)
	return &client{t, scan, stop}, resp.StatusCode
}

// next returns the data of the next event of this name.
func (c *client) next(name string, data any) {
	c.t.Helper()
	for c.scan.Scan() {
		if c.scan.Text() != "event: "+name {
			continue
		}
		c.scan.Scan()
		text, ok := strings.CutPrefix(c.scan.Text(), "data: ")
		if err := json.Unmarshal([]byte(text), data); !ok || err != nil {
			c.t.Fatalf("%q: %v", c.scan.Text(), err)
		}
		return
	}
	c.t.Fatalf("no event %s: %v", name, c.scan.Err())
}

// A client gets everything at first, and then what changes.
func TestChanges(t *testing.T) {
	s := &source{health: api.OK, sessions: []int64{1, 2}}
	_, url := serve(t, s)
	for range 2 { // the second one has reconnected
		c, _ := open(t, url)
		var cluster api.Cluster
		var limits api.Limits
		var refusals api.Refusals
		c.next("cluster", &cluster)
		c.next("limits", &limits)
		c.next("refusals", &refusals)
		if cluster.Health != api.OK || len(limits.Limits) != 2 {
			t.Errorf("at first: %+v %+v", cluster, limits)
		}
		s.change(func() { s.sessions[1]++ })
		c.next("limits", &limits)
		if len(limits.Limits) != 1 || limits.Limits[0].Rule != "b" {
			t.Errorf("a limit has changed: %+v", limits)
		}
		s.change(func() {
			s.refused = append([]record.End{{Session: record.Session{ID: time.Now().String()}, Time: time.Now().UTC()}}, s.refused...)
		})
		if c.next("refusals", &refusals); len(refusals.Refusals) != 1 || refusals.Refusals[0].ID != s.refused[0].ID {
			t.Errorf("a refusal: %+v", refusals)
		}
		s.change(func() { s.health = api.Degraded })
		if c.next("cluster", &cluster); cluster.Health != api.Degraded {
			t.Errorf("%+v", cluster)
		}
		s.change(func() { s.health = api.OK })
		c.next("cluster", &cluster)
		c.stop()
	}
}

// A client that is slow gets the sum of what has changed.
func TestSlowClient(t *testing.T) {
	s := newStream()
	show := func(a, b int64, refused ...string) {
		v := &view{}
		v.limits.Limits = []api.Limit{{Rule: "a", Sessions: a}, {Rule: "b", Sessions: b}}
		for _, id := range refused {
			v.refusals.Refusals = append(v.refusals.Refusals, record.End{Session: record.Session{ID: id}, Time: time.Unix(1, 0)})
		}
		s.show(v)
	}
	show(1, 1, "x")
	s.take()
	show(2, 1, "y", "x")
	show(2, 5, "z", "y", "x")
	show(2, 5, "z", "y", "x")
	text := string(s.take())
	for _, want := range []string{`"rule":"a"`, `"rule":"b"`, `"session":"z"`, `"session":"y"`} {
		if strings.Count(text, want) != 1 {
			t.Errorf("%s is not there once: %s", want, text)
		}
	}
	if strings.Contains(text, `"session":"x"`) {
		t.Errorf("an old refusal: %s", text)
	}
	if show(2, 5, "z", "y", "x"); len(s.take()) > 0 {
		t.Error("nothing has changed, and there is an event")
	}
}

// A replica that answers again brings no refusals that were told before.
func TestRefusalsAreToldOnce(t *testing.T) {
	s := newStream()
	show := func(refused ...int) string {
		v := &view{}
		for _, id := range refused {
			v.refusals.Refusals = append(v.refusals.Refusals, record.End{Session: record.Session{ID: fmt.Sprint(id)}, Time: time.Unix(1, 0)})
		}
		s.show(v)
		return string(s.take())
	}
	show(2, 1)
	show(1) // the replica of 2 does not answer
	if text := show(3, 2, 1); !strings.Contains(text, `"session":"3"`) || strings.Contains(text, `"session":"2"`) {
		t.Errorf("told: %s", text)
	}
	for id := range 20 * maxNews {
		show(id)
	}
	if len(s.last) > maxKnown+maxNews {
		t.Errorf("%d refusals are kept", len(s.last))
	}
}

// Streams are few, and end with the hub.
func TestBounds(t *testing.T) {
	h, url := serve(t, &source{})
	var list []*client
	for range MaxStreams {
		c, code := open(t, url)
		if code != http.StatusOK {
			t.Fatal(code)
		}
		list = append(list, c)
	}
	if _, code := open(t, url); code != http.StatusServiceUnavailable {
		t.Errorf("one more: %d", code)
	}
	list[0].stop()
	for end := time.Now().Add(time.Minute); ; {
		if _, code := open(t, url); code == http.StatusOK {
			break
		}
		if time.Now().After(end) {
			t.Fatal("the place of a client that has left is not free")
		}
	}
	h.Close()
	for _, c := range list {
		for c.scan.Scan() {
		}
	}
	if _, code := open(t, url); code != http.StatusServiceUnavailable {
		t.Errorf("after the end: %d", code)
	}
}
