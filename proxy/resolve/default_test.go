package resolve

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

// Without /etc/hosts, localhost and what is below it are loopback, and nobody is
// asked for them.
func TestLocalhostWithoutHosts(t *testing.T) {
	asked := resolverFunc(func(_ context.Context, _, host string) ([]netip.Addr, error) {
		t.Errorf("DNS was asked for %s", host)
		return nil, errors.New("no such host")
	})
	empty := resolverFunc(func(context.Context, string, string) ([]netip.Addr, error) {
		return nil, &net.DNSError{Err: "no such host", IsNotFound: true}
	})
	r := system{all: asked, files: empty}
	loopback := []netip.Addr{netip.MustParseAddr("127.0.0.1"), netip.IPv6Loopback()}
	for _, host := range []string{"localhost", "LocalHost", "localhost.", "web.localhost", "web.localhost."} {
		if addrs, err := r.LookupNetIP(t.Context(), "ip", host); err != nil || !slices.Equal(addrs, loopback) {
			t.Errorf("%s: %v, %v; want %v", host, addrs, err, loopback)
		}
	}
	// What /etc/hosts says counts.
	own := netip.MustParseAddr("127.0.0.7")
	r.files = resolverFunc(func(context.Context, string, string) ([]netip.Addr, error) { return []netip.Addr{own}, nil })
	if addrs, err := r.LookupNetIP(t.Context(), "ip", "localhost"); err != nil || !slices.Equal(addrs, []netip.Addr{own}) {
		t.Errorf("%v, %v; want %v", addrs, err, own)
	}
}

type resolverFunc func(ctx context.Context, network, host string) ([]netip.Addr, error)

func (f resolverFunc) LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error) {
	return f(ctx, network, host)
}

// A server that drops queries for IPv6 delays a target by less than half a second,
// and a name in rules as long as the resolver waits.
func TestDroppedIPv6Queries(t *testing.T) {
	four, six := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")
	const latency = 20 * time.Millisecond
	for name, c := range map[string]struct {
		six   time.Duration // until the answer for IPv6, with which the resolver answers for both
		ruled bool
		want  []netip.Addr
		took  time.Duration
	}{
		"answered":          {latency, false, []netip.Addr{six, four}, latency},
		"slow":              {280 * time.Millisecond, false, []netip.Addr{six, four}, 280 * time.Millisecond},
		"dropped":           {10 * time.Second, false, []netip.Addr{four}, askIPv4After + latency + resolutionDelay},
		"dropped, in rules": {10 * time.Second, true, []netip.Addr{four}, 10 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := resolverFunc(func(ctx context.Context, network, _ string) ([]netip.Addr, error) {
					wait := latency
					if network == "ip" {
						wait = max(latency, c.six)
					}
					select {
					case <-time.After(wait):
					case <-ctx.Done():
						return nil, ctx.Err()
					}
					if network == "ip" && c.six < time.Second {
						return []netip.Addr{six, four}, nil
					}
					return []netip.Addr{four}, nil
				})
				cache := NewCache(system{all: r, files: r}, 0, nil)
				if c.ruled {
					cache.Reset([]string{"dual.test"})
				}
				began := time.Now()
				addrs, err := cache.Lookup(t.Context(), netip.MustParseAddr("192.0.2.9"), "dual.test")
				if err != nil || !slices.Equal(addrs, c.want) {
					t.Errorf("%v, %v; want %v", addrs, err, c.want)
				}
				if took := time.Since(began); took != c.took {
					t.Errorf("it took %v, want %v", took, c.took)
				}
				cache.Wait()
			})
		})
	}
}
