package proxy_test

import (
	"bytes"
	"context"
	"fmt"
	"testing"
	"time"

	"usher/deploy/need"
	"usher/proxy"
	"usher/proxy/socks"
)

// The association ends with the control connection, however that ends. What the client
// sends there does not end it.
func TestAssociationEndsWithItsConnection(t *testing.T) {
	for how, end := range map[string]func(*associated){
		"close":      func(a *associated) { a.Close() },
		"half-close": func(a *associated) { a.must(a.CloseWrite()); a.closed() },
		"reset":      func(a *associated) { a.must(a.SetLinger(0)); a.Close() },
	} {
		t.Run(how, func(t *testing.T) {
			w := newWorld(t, "client pass { from: 0/0 to: 0/0 }\nsocks pass { from: 0/0 to: 0/0\n session.max: 1 }\n")
			a := w.associate(nowhere)
			target := newPeer(t, "127.0.0.2")
			a.send(bytes.Repeat([]byte("ignored"), 30_000))
			a.exchange(target, "hello")
			end(a)
			a.udp.Close()
			target.Close()
			w.left("s1", 1)
			reason := "done"
			if how == "reset" {
				reason = "client_error"
			}
			w.reason(reason)
		})
	}
}

// An association that relays nothing ends after timeout.io.udp; datagrams that
// are dropped do not keep it alive.
func TestIdleAssociation(t *testing.T) {
	need.Seconds(t)
	t.Parallel()
	w := newWorld(t, "timeout.io.udp: 3\ntimeout.io.tcp: 0\n"+anybody)
	a := w.associate(nowhere)
	a.exchange(newPeer(t, "127.0.0.2"), "hello")
	stranger := newPeer(t, "127.0.0.2")
	over := make(chan struct{})
	done := make(chan struct{})
	go func() {
		defer close(done)
		for tick := time.NewTicker(50 * time.Millisecond); ; {
			select {
			case <-tick.C:
				_, _ = stranger.WriteToUDPAddrPort([]byte("noise"), a.relay) // refused once it is closed
			case <-over:
				tick.Stop()
				return
			}
		}
	}()
	a.closed()
	close(over)
	<-done
	w.reason("idle")
}

// A rule's own idle time counts, whatever that of the settings is.
func TestIdleAssociationByRule(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "timeout.io.udp: 3600\nclient pass { from: 0/0 to: 0/0 }\nsocks pass { from: 0/0 to: 0/0\n timeout.io.udp: 1 }\n")
	a := w.associate(nowhere)
	a.closed()
	w.reason("idle")
}

// An association that ends does not wait for names.
func TestAssociationEndsWhileNamesAreAway(t *testing.T) {
	w := newWorld(t, anybody, func(o *proxy.Options, _ *proxy.Policy) { o.Resolver = stuck{make(chan struct{}, 1)} })
	a := w.associate(nowhere)
	a.udp.send(datagram(t, socks.Addr{Name: "slow.test", Port: 53}, "slow"), a.relay)
	a.exchange(newPeer(t, "127.0.0.2"), "quick")
	a.Close()
	a.udp.Close()
	eventually(t, func() string {
		if n := w.server.Sessions(); n != 0 {
			return "the association is still there"
		}
		return ""
	})
	w.reason("done")
}

// A drain cuts associations when its time is over.
func TestDrainCutsAssociations(t *testing.T) {
	w := newWorld(t, "client pass { from: 0/0 to: 0/0 }\nsocks pass { from: 0/0 to: 0/0\n session.max: 1 }\n")
	a := w.associate(nowhere)
	target := newPeer(t, "127.0.0.2")
	a.exchange(target, "hello")
	if err := w.server.CloseListeners(); err != nil {
		t.Fatal(err)
	}
	over, cancel := context.WithCancel(t.Context())
	drained := make(chan proxy.Cut)
	go func() { drained <- w.server.Drain(over) }()
	a.exchange(target, "still served")
	cancel()
	if cut := <-drained; cut.Sessions != 1 {
		t.Errorf("%d cut, want 1", cut.Sessions)
	}
	a.closed()
	w.reason("drain")
	if n := w.slots("s1", 1); n != 1 {
		t.Error("the slot is not given back")
	}
}

// In strict mode an association ends when its lease is lost.
func TestLostLeaseEndsAssociations(t *testing.T) {
	need.Seconds(t)
	t.Parallel()
	st, strict := losable(t)
	w := newWorld(t, "client pass { from: 0/0 to: 0/0 }\nsocks pass { from: 0/0 to: 0/0\n session.max: 1 }\n", strict)
	a := w.associate(nowhere)
	a.exchange(newPeer(t, "127.0.0.2"), "hello")
	st.cut.Store(true)
	a.closed()
	w.reason("lease_lost")
}

// Idle associations hold two descriptors and two goroutines.
func TestIdleAssociationIsSmall(t *testing.T) {
	w := newWorld(t, anybody)
	const n = 10
	running := goroutines()
	for range n {
		c := &associated{client: w.client()}
		c.ask(nowhere)
	}
	eventually(t, func() string {
		if got := len(goroutines().since(running)); got != 2*n {
			return fmt.Sprintf("%d goroutines for %d associations", got, n)
		}
		return ""
	})
	if got := len(descriptors(t).since(w.fds)); got != 3*n { // the client's end is here, too
		t.Errorf("%d descriptors for %d associations with their clients' ends", got, n)
	}
}
