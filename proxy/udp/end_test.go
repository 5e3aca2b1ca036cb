package udp

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"usher/proxy/decide"
	"usher/proxy/resolve"
	"usher/proxy/rules"
	"usher/proxy/selfaddr"
	"usher/proxy/socks"
)

// unanswered is a resolver that never answers. It tells of each question.
type unanswered chan struct{}

func (r unanswered) LookupNetIP(ctx context.Context, _, _ string) ([]netip.Addr, error) {
	r <- struct{}{}
	<-ctx.Done()
	return nil, ctx.Err()
}

// An association that ends does not wait for the names that its datagrams need.
func TestEndWaitsForNoName(t *testing.T) {
	set, found := rules.Parse("test.conf", []byte("client pass { from: 0/0 to: 0/0 }\nsocks pass { from: 0/0 to: 0/0 }\n"), rules.Env{})
	if set == nil {
		t.Fatal(found)
	}
	synctest.Test(t, func(t *testing.T) {
		near, far := net.Pipe()
		names := make(unanswered, 9)
		cache := resolve.NewCache(names, 0, nil)
		a, err := Open(Options{
			Judge: decide.Session{
				Policy:  &decide.Policy{Rules: set},
				Machine: decide.Machine{Own: func(netip.AddrPort) bool { return false }},
				From:    netip.AddrPortFrom(loopback, 4711), Local: loopback, Version: rules.Version(socks.V5),
			},
			Names: cache, Metrics: NewMetrics(nil), Control: near, Client: Client{Addr: loopback},
			Heard: new(selfaddr.Set), Up: new(atomic.Int64), Down: new(atomic.Int64),
		})
		if err != nil {
			t.Fatal(err)
		}
		ended := make(chan error)
		go func() { ended <- a.Run(t.Context(), 0) }()
		client, err := net.Dial("udp", a.Advertised().String())
		if err != nil {
			t.Fatal(err)
		}
		defer client.Close()
		if _, err := client.Write([]byte("\x00\x00\x00\x03\x09slow.test\x00\x35")); err != nil {
			t.Fatal(err)
		}
		<-names
		began := time.Now()
		far.Close()
		if err := <-ended; !errors.Is(err, ErrEnded) {
			t.Errorf("ended by %v, want %v", err, ErrEnded)
		}
		if waited := time.Since(began); waited != 0 { // the clock of synctest moves only while everybody waits
			t.Errorf("the end waited %v for a name", waited)
		}
		cache.Wait()
	})
}
