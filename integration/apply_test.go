package integration

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"usher/deploy/need"
	"usher/store/redisstore/redistest"
)

// verb runs a verb of usher against a store, and returns its exit code and its output.
func verb(t testing.TB, store string, args ...string) (code int, said string) {
	t.Helper()
	cmd := exec.Command(usher, args...)
	cmd.Env = []string{"USHER_STORE=" + store, "USHER_LEASE_TTL=" + applyTTL}
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return cmd.ProcessState.ExitCode(), out.String()
}

// applyTTL is long enough for requests that take half a second on a busy machine.
const applyTTL = "5s"

// following starts replicas that follow the store. Each has its own store URL.
func following(t *testing.T, urls ...string) (replicas []*replica) {
	t.Helper()
	return followingWith(t, "20s", urls...)
}

// followingWith is following with another USHER_STORE_WAIT.
func followingWith(t *testing.T, storeWait string, urls ...string) (replicas []*replica) {
	t.Helper()
	for i, url := range urls {
		replicas = append(replicas, launchReplica(t, fmt.Sprintf("web%d", i+1), "127.0.1.1", need.Port(t), need.Port(t), map[string]string{
			"USHER_CONFIG": "store", "USHER_STORE": url, "USHER_LEASE_TTL": applyTTL, "USHER_REPLICA": fmt.Sprintf("web%d", i+1),
			"USHER_STORE_WAIT": storeWait,
		}))
	}
	for _, r := range replicas {
		r.waitReady(t)
	}
	return replicas
}

// reloads are the generations that a test publishes one after another. Each is known by
// its limit. Generations with the same limit share counters.
type reloads struct {
	mu     sync.Mutex
	limits []int
	now    int // in force everywhere
	next   int // may be in force somewhere
}

func (r *reloads) between() (first, last int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.now, r.next
}

// spanUnder is the time in which bytes prove that a session existed, and the
// generations that may have admitted it.
type spanUnder struct {
	span
	first, last int
}

// alike reports whether all generations of a span have this limit.
func (r *reloads) alike(s spanUnder, limit int) bool {
	return !slices.ContainsFunc(r.limits[s.first:s.last+1], func(l int) bool { return l != limit })
}

// mostAtOnce returns the highest number of simultaneous sessions.
func mostAtOnce(spans []spanUnder) (peak int) {
	for _, at := range spans { // a peak begins where a session begins
		n := 0
		for _, s := range spans {
			if s.from <= at.from && at.from < s.until {
				n++
			}
		}
		peak = max(peak, n)
	}
	return peak
}

// applyTraffic are clients that connect again and again.
type applyTraffic struct {
	t             *testing.T
	begin         time.Time
	reloads       *reloads
	replicas      []*replica
	limited, free string

	mu          sync.Mutex
	spans       []spanUnder
	asked, full int
}

// once asks for a session with a limit and for one without a limit.
func (a *applyTraffic) once() {
	c := client{proxy: a.replicas[rand.IntN(len(a.replicas))].socks}
	first, _ := a.reloads.between()
	s := c.connect(a.limited)
	from := time.Since(a.begin)
	_, last := a.reloads.between()
	a.mu.Lock()
	a.asked += 2
	a.mu.Unlock()
	switch s.reply {
	case granted:
		until := a.talk(s.Conn)
		a.mu.Lock()
		a.spans = append(a.spans, spanUnder{span{from, until}, first, last})
		a.mu.Unlock()
	case notAllowed:
		a.mu.Lock()
		a.full++
		a.mu.Unlock()
	default:
		a.t.Errorf("limited: reply %d, %v", s.reply, s.err)
	}
	f := c.connect(a.free)
	if f.reply != granted {
		a.t.Errorf("unlimited: reply %d, %v", f.reply, f.err)
		return
	}
	a.talk(f.Conn)
}

// talk sends twice through a session, and returns when it sent for the second time. The
// session existed until then.
func (a *applyTraffic) talk(c io.ReadWriteCloser) (until time.Duration) {
	defer c.Close()
	for i := range 2 {
		until = time.Since(a.begin)
		b := []byte{byte(i)}
		if _, err := c.Write(b); err != nil {
			a.t.Error("a session was cut:", err)
		}
		if _, err := io.ReadFull(c, b); err != nil {
			a.t.Error("a session was cut:", err)
		}
		time.Sleep(time.Duration(rand.IntN(10)) * time.Millisecond) // sessions of different length
	}
	return until
}

// TestApplyUnderTraffic publishes one generation after another while clients come and
// go at three replicas. No client is refused or cut. When apply has returned, no older
// generation admits sessions. No limit is exceeded.
func TestApplyUnderTraffic(t *testing.T) {
	redis := redistest.Start(t)
	limited, free := startEcho(t), startEcho(t)
	publish := func(i, limit int) {
		t.Helper()
		file := filepath.Join(t.TempDir(), "sockd.conf")
		writeFile(t, file, fmt.Sprintf("# number %d\n", i)+standard(limit)(limited.endpoint(), free.endpoint()))
		if code, said := verb(t, redis.URL(), "apply", "--wait", "60s", file); code != 0 {
			t.Fatalf("apply: exit code %d\n%s", code, said)
		}
	}
	r := &reloads{limits: []int{6, 6, 3, 3, 8, 6, 2}}
	publish(0, r.limits[0])
	replicas := following(t, redis.URL(), redis.URL(), redis.URL())
	for _, one := range replicas {
		eventually(t, patience, func() string {
			if st := one.status(t); !st.Store.Joined || st.Store.Recovering {
				return one.name + " admits nothing yet"
			}
			return ""
		})
	}
	a := &applyTraffic{t: t, begin: time.Now(), reloads: r, replicas: replicas, limited: limited.endpoint().String(), free: free.endpoint().String()}
	stop := make(chan struct{})
	var clients sync.WaitGroup
	for range 12 {
		clients.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
					a.once()
				}
			}
		})
	}
	for i := 1; i < len(r.limits) && !t.Failed(); i++ {
		r.mu.Lock()
		r.next = i
		r.mu.Unlock()
		publish(i, r.limits[i])
		r.mu.Lock()
		r.now = i
		r.mu.Unlock()
		a.more(100) // all by this generation
	}
	close(stop)
	clients.Wait()
	a.judge()
}

