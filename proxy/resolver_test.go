package proxy

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// counting is a resolver that counts what it is asked, and answers after
// delay, unless it is told to stop.
type counting struct {
	delay time.Duration

	mu      sync.Mutex
	asked   map[string]int
	stopped int
	fails   bool
}

func (r *counting) LookupNetIP(ctx context.Context, _, host string) ([]netip.Addr, error) {
	r.mu.Lock()
	if r.asked == nil {
		r.asked = map[string]int{}
	}
	r.asked[host]++
	fails := r.fails
	r.mu.Unlock()
	select {
	case <-time.After(r.delay):
	case <-ctx.Done():
		r.mu.Lock()
		defer r.mu.Unlock()
		r.stopped++
		return nil, ctx.Err()
	}
	if fails {
		return nil, errors.New("no such host")
	}
	return []netip.Addr{netip.MustParseAddr("192.0.2.1")}, nil
}

func (r *counting) times(host string) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.asked[host]
}

// want asks for host and checks how often the resolver has been asked then.
func (r *counting) want(t *testing.T, c *cachingResolver, host string, times int) {
	t.Helper()
	addrs, err := c.LookupNetIP(t.Context(), "ip", host)
	if fine := err == nil && len(addrs) == 1; fine == r.fails {
		t.Errorf("%s: %v, %v", host, addrs, err)
	}
	if n := r.times(strings.ToLower(host)); n != times {
		t.Errorf("%s: looked up %d times, want %d", host, n, times)
	}
}

// counted returns the value of a counter.
func counted(t *testing.T, c prometheus.Counter) float64 {
	t.Helper()
	r := prometheus.NewRegistry()
	r.MustRegister(c)
	families, err := r.Gather()
	if err != nil {
		t.Fatal(err)
	}
	return families[0].Metric[0].GetCounter().GetValue()
}

func TestNamesAreRememberedForAWhile(t *testing.T) {
	for fails, keep := range map[bool]time.Duration{false: 30 * time.Second, true: 3 * time.Second} {
		synctest.Test(t, func(t *testing.T) {
			r := &counting{fails: fails}
			c := newCachingResolver(r, NewMetrics(nil))
			r.want(t, c, "a.test", 1)
			time.Sleep(keep - time.Nanosecond)
			r.want(t, c, "A.test", 1)
			r.want(t, c, "b.test", 1)
			time.Sleep(time.Nanosecond)
			r.want(t, c, "a.test", 2)
			c.drop(nil)
			r.want(t, c, "a.test", 3)
			if n := counted(t, c.metrics.nameCache.WithLabelValues("hit")); n != 1 {
				t.Errorf("%v hits, want 1", n)
			}
			c.running.Wait()
		})
	}
}

// What is asked without waiting is told as long as LookupNetIP would know it.
func TestCachedNames(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &counting{}
		c := newCachingResolver(r, NewMetrics(nil))
		is := func(host string, addrs int, known bool) {
			t.Helper()
			if a, ok := c.cached("ip", host); len(a) != addrs || ok != known {
				t.Errorf("%s: %v, %v; want %d addresses, known: %v", host, a, ok, addrs, known)
			}
		}
		is("a.test", 0, false)
		r.want(t, c, "a.test", 1)
		is("A.test", 1, true)
		r.fails = true
		r.want(t, c, "b.test", 1)
		is("b.test", 0, true)
		is("no..name", 0, true)
		time.Sleep(keepFail)
		is("b.test", 0, false)
		is("a.test", 1, true)
		time.Sleep(keepFound - keepFail)
		is("a.test", 0, false)
		if r.times("a.test") != 1 {
			t.Error("asking what is known has asked the resolver")
		}
	})
}

func TestNamesAreBounded(t *testing.T) {
	r := &counting{}
	c := newCachingResolver(r, NewMetrics(nil))
	r.want(t, c, "first.test", 1)
	for i := range maxNames - 1 {
		r.want(t, c, fmt.Sprintf("n%d.test", i), 1)
	}
	r.want(t, c, "first.test", 1)
	r.want(t, c, "more.test", 1)
	r.want(t, c, "first.test", 1) // it was asked for just now
	r.want(t, c, "n0.test", 2)    // the oldest had to go
	if n := c.known.Len(); n != maxNames {
		t.Errorf("%d names known, want %d", n, maxNames)
	}
	c.running.Wait()
}

// many is a resolver whose names all have so many addresses, each said twice.
type many int

func (m many) LookupNetIP(context.Context, string, string) (addrs []netip.Addr, _ error) {
	for i := range int(m) {
		a := netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)})
		addrs = append(addrs, a, a)
	}
	return addrs, nil
}

