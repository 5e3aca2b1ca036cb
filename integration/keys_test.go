package integration

import (
	"fmt"
	"net/netip"
	"testing"
	"time"
)

// source returns a client address other than the balancer's.
func source(n int) netip.Addr { return netip.AddrFrom4([4]byte{127, 0, 2, byte(n)}) }

// TestLimitByClient: each client address may have two sessions, and all together seven,
// on all replicas.
func TestLimitByClient(t *testing.T) {
	w := newWorld(t, options{rules: func(limited, free endpoint) string {
		return fmt.Sprintf(`
client pass { from: 0/0 to: 0/0 }
socks pass {
	from: 0/0 to: %s
	session.max: 7
	session.state.key: from
	session.state.max: 2
}
`, limited.to())
	}})
	at := w.limited.String()
	var held []crowd
	for n := 1; n <= 3; n++ {
		c := client{proxy: w.proxy.proxy, from: source(n)}
		crowd := c.ask(t, 12, at)
		crowd.want(t, 2, notAllowed)
		held = append(held, crowd.alive())
	}
	// The limit of the rule leaves only one session for the fourth client.
	fourth := client{proxy: w.proxy.proxy, from: source(4)}
	rest := fourth.ask(t, 12, at)
	rest.want(t, 1, notAllowed)

	// The slot that one client returns is for any client that has less than two.
	held[0][0].Close()
	second := client{proxy: w.proxy.proxy, from: source(2)}
	w.eventuallyGranted(fourth, at)
	second.ask(t, 4, at).want(t, 0, notAllowed)

	rest.close()
	for _, c := range held {
		c.close()
	}
}

// TestLimitByUser tests what users of Dante asked for and could not write: one line
// that gives every user two sessions, on all replicas together.
func TestLimitByUser(t *testing.T) {
	w := newWorld(t, options{users: users(t, "monica", "rachel"), rules: func(limited, free endpoint) string {
		return fmt.Sprintf(`
socksmethod: username
client pass { from: 0/0 to: 0/0 }
socks pass {
	from: 0/0 to: %s
	session.state.key: user
	session.state.max: 2
}
`, limited.to())
	}})
	at := w.limited.String()
	monica := w.proxy
	monica.user, monica.password = "monica", "pw-monica"
	rachel := w.proxy
	rachel.user, rachel.password = "rachel", "pw-rachel"

	hers := monica.ask(t, 10, at)
	hers.want(t, 2, notAllowed)
	others := rachel.ask(t, 10, at)
	others.want(t, 2, notAllowed)
	hers.alive()[0].Close()
	w.eventuallyGranted(monica, at)
	rachel.ask(t, 3, at).want(t, 0, notAllowed)
}

// TestRate: five sessions may begin in the window, over all replicas. The end of a
// session or the death of a replica frees none of these. If the machine needs longer
// than the window to ask, the test tries again with a longer window.
func TestRate(t *testing.T) {
	t.Parallel() // most of it is waiting for the window to end
	for _, seconds := range []int{20, 60, 180} {
		slow := false
		t.Run(fmt.Sprintf("%ds", seconds), func(t *testing.T) { slow = !rateHolds(t, seconds) })
		if !slow {
			return
		}
	}
	t.Fatal("no window was long enough for what is asked within it")
}

// rateHolds returns false if a window was over before everything was asked.
func rateHolds(t *testing.T, seconds int) (inTime bool) {
	w := newWorld(t, options{rules: func(limited, free endpoint) string {
		return fmt.Sprintf(`
client pass { from: 0/0 to: 0/0 }
socks pass {
	from: 0/0 to: %s
	session.throttle: 5/%d
}
socks pass { from: 0/0 to: %s }
`, limited.to(), seconds, free.to())
	}})
	at, window := w.limited.String(), time.Duration(seconds)*time.Second
	within := func(since time.Time, c crowd, n int) bool {
		t.Helper()
		trouble := c.trouble(n, notAllowed)
		if took := time.Since(since); took > window {
			t.Logf("the machine took %v for what should be over within a window of %v", took, window)
			return false
		}
		if trouble != "" {
			t.Fatal(trouble)
		}
		return true
	}
	w.proxy.ask(t, 2, w.free.String()).want(t, 2, notAllowed) // all is up
	first := time.Now()
	begun := w.proxy.ask(t, 30, at)
	if !within(first, begun, 5) {
		return false
	}
	victim, _ := w.busiest()
	begun.close()
	victim.kill()
	w.balancer.waitUp(t, len(w.living()))
	if !within(first, w.proxy.ask(t, 10, at), 0) {
		return false
	}
	eventually(t, patience, func() string { // a session is counted after it was answered
		refused := 0.0
		for _, r := range w.living() {
			refused += r.metrics(t).sum("usher_sessions_rejected_total", `reason="throttle"`)
		}
		if refused < 10 {
			return fmt.Sprintf("the living replicas counted %v refusals by rate, want 10 and more", refused)
		}
		return ""
	})

	// The window ends, and lets five in again.
	var next answer
	var again time.Time
	eventually(t, window+patience, func() string {
		again = time.Now()
		if next = w.proxy.connect(at); next.Conn == nil {
			return fmt.Sprintf("reply %d", next.reply)
		}
		return ""
	})
	next.Close()
	if took := time.Since(first); took < window {
		t.Errorf("a sixth session began %v after the first, within a window of %v", took, window)
	}
	return within(again, w.proxy.ask(t, 10, at), 4)
}

// eventuallyGranted waits until a client is let in.
func (w *world) eventuallyGranted(c client, target string) {
	w.t.Helper()
	eventually(w.t, patience, func() string {
		a := c.connect(target)
		if a.Conn == nil {
			return fmt.Sprintf("reply %d", a.reply)
		}
		w.t.Cleanup(func() { a.Close() })
		return ""
	})
}
