package integration

import (
	"fmt"
	"syscall"
	"testing"
	"time"
)

// scenario tests one promise about limits. It begins and ends without any session.
// Scenarios that stop replicas come last.
type scenario struct {
	name   string
	ttl    time.Duration // of a world of processes
	direct bool          // needs replicas that are reached without the balancer
	run    func(*testing.T, *world)
}

var scenarios = []scenario{
	{"exactly five of forty", 2 * time.Second, false, exactlyFive},
	{"a closed session is replaced at once", 2 * time.Second, true, replacedAtOnce},
	{"old and new limits side by side", 2 * time.Second, false, sideBySide},
	{"a broken file changes nothing", 2 * time.Second, false, brokenFile},
	{"the store is away and comes back", 2 * time.Second, false, storeAway},
	{"kill gives slots back", 2 * time.Second, false, killGivesBack},
	{"stop gives slots back at once", 10 * time.Second, false, stopGivesBack},
}

// TestLimits runs each scenario in a world of processes of its own.
func TestLimits(t *testing.T) {
	for _, s := range scenarios {
		t.Run(s.name, func(t *testing.T) {
			s.run(t, newWorld(t, options{ttl: s.ttl}))
		})
	}
}

// exactlyFive sends forty clients at the same time.
func exactlyFive(t *testing.T, w *world) {
	all := w.proxy.ask(t, 40, w.limited.String())
	all.want(t, 5, notAllowed)
	if w.echo != nil {
		if now, peak := w.echo.open(); now != 5 || peak != 5 {
			t.Errorf("the target has %d connections and had at most %d, want 5", now, peak)
		}
	}
	// Every replica had to decide, whoever was admitted.
	for _, r := range w.living() {
		eventually(t, patience, func() string { // a session is counted after it was answered
			n, refused := r.status(t).Sessions, r.metrics(t).sum("usher_sessions_rejected_total", `reason="limit"`)
			if n == 0 && refused == 0 {
				return r.name + " was asked by nobody"
			}
			t.Logf("%s holds %d and refused %v", r.name, n, refused)
			return ""
		})
	}
	// The rule without a limit has none.
	unlimited := w.proxy.ask(t, 20, w.free.String())
	unlimited.want(t, 20, notAllowed)
	all.alive().want(t, 5, notAllowed)
	unlimited.close()
	all.close()
	w.waitIdle()
}

// replacedAtOnce closes a session on one replica, and opens one on another.
func replacedAtOnce(t *testing.T, w *world) {
	a := client{proxy: w.replicas[0].socks}
	b := client{proxy: w.replicas[1].socks}
	held := a.ask(t, 5, w.limited.String())
	held.want(t, 5, notAllowed)
	for i := range 5 {
		b.ask(t, 1, w.limited.String()).want(t, 0, notAllowed)
		held[i].Close()
		begin := time.Now()
		var next answer
		eventually(t, patience, func() string {
			next = b.connect(w.limited.String())
			if next.Conn == nil {
				return fmt.Sprintf("the slot of a closed session is not free on another replica: reply %d", next.reply)
			}
			return ""
		})
		t.Cleanup(func() { next.Close() })
		t.Logf("replaced after %v", time.Since(begin).Round(time.Millisecond))
		crowd{next}.want(t, 1, notAllowed)
		a, b = b, a
		if i%2 == 0 {
			continue
		}
		a, b = client{proxy: w.replicas[1].socks}, client{proxy: w.replicas[2].socks}
	}
}

// sideBySide reloads with another limit while sessions of the old one live.
func sideBySide(t *testing.T, w *world) {
	old := w.proxy.ask(t, 6, w.limited.String())
	old.want(t, 5, notAllowed)
	old = old.alive()
	w.reload(standard(3)(w.limited, w.free), true)
	newer := w.proxy.ask(t, 20, w.limited.String())
	newer.want(t, 3, notAllowed)
	newer = newer.alive()
	old.want(t, 5, notAllowed)

	// The end of an old session frees no slot of the new limit ...
	old[0].Close()
	old[1].Close()
	eventually(t, patience, func() string {
		// A replica that has no old session left does not watch the old limit.
		seen := false
		for _, r := range w.living() {
			st := r.status(t)
			was, is := st.counted(false), st.counted(true)
			if was != 3 && was != 0 || is != 3 {
				return fmt.Sprintf("%s: %d sessions counted under the old rules, %d under the new, want 3 and 3",
					r.name, was, is)
			}
			seen = seen || was == 3
		}
		if !seen {
			return "no replica tells of the sessions under the old rules"
		}
		return ""
	})
	w.proxy.ask(t, 10, w.limited.String()).want(t, 0, notAllowed)
	// ... and the end of a new session does.
	newer[0].Close()
	var next answer
	eventually(t, patience, func() string {
		if next = w.proxy.connect(w.limited.String()); next.Conn == nil {
			return fmt.Sprintf("reply %d after a session of the new rules ended", next.reply)
		}
		return ""
	})
	now := append(append(crowd{next}, newer[1:]...), old[2:]...)
	now.want(t, 6, notAllowed)

	now.close()
	w.reload(standard(5)(w.limited, w.free), true)
	w.waitIdle()
}