// What is remembered of a name is bounded, too: whoever owns it may give it
// thousands of addresses. Rules are asked about all that theirs have, as one that
// blocks must not miss any.
func TestAddressesAreBounded(t *testing.T) {
	c := newCachingResolver(many(4000), NewMetrics(nil))
	c.drop([]string{"Ruled.test"})
	for host, want := range map[string]int{"client.test": maxAddrs, "ruled.test": 4000} {
		addrs, err := c.LookupNetIP(t.Context(), "ip", host)
		if err != nil || len(addrs) != want {
			t.Errorf("%s: %d addresses, %v; want %d", host, len(addrs), err, want)
		}
		kept, known := c.cached("ip", host)
		if len(kept) != want || cap(kept) > 2*want || !known {
			t.Errorf("%s: %d of %d addresses are remembered (%v), want %d", host, len(kept), cap(kept), known, want)
		}
		if distinct := slices.Compact(slices.Clone(addrs)); len(distinct) != len(addrs) {
			t.Errorf("%s: only %d of %d are distinct", host, len(distinct), len(addrs))
		}
	}
	c.running.Wait()
}

// A burst asks once, and each caller has patience of its own.
func TestBurstAsksOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &counting{delay: 2 * time.Second}
		c := newCachingResolver(r, NewMetrics(nil))
		late := errors.New("too late")
		var group sync.WaitGroup
		for i := range 10 {
			patience := time.Second
			if i < 5 {
				patience = time.Minute
			}
			ctx, cancel := context.WithTimeoutCause(t.Context(), patience, late)
			defer cancel()
			group.Go(func() {
				_, err := c.LookupNetIP(ctx, "ip", "a.test")
				if i < 5 && err != nil || i >= 5 && !errors.Is(err, late) {
					t.Errorf("%d: %v", i, err)
				}
			})
		}
		group.Wait()
		if n := r.times("a.test"); n != 1 || r.stopped != 0 {
			t.Errorf("looked up %d times, %d stopped; want 1 and 0", n, r.stopped)
		}
		if n := counted(t, c.metrics.nameCache.WithLabelValues("joined")); n != 9 {
			t.Errorf("%v joined, want 9", n)
		}
		c.running.Wait()
	})
}

// A lookup ends with the last who waits for it, and leaves no answer.
func TestLookupEndsWhenNobodyWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &counting{delay: time.Hour}
		c := newCachingResolver(r, NewMetrics(nil))
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := c.LookupNetIP(ctx, "ip", "a.test"); !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
		c.running.Wait()
		if r.stopped != 1 {
			t.Errorf("%d lookups stopped, want 1", r.stopped)
		}
		r.delay = 0
		r.want(t, c, "a.test", 2)
		c.running.Wait()
	})
}

func TestWhatIsNoName(t *testing.T) {
	r := &counting{}
	c := newCachingResolver(r, NewMetrics(nil))
	label := strings.Repeat("a", 63)
	long := label + "." + label + "." + label + "." // 192
	for host, want := range map[string]error{
		"a.test": nil, "a.test.": nil, "_a.b-c.test": nil, label + ".test": nil, long + label[:61]: nil, long + label[:61] + ".": nil,
		"": errName, ".": errName, "a..test": errName, ".a": errName, label + "a.test": errName, long + label[:62]: errName,
		"a\x00.test": errName, "a\n.test": errName, "a b": errName, "a\x7f": errName, "a\u0085": errName, "a\u00a0": errName,
	} {
		_, err := c.LookupNetIP(t.Context(), "ip", host)
		if !errors.Is(err, want) {
			t.Errorf("%q: %v, want %v", host, err, want)
		}
		if asked := r.times(host) > 0; asked != (want == nil) {
			t.Errorf("%q: looked up: %v", host, asked)
		}
	}
	c.running.Wait()
}

// The names of the rules have places of their own: walking over them again and
// again pushes out neither them nor what clients ask for.
func TestNamesOfRulesHavePlaces(t *testing.T) {
	s, _, ctx := newSession(t, "client pass { from: 0/0 to: 0/0 }\n"+
		"socks block { from: 0/0 to: a.test }\nsocks block { from: b.test to: a.test }\n", 0)
	s.server.names.resolver = &counting{}
	for i := range maxNames + 5 {
		if _, err := s.server.names.LookupNetIP(ctx, "ip", fmt.Sprintf("n%d.test", i)); err != nil {
			t.Fatal(err)
		}
	}
	if n := s.server.names.known.Len(); n != maxNames+2 {
		t.Errorf("%d names known, want %d", n, maxNames+2)
	}
	s.uncouple = func() bool { return true }
	s.finish(nil)
}

func TestLoneDot(t *testing.T) {
	for host, asked := range map[string]string{
		"localhost.": "localhost", "localhost": "localhost", "one.test.": "one.test.", "one.test": "one.test", "one..": "one..",
	} {
		r := &counting{}
		if _, err := (withoutLoneDot{r}).LookupNetIP(t.Context(), "ip", host); err != nil || r.times(asked) != 1 {
			t.Errorf("%q: asked %v, %v, want %q", host, r.asked, err, asked)
		}
	}
}
