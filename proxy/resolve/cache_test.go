package resolve

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
)

var client = netip.MustParseAddr("192.0.2.7")

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
func (r *counting) want(t *testing.T, c *Cache, host string, times int) {
	t.Helper()
	addrs, err := c.Lookup(t.Context(), client, host)
	if fine := err == nil && len(addrs) == 1; fine == r.fails {
		t.Errorf("%s: %v, %v", host, addrs, err)
	}
	if n := r.times(strings.ToLower(host)); n != times {
		t.Errorf("%s: looked up %d times, want %d", host, n, times)
	}
}

// tally is an observer.
type tally struct {
	mu sync.Mutex
	counts
}

type counts struct{ hits, joined, lookups, delayed int }

func (o *tally) add(n *int) {
	o.mu.Lock()
	defer o.mu.Unlock()
	*n++
}

func (o *tally) Answered(joined bool) {
	if joined {
		o.add(&o.joined)
	} else {
		o.add(&o.hits)
	}
}

func (o *tally) Delayed() { o.add(&o.delayed) }

func (o *tally) LookedUp(time.Duration) { o.add(&o.lookups) }

func TestNamesAreRememberedForAWhile(t *testing.T) {
	for fails, keep := range map[bool]time.Duration{false: 30 * time.Second, true: 3 * time.Second} {
		synctest.Test(t, func(t *testing.T) {
			r := &counting{fails: fails}
			seen := new(tally)
			c := NewCache(r, 0, seen)
			r.want(t, c, "a.test", 1)
			time.Sleep(keep - time.Nanosecond)
			r.want(t, c, "A.test", 1)
			r.want(t, c, "b.test", 1)
			time.Sleep(time.Nanosecond)
			r.want(t, c, "a.test", 2)
			c.Reset(nil)
			r.want(t, c, "a.test", 3)
			c.Wait()
			if want := (counts{hits: 1, lookups: 4}); seen.counts != want {
				t.Errorf("counted %+v, want %+v", seen.counts, want)
			}
		})
	}
}

// What is asked without waiting is told as long as Lookup would know it.
func TestCachedNames(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &counting{}
		c := NewCache(r, 0, nil)
		is := func(host string, addrs int, known bool) {
			t.Helper()
			if a, ok := c.Cached(host); len(a) != addrs || ok != known {
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
	c := NewCache(r, 0, nil)
	r.want(t, c, "first.test", 1)
	for i := range maxNames - 1 {
		r.want(t, c, fmt.Sprintf("n%d.test", i), 1)
	}
	r.want(t, c, "first.test", 1)
	r.want(t, c, "more.test", 1)
	r.want(t, c, "first.test", 1) // it was asked for just now
	r.want(t, c, "n0.test", 2)    // the oldest had to go
	if n := c.answers.Len(); n != maxNames {
		t.Errorf("%d names known, want %d", n, maxNames)
	}
	c.Wait()
}

// One client that asks for names which are never answered takes half of the
// lookups. The others' names are looked up meanwhile, and its own later.
func TestOneClientLeavesLookups(t *testing.T) {
	const atOnce = 4
	synctest.Test(t, func(t *testing.T) {
		r := &counting{delay: time.Hour}
		seen := new(tally)
		c := NewCache(r, atOnce, seen)
		ask := func(from string, first, names int) (answered func()) {
			ctx, cancel := context.WithCancel(t.Context())
			var group sync.WaitGroup
			for i := range names {
				group.Go(func() {
					c.Lookup(ctx, netip.MustParseAddr(from), fmt.Sprintf("n%d.test", first+i)) //nolint:errcheck // none is answered
				})
			}
			synctest.Wait()
			return func() { cancel(); group.Wait(); synctest.Wait() }
		}
		running := func(want int) {
			t.Helper()
			r.mu.Lock()
			defer r.mu.Unlock()
			if n := len(r.asked) - r.stopped; n != want {
				t.Errorf("%d lookups run, want %d", n, want)
			}
		}
		endFlood := ask("192.0.2.1", 0, 50)
		running(atOnce / 2)
		endOther := ask("192.0.2.2", 100, 1)
		running(atOnce/2 + 1)
		if seen.delayed != 50-atOnce/2 {
			t.Errorf("%d lookups are delayed, want %d", seen.delayed, 50-atOnce/2)
		}
		endFlood()
		running(1)
		endOther()
	})
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
	c := NewCache(many(4000), 0, nil)
	c.Reset([]string{"Ruled.test"})
	for host, want := range map[string]int{"client.test": maxAddrs, "ruled.test": 4000} {
		addrs, err := c.Lookup(t.Context(), client, host)
		if err != nil || len(addrs) != want {
			t.Errorf("%s: %d addresses, %v; want %d", host, len(addrs), err, want)
		}
		kept, known := c.Cached(host)
		if len(kept) != want || cap(kept) > 2*want || !known {
			t.Errorf("%s: %d of %d addresses are remembered (%v), want %d", host, len(kept), cap(kept), known, want)
		}
		if distinct := slices.Compact(slices.Clone(addrs)); len(distinct) != len(addrs) {
			t.Errorf("%s: only %d of %d are distinct", host, len(distinct), len(addrs))
		}
	}
	c.Wait()
}

// A burst asks once, and each caller has patience of its own.
func TestBurstAsksOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &counting{delay: 2 * time.Second}
		seen := new(tally)
		c := NewCache(r, 0, seen)
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
				_, err := c.Lookup(ctx, client, "a.test")
				if i < 5 && err != nil || i >= 5 && !errors.Is(err, late) {
					t.Errorf("%d: %v", i, err)
				}
			})
		}
		group.Wait()
		if n := r.times("a.test"); n != 1 || r.stopped != 0 {
			t.Errorf("looked up %d times, %d stopped; want 1 and 0", n, r.stopped)
		}
		c.Wait()
		if want := (counts{joined: 9, lookups: 1}); seen.counts != want {
			t.Errorf("counted %+v, want %+v", seen.counts, want)
		}
	})
}