// brokenFile reloads a file that is not valid.
func brokenFile(t *testing.T, w *world) {
	held := w.proxy.ask(t, 3, w.limited.String())
	held.want(t, 3, notAllowed)
	digest := w.replicas[0].status(t).Rules.Digest
	w.reload("socks pass {\n\tfrom: 0/0 to: 0/0\n", false)
	for _, r := range w.living() {
		if got := r.status(t).Rules.Digest; got != digest {
			t.Errorf("%s: digest %s after a broken file, was %s", r.name, got, digest)
		}
		if got := r.metrics(t).sum("usher_config_last_reload_successful"); got != 0 {
			t.Errorf("%s: usher_config_last_reload_successful %v", r.name, got)
		}
	}
	rest := w.proxy.ask(t, 10, w.limited.String())
	rest.want(t, 2, notAllowed)
	held.want(t, 3, notAllowed)

	held.close()
	rest.close()
	w.reload(standard(5)(w.limited, w.free), true)
	w.waitIdle()
}

// storeAway kills the store, with sessions alive, and brings it back empty.
func storeAway(t *testing.T, w *world) {
	held := w.proxy.ask(t, 3, w.limited.String())
	held.want(t, 3, notAllowed)
	w.store.Kill()
	begin := time.Now()
	unlimited := w.proxy.ask(t, 10, w.free.String())
	unlimited.want(t, 10, notAllowed)
	t.Logf("without a store, the rule without a limit answered in %v", time.Since(begin).Round(time.Millisecond))
	// Until the replicas have lost their leases too, and after.
	for range 3 {
		w.proxy.ask(t, 5, w.limited.String()).want(t, 0, failure)
	}
	held.want(t, 3, notAllowed)
	for _, r := range w.living() {
		if code, body, err := r.get("/readyz"); code != 200 {
			t.Errorf("%s is not ready without its store: %d %s %v", r.name, code, body, err)
		}
		eventually(t, patience, func() string {
			if code, _, err := r.get("/readyz?strict=1"); code != 503 {
				return fmt.Sprintf("%s: strict readiness without a store: %d %v", r.name, code, err)
			}
			return ""
		})
	}

	w.store.Start()
	w.waitReady()
	held.want(t, 3, notAllowed)
	unlimited.want(t, 10, notAllowed)
	rest := w.proxy.ask(t, 10, w.limited.String())
	rest.want(t, 2, notAllowed)
	unlimited.close()
	held.close()
	rest.close()
	w.waitIdle()
}

// killGivesBack kills the replica with the most sessions by SIGKILL, and logs how long
// its slots take to be free. The limiter's tests check in virtual time that it is at
// most one TTL.
func killGivesBack(t *testing.T, w *world) {
	held := w.proxy.ask(t, 6, w.limited.String())
	held.want(t, 5, notAllowed)
	held = held.alive()
	victim, n := w.busiest()
	begin := time.Now()
	victim.kill()
	t.Logf("killed %s, which held %d", victim.name, n)
	back := w.regain(t, n)
	t.Logf("its slots were back after %v of a TTL of %v", time.Since(begin).Round(time.Millisecond), w.ttl)
	now := append(held.alive(), back...)
	now.want(t, 5, notAllowed)
	w.proxy.ask(t, 10, w.limited.String()).want(t, 0, notAllowed)
	now.close()
	w.waitIdle()
}

// stopGivesBack stops the replica with the most sessions by SIGTERM.
func stopGivesBack(t *testing.T, w *world) {
	held := w.proxy.ask(t, 6, w.limited.String())
	held.want(t, 5, notAllowed)
	held = held.alive()
	victim, n := w.busiest()
	victim.signal(syscall.SIGTERM)
	victim.exits(patience, 0)
	begin := time.Now()
	back := w.regain(t, n)
	took := time.Since(begin)
	t.Logf("%d slots were back %v after %s had stopped", n, took.Round(time.Millisecond), victim.name)
	if took > w.ttl*3/4 {
		t.Errorf("no sooner than others can know by its silence: it has given nothing back")
	}
	now := append(held.alive(), back...)
	now.want(t, 5, notAllowed)
	w.proxy.ask(t, 10, w.limited.String()).want(t, 0, notAllowed)
	now.close()
	w.waitIdle()
}

// regain asks for limited sessions until n are granted. If it can, it asks living
// replicas directly, one after the other. So it does not measure how fast the balancer
// notices a death.
func (w *world) regain(t *testing.T, n int) (back crowd) {
	t.Helper()
	var ways []client
	for _, r := range w.living() {
		if r.socks != "" {
			ways = append(ways, client{proxy: r.socks})
		}
	}
	if len(ways) == 0 {
		ways = append(ways, w.proxy)
		w.balancer.waitUp(t, len(w.living()))
	}
	tries := 0
	eventually(t, patience, func() string {
		for len(back) < n {
			tries++
			a := ways[tries%len(ways)].connect(w.limited.String())
			if a.Conn == nil {
				if a.reply != notAllowed {
					t.Logf("while waiting for slots: reply %d %v", a.reply, a.err)
				}
				return fmt.Sprintf("%d of %d slots are back", len(back), n)
			}
			t.Cleanup(func() { a.Close() })
			back = append(back, a)
		}
		return ""
	})
	return back
}
