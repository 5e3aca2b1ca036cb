package integration

import (
	"fmt"
	"net/http"
	"strings"
	"syscall"
	"testing"
	"time"

	"usher/deploy/need"
	"usher/store/redisstore/redistest"
)

// TestReadinessOfAStart watches /readyz from the start, when the store does not run,
// until the store is ready.
func TestReadinessOfAStart(t *testing.T) {
	redis := redistest.Start(t)
	redis.Kill()
	e, free := startEcho(t), startEcho(t)
	rules := t.TempDir() + "/sockd.conf"
	writeFile(t, rules, standard(1)(e.endpoint(), free.endpoint()))
	env := map[string]string{
		"USHER_CONFIG": rules, "USHER_STORE": redis.URL(), "USHER_LEASE_TTL": "4s",
	}
	begin := time.Now()
	r := launchReplica(t, "usher", "127.0.1.1", need.Port(t), need.Port(t), env)
	eventually(t, patience, func() string {
		if code, _, err := r.get("/healthz"); code != http.StatusOK {
			return fmt.Sprintf("/healthz %d %v", code, err)
		}
		return ""
	})
	direct := client{proxy: r.socks}
	code, body, _ := r.get("/readyz")
	if code != http.StatusServiceUnavailable || !strings.Contains(body, "store") {
		t.Errorf("/readyz before the store was ever there: %d %s", code, body)
	}
	// Rules without a limit do not wait for the store.
	direct.ask(t, 3, free.endpoint().String()).want(t, 3, notAllowed)
	direct.ask(t, 3, e.endpoint().String()).want(t, 0, failure)
	// After two TTL it is ready without the store. Rules that do not need the store must
	// work even if it stays down.
	r.waitReady(t)
	if took := time.Since(begin); took < 7*time.Second {
		t.Errorf("ready without a store after %v, want two TTL", took)
	}
	redis.Start()
	eventually(t, patience, func() string {
		if code, body, err := r.get("/readyz?strict=1"); code != http.StatusOK {
			return fmt.Sprintf("/readyz?strict=1 with the store there: %d %s %v", code, body, err)
		}
		return ""
	})
	direct.ask(t, 3, e.endpoint().String()).want(t, 1, notAllowed)
}

// TestDrain stops a replica behind the balancer. New clients go elsewhere, no session
// is cut, and the process ends as soon as its last session is over.
func TestDrain(t *testing.T) {
	w := newWorld(t, options{env: map[string]string{
		"USHER_DRAIN_GRACE": "5s", "USHER_DRAIN_TIMEOUT": "1m",
	}})
	victim := w.replicas[0]
	held := (client{proxy: victim.socks}).ask(t, 3, w.limited.String())
	held.want(t, 3, notAllowed)
	through := w.proxy.ask(t, 9, w.free.String())
	through.want(t, 9, notAllowed)

	begin := time.Now()
	victim.signal(syscall.SIGTERM)
	eventually(t, patience, func() string {
		if code, body, err := victim.get("/readyz"); code != http.StatusServiceUnavailable {
			return fmt.Sprintf("/readyz of a stopping replica: %d %s %v", code, body, err)
		}
		return ""
	})
	// It still accepts clients until balancers notice.
	late := (client{proxy: victim.socks}).ask(t, 1, w.free.String())
	late.want(t, 1, notAllowed)
	eventually(t, patience, func() string {
		if up, err := w.balancer.isUp(1); up || err != nil {
			return fmt.Sprintf("the balancer still finds it up %v", err)
		}
		return ""
	})
	t.Logf("the balancer knew after %v", time.Since(begin).Round(time.Millisecond))
	// The listener is closed after the grace. Clients of the balancer do not notice.
	eventually(t, patience, func() string {
		conn, err := (client{proxy: victim.socks}).dial()
		if err == nil {
			conn.Close()
			return "it still listens"
		}
		return ""
	})
	if took := time.Since(begin); took < 5*time.Second {
		t.Errorf("the listener was closed after %v, before the grace of 5s", took)
	}
	w.proxy.ask(t, 20, w.free.String()).want(t, 20, notAllowed)
	held.want(t, 3, notAllowed)
	through.want(t, 9, notAllowed)
	if _, ended := victim.proc.ended(); ended {
		t.Fatal("the replica ended with sessions alive and time left")
	}
	// It still holds its three slots.
	w.proxy.ask(t, 5, w.limited.String()).want(t, 2, notAllowed)
	held.close()
	through.close()
	late.close()
	victim.exits(patience, 0)
}

// TestDrainTimeout checks that the drain ends after its time limit, with exit code 0.
func TestDrainTimeout(t *testing.T) {
	w := newWorld(t, options{replicas: 1, env: map[string]string{"USHER_DRAIN_TIMEOUT": "1s"}})
	r := w.replicas[0]
	held := (client{proxy: r.socks}).ask(t, 3, w.limited.String())
	held.want(t, 3, notAllowed)
	begin := time.Now()
	r.signal(syscall.SIGTERM)
	r.exits(patience, 0)
	if took := time.Since(begin); took < time.Second {
		t.Errorf("ended after %v, before the 1s", took)
	}
	if n := len(held.alive()); n != 0 {
		t.Errorf("%d sessions outlived their replica", n)
	}
}

// TestHealthChecksAreNoSessions starts a balancer whose checks would be blocked or
// above a limit if they were sessions. They appear neither in the counters nor in the
// log.
func TestHealthChecksAreNoSessions(t *testing.T) {
	w := newWorld(t, options{replicas: 1, alone: true, rules: func(limited, free endpoint) string {
		return fmt.Sprintf(`
client block {
	from: %s/32 to: 0/0
}
client pass {
	from: 0/0 to: 0/0
	maxsessions: 1
}
socks pass {
	from: 0/0 to: %s
}`, balancerSource, limited.to())
	}})
	r := w.replicas[0]
	waiting := (client{proxy: r.socks}).greeted(t)
	defer waiting.Close()
	w.balance() // waits for a check that passed
	if got := r.metrics(t).sum("usher_sessions_rejected_total"); got != 0 {
		t.Errorf("health checks count as %v refused sessions", got)
	}
	for line := range strings.Lines(r.proc.out.String()) {
		if strings.Contains(line, `"level":"ERROR"`) || strings.Contains(line, `"level":"WARN"`) && strings.Contains(line, balancerSource) {
			t.Errorf("a health check is worth this line in the log: %s", line)
		}
	}
}