// A lookup ends with the last who waits for it, and leaves no answer.
func TestLookupEndsWhenNobodyWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &counting{delay: time.Hour}
		c := NewCache(r, 0, nil)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := c.Lookup(ctx, client, "a.test"); !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
		c.Wait()
		if r.stopped != 1 {
			t.Errorf("%d lookups stopped, want 1", r.stopped)
		}
		r.delay = 0
		r.want(t, c, "a.test", 2)
		c.Wait()
	})
}

func TestInvalidHostNames(t *testing.T) {
	r := &counting{}
	c := NewCache(r, 0, nil)
	label := strings.Repeat("a", 63)
	long := label + "." + label + "." + label + "." // 192
	for host, want := range map[string]error{
		"a.test": nil, "a.test.": nil, "_a.b-c.test": nil, label + ".test": nil, long + label[:61]: nil, long + label[:61] + ".": nil,
		"": ErrName, ".": ErrName, "a..test": ErrName, ".a": ErrName, label + "a.test": ErrName, long + label[:62]: ErrName,
		"a\x00.test": ErrName, "a\n.test": ErrName, "a b": ErrName, "a\x7f": ErrName, "a\u0085": ErrName, "a\u00a0": ErrName,
	} {
		_, err := c.Lookup(t.Context(), client, host)
		if !errors.Is(err, want) {
			t.Errorf("%q: %v, want %v", host, err, want)
		}
		if asked := r.times(host) > 0; asked != (want == nil) {
			t.Errorf("%q: looked up: %v", host, asked)
		}
	}
	c.Wait()
}

// The names of the rules have places of their own: walking over them again and
// again pushes out neither them nor what clients ask for.
func TestNamesOfRulesHavePlaces(t *testing.T) {
	c := NewCache(&counting{}, 0, nil)
	c.Reset([]string{"a.test", "B.test", "a.test"})
	for i := range maxNames + 5 {
		if _, err := c.Lookup(t.Context(), client, fmt.Sprintf("n%d.test", i)); err != nil {
			t.Fatal(err)
		}
	}
	if n := c.answers.Len(); n != maxNames+2 {
		t.Errorf("%d names known, want %d", n, maxNames+2)
	}
	c.Wait()
}

func TestLoneDot(t *testing.T) {
	for host, asked := range map[string]string{
		"localhost.": "localhost", "localhost": "localhost", "one.test.": "one.test.", "one.test": "one.test", "one..": "one..",
	} {
		r := &counting{}
		if _, err := (system{all: r, files: r}).LookupNetIP(t.Context(), "ip", host); err != nil || r.times(asked) != 1 {
			t.Errorf("%q: asked %v, %v, want %q", host, r.asked, err, asked)
		}
	}
}