// more waits until clients have asked n more times.
func (a *applyTraffic) more(n int) {
	count := func() int {
		a.mu.Lock()
		defer a.mu.Unlock()
		return a.asked
	}
	goal := count() + n
	eventually(a.t, patience, func() string {
		if count() < goal {
			return "clients do not get on"
		}
		return ""
	})
}

// judge checks each limit alone, and that two generations together admit no more
// sessions than both limits together.
func (a *applyTraffic) judge() {
	limits := slices.Compact(slices.Sorted(slices.Values(a.reloads.limits)))
	for _, limit := range limits {
		certain := slices.DeleteFunc(slices.Clone(a.spans), func(s spanUnder) bool { return !a.reloads.alike(s, limit) })
		peak := mostAtOnce(certain)
		a.t.Logf("limit %d: %d sessions, at most %d at a time", limit, len(certain), peak)
		if peak > limit || len(certain) == 0 {
			a.t.Errorf("limit %d: %d sessions, at most %d at a time", limit, len(certain), peak)
		}
	}
	for i := 1; i < len(a.reloads.limits); i++ {
		both := slices.DeleteFunc(slices.Clone(a.spans), func(s spanUnder) bool { return s.first < i-1 || s.last > i })
		allowed := a.reloads.limits[i-1] + a.reloads.limits[i]
		if a.reloads.limits[i-1] == a.reloads.limits[i] {
			allowed = a.reloads.limits[i] // the same rules count on
		}
		if peak := mostAtOnce(both); peak > allowed {
			a.t.Errorf("reload %d: %d sessions at a time, both generations allow %d", i, peak, allowed)
		}
	}
	a.t.Logf("%d connections tried, %d of them at a full limit, 0 refused otherwise", a.asked, a.full)
}

// TestApplyToACutOffReplica: a replica that does not reach the store keeps its rules.
// apply reports it, and stops waiting for it. When the replica reaches the store again,
// it takes the new rules before it admits clients that waited for the store.
func TestApplyToACutOffReplica(t *testing.T) {
	redis := redistest.Start(t)
	way := startFaultProxy(t, strings.TrimSuffix(strings.TrimPrefix(redis.URL(), "redis://"), "/0"), 1)
	limited, free := startEcho(t), startEcho(t)
	dir := t.TempDir()
	old, next := filepath.Join(dir, "old.conf"), filepath.Join(dir, "next.conf")
	writeFile(t, old, standard(3)(limited.endpoint(), free.endpoint()))
	writeFile(t, next, strings.Replace(standard(3)(limited.endpoint(), free.endpoint()),
		"socks pass {", "socks block { from: 0/0 to: "+limited.endpoint().to()+" }\nsocks pass {", 1))
	if code, said := verb(t, redis.URL(), "apply", old); code != 0 {
		t.Fatal(said)
	}
	replicas := following(t, redis.URL(), way.url())
	near, far := client{proxy: replicas[0].socks}, client{proxy: replicas[1].socks}
	eventually(t, patience, func() string {
		a := far.connect(limited.endpoint().String())
		if a.reply != granted {
			return fmt.Sprint("reply ", a.reply)
		}
		a.Close()
		return ""
	})
	way.set(partition)
	way.cutAll()
	code, said := verb(t, redis.URL(), "apply", "--wait", "60s", next)
	if code != 1 || !strings.Contains(said, "generation 2: in force on 1 of 2 replicas, gone: web2") {
		t.Fatalf("exit code %d\n%s", code, said)
	}
	near.ask(t, 1, limited.endpoint().String()).want(t, 0, notAllowed)
	far.ask(t, 1, free.endpoint().String()).want(t, 1, notAllowed) // by the old rules: it goes on

	// Who waits for the store when it comes back is judged by the new rules, although it
	// asked while the old ones were in force.
	var waiting sync.WaitGroup
	for range 3 {
		waiting.Go(func() {
			a := far.connect(limited.endpoint().String())
			if a.reply != notAllowed {
				t.Errorf("who waited got reply %d, %v", a.reply, a.err)
				return
			}
			if _, body, err := replicas[1].get("/status"); err != nil || !strings.Contains(body, `"file": "generation 2"`) {
				t.Errorf("refused before the new rules were taken: %v %s", err, body)
			}
		})
	}
	eventually(t, patience, func() string {
		if n := replicas[1].status(t).Sessions; n < 3 {
			return fmt.Sprintf("%d clients wait", n)
		}
		return ""
	})
	way.set(mix{})
	waiting.Wait()
	eventually(t, patience, func() string {
		if _, body, err := replicas[1].get("/status"); err != nil || !strings.Contains(body, `"file": "generation 2"`) {
			return fmt.Sprintf("%v %s", err, body)
		}
		return ""
	})
	far.ask(t, 1, limited.endpoint().String()).want(t, 0, notAllowed)
	if code, said := verb(t, redis.URL(), "rollback"); code != 0 || !strings.Contains(said, "generation 3 is in force on 2 replicas") {
		t.Errorf("exit code %d\n%s", code, said)
	}
}
