package integration

import (
	"fmt"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"
)

// upgrade replaces the process of a replica in place, and returns the new one's number.
func (r *replica) upgrade(t *testing.T) (pid int) {
	t.Helper()
	out, err := exec.Command(usher, "upgrade", "--timeout", "2m", "--admin", strings.TrimPrefix(r.admin, "http://")).CombinedOutput()
	if err != nil {
		t.Fatalf("upgrade of %s: %v: %s", r.name, err, out)
	}
	if _, err := fmt.Sscanf(string(out), "upgraded: process %d ", &pid); err != nil {
		t.Fatalf("upgrade of %s: %s", r.name, out)
	}
	// The first process and its successors share a log, so its end waits for theirs.
	t.Cleanup(func() { syscall.Kill(pid, syscall.SIGKILL) }) //nolint:errcheck // it may have ended
	return pid
}

// TestUpgradeUnderLoad changes the processes of two replicas while clients connect
// without a pause, behind HAProxy and directly: in place, and by a rolling restart.
func TestUpgradeUnderLoad(t *testing.T) {
	const limit = 5
	limited := startWitness(t, newTruth(), "127.0.0.1")
	w := newWorld(t, options{replicas: 2, ttl: 4 * time.Second,
		rules: func(_, free endpoint) string { return standard(limit)(limited.endpoint, free) },
		env:   map[string]string{"USHER_DRAIN_GRACE": "5s", "USHER_DRAIN_TIMEOUT": "1m", "USHER_UPGRADE_TIMEOUT": "2m"}})

	load := startTraffic(t, limited, w.free, 4, w.balancer.addr, w.replicas[0].socks)
	held := client{proxy: w.replicas[0].socks}.ask(t, 3, w.free.String())
	load.more()
	for range 3 {
		for _, r := range w.replicas {
			r.upgrade(t)
			load.more()
		}
	}
	held.alive().want(t, 3, notAllowed)
	held.close()
	load.judge("in place, 6 upgrades", limit)

	load = startTraffic(t, limited, w.free, limit+2, w.balancer.addr)
	for i, r := range w.replicas {
		load.more()
		w.restart(i, r)
	}
	load.more()
	load.judge("rolling restart, 2 restarts", limit)
	w.waitIdle()
}

// restart stops the process that serves as a replica now, and starts another one.
func (w *world) restart(i int, r *replica) {
	w.t.Helper()
	out, err := exec.Command(usher, "stop", "--timeout", "2m", "--admin", strings.TrimPrefix(r.admin, "http://")).CombinedOutput()
	if err != nil {
		w.t.Fatalf("stopping %s: %v: %s", r.name, err, out)
	}
	w.replicas[i] = launchReplica(w.t, r.name, w.hosts[i], w.ports.socks, w.ports.admin, w.env)
	w.replicas[i].waitReady(w.t)
	w.balancer.waitUp(w.t, len(w.replicas))
}

// TestKilledReplicaUnderLoad kills one of three replicas behind HAProxy while clients
// connect without a pause. Sessions of the others live on. How many connections were
// lost with it, and how soon HAProxy sends it no more, is logged.
func TestKilledReplicaUnderLoad(t *testing.T) {
	const limit = 5
	limited := startWitness(t, newTruth(), "127.0.0.1")
	w := newWorld(t, options{replicas: 3, ttl: 2 * time.Second,
		rules: func(_, free endpoint) string { return standard(limit)(limited.endpoint, free) }})
	held := client{proxy: w.balancer.addr}.ask(t, 9, w.free.String())
	held.want(t, 9, granted)
	victim, n := w.busiest()

	load := startTraffic(t, limited, w.free, limit+2, w.balancer.addr)
	load.more()
	bad, begin := load.bad(), time.Now()
	victim.kill()
	eventually(t, 2*patience, func() string {
		if up, err := w.balancer.up(); err != nil || up != 2 {
			return fmt.Sprintf("%d replicas are up: %v", up, err)
		}
		return ""
	})
	took := time.Since(begin)
	load.more()
	if alive := len(held.alive()); alive != 9-n {
		t.Errorf("%d of 9 sessions live, and %d were on the killed replica", alive, n)
	}
	lost := load.bad()
	load.more()
	if later := load.bad() - lost; later > 0 {
		t.Errorf("%d connections were refused or reset later", later)
	}
	load.judgeLimit("a killed replica", limit)
	t.Logf("the killed replica got no traffic after %v; %d connections were reset or refused until then; of 9 sessions %d were cut, all on it",
		took.Round(time.Millisecond), lost-bad, n)
	held.close()
}
