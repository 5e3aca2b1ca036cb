package race

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func addrs(texts ...string) []netip.Addr {
	var list []netip.Addr
	for _, text := range texts {
		list = append(list, netip.MustParseAddr(text))
	}
	return list
}

func TestInterleave(t *testing.T) {
	for _, c := range []struct{ have, want []netip.Addr }{
		{addrs("::1", "::2", "::3", "10.0.0.1", "10.0.0.2"), addrs("::1", "10.0.0.1", "::2", "10.0.0.2", "::3")},
		{addrs("10.0.0.1", "::1", "10.0.0.2"), addrs("10.0.0.1", "::1", "10.0.0.2")},
		{addrs("10.0.0.2", "10.0.0.1"), addrs("10.0.0.2", "10.0.0.1")},
		{addrs("::1"), addrs("::1")},
	} {
		if got := Interleave(c.have); !slices.Equal(got, c.want) {
			t.Errorf("%v: %v, want %v", c.have, got, c.want)
		}
	}
}

// host is what an address does: it answers or fails after some time; the zero
// time is never.
type host struct {
	after time.Duration
	err   error
}

// network is a network with such hosts, in the time of a synctest bubble.
type network struct {
	hosts   map[string]host
	begun   []string
	running atomic.Int64
	most    int64
}

func (n *network) prepare(a netip.Addr) (Connect, error) {
	h := n.hosts[a.String()]
	n.begun = append(n.begun, a.String())
	n.most = max(n.most, n.running.Add(1))
	return func(ctx context.Context) (*net.TCPConn, error) {
		defer n.running.Add(-1)
		var answer <-chan time.Time
		if h.after > 0 {
			answer = time.After(h.after)
		}
		select {
		case <-answer:
			if h.err != nil {
				return nil, h.err
			}
			return new(net.TCPConn), nil // closing it fails, which nobody minds
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}, nil
}

var errRefused = errors.New("refused")

const ms = time.Millisecond

// races are told by what becomes of each and how long it takes.
var races = map[string]struct {
	hosts    map[string]host
	addrs    []string
	won      string
	took     time.Duration
	failures map[string]error
}{
	"the first answers": {
		map[string]host{"::1": {after: 100 * ms}}, []string{"::1", "10.0.0.1"},
		"::1", 100 * ms, nil,
	},
	"a silent IPv6 address costs 250 ms": {
		map[string]host{"10.0.0.1": {after: 30 * ms}}, []string{"::1", "::2", "::3", "10.0.0.1"},
		"10.0.0.1", 280 * ms, map[string]error{"::1": ErrSlower},
	},
	"a slow one may still win": {
		map[string]host{"::1": {after: 300 * ms}, "10.0.0.1": {after: 100 * ms}}, []string{"::1", "10.0.0.1"},
		"::1", 300 * ms, map[string]error{"10.0.0.1": ErrSlower},
	},
	"a failure costs nothing": {
		map[string]host{"::1": {20 * ms, errRefused}, "10.0.0.1": {after: 30 * ms}}, []string{"::1", "10.0.0.1"},
		"10.0.0.1", 50 * ms, map[string]error{"::1": errRefused},
	},
	"all fail": {
		map[string]host{"::1": {20 * ms, errRefused}, "10.0.0.1": {30 * ms, errRefused}}, []string{"::1", "10.0.0.1"},
		"", 50 * ms, map[string]error{"::1": errRefused, "10.0.0.1": errRefused},
	},
	"all are silent": {
		nil, []string{"::1", "10.0.0.1"},
		"", 30 * time.Second, map[string]error{"::1": context.DeadlineExceeded, "10.0.0.1": context.DeadlineExceeded},
	},
	"one address has all the time": {
		map[string]host{"::1": {after: 29 * time.Second}}, []string{"::1"},
		"::1", 29 * time.Second, nil,
	},
	"the last of many": {
		map[string]host{"10.0.0.9": {after: ms}},
		[]string{"10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.4", "10.0.0.5", "10.0.0.9"},
		"10.0.0.9", 15*time.Second + 126*ms, map[string]error{
			"10.0.0.1": context.DeadlineExceeded, "10.0.0.2": context.DeadlineExceeded,
			"10.0.0.3": ErrSlower, "10.0.0.4": ErrSlower, "10.0.0.5": ErrSlower,
		},
	},
}

func TestDial(t *testing.T) {
	for name, c := range races {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := &network{hosts: c.hosts}
				won, took, failures := n.dial(t, addrs(c.addrs...))
				if won != c.won || took != c.took {
					t.Errorf("%q won in %v, want %q in %v", won, took, c.won, c.took)
				}
				if len(failures) != len(c.failures) {
					t.Errorf("%v, want %v", failures, c.failures)
				}
				for _, f := range failures {
					if want := c.failures[f.Addr.String()]; want == nil || !errors.Is(f.Err, want) {
						t.Errorf("%v: %v, want %v", f.Addr, f.Err, want)
					}
				}
			})
		})
	}
}

// dial races for 30 seconds at most. It returns the address that won, "" if none
// did, and how long it took.
func (n *network) dial(t *testing.T, to []netip.Addr) (won string, took time.Duration, failures []Failure) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	began := time.Now()
	conn, at, failures := Dial(ctx, to, n.prepare)
	took = time.Since(began)
	if n.running.Load() != 0 || n.most > MaxAttempts {
		t.Errorf("%d attempts are left, %d were under way at a time", n.running.Load(), n.most)
	}
	if conn != nil {
		won = at.String()
	}
	return won, took, failures
}

// Addresses share the time that there is, but the first ones of a long list get
// enough to answer.
func TestShare(t *testing.T) {
	for _, c := range []struct {
		all  time.Duration
		left int
		want time.Duration
	}{
		{30 * time.Second, 4, 0},
		{30 * time.Second, 8, 15 * time.Second},
		{30 * time.Second, 100, minAttempt},
		{ms, 8, minAttempt}, // its context ends before
	} {
		synctest.Test(t, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), c.all)
			defer cancel()
			if got := share(ctx, c.left); got != c.want {
				t.Errorf("%v for %d: %v, want %v", c.all, c.left, got, c.want)
			}
		})
	}
}
