package integration

import (
	"bufio"
	"fmt"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// traffic is clients that connect without a pause, each with one session at a time: to
// a target with a limit, where a full limit is a good answer as well, and to one
// without.
type traffic struct {
	t     *testing.T
	truth *truth

	tried, full atomic.Int64
	bad         atomic.Int64 // refused, reset, or not relayed
	mu          sync.Mutex
	worst       string // one of the bad ones

	stop    chan struct{}
	clients sync.WaitGroup
}

// pace keeps a client from using up the local ports.
const pace = 5 * time.Millisecond

// startTraffic lets so many clients of each kind connect to each proxy.
func startTraffic(t *testing.T, truth *truth, limited, free endpoint, each int, proxies ...string) *traffic {
	t.Helper()
	l := &traffic{t: t, truth: truth, stop: make(chan struct{})}
	for _, proxy := range proxies {
		for range each {
			l.clients.Go(func() { l.run(client{proxy: proxy}, limited, true) })
			l.clients.Go(func() { l.run(client{proxy: proxy}, free, false) })
		}
	}
	t.Cleanup(l.end)
	return l
}

func (l *traffic) run(c client, target endpoint, limited bool) {
	tick := time.NewTicker(pace)
	defer tick.Stop()
	for {
		select {
		case <-l.stop:
			return
		case <-tick.C:
			l.once(c, target, limited)
		}
	}
}

// once opens a session, sends a line to the target and back, and closes it.
func (l *traffic) once(c client, target endpoint, limited bool) {
	l.tried.Add(1)
	asked := l.truth.now()
	a := c.connect(target.String())
	switch {
	case limited && a.reply == notAllowed:
		l.full.Add(1)
		return
	case a.reply != granted:
		l.failed(fmt.Sprintf("reply %d, %v", a.reply, a.err))
		return
	}
	defer a.Close()
	if !limited {
		if !a.relays() {
			l.failed("nothing came through")
		}
		return
	}
	s := l.truth.admitted(0, 0, 0, asked)
	n := l.truth.send(s)
	if a.SetDeadline(time.Now().Add(patience)) != nil {
		return
	}
	if _, err := fmt.Fprintf(a, "session %d line %d\n", s.id, n); err != nil {
		l.failed(err.Error())
		return
	}
	if _, err := bufio.NewReaderSize(a, 64).ReadString('\n'); err != nil {
		l.failed(err.Error())
		return
	}
	l.truth.returned(s, n)
}

func (l *traffic) failed(how string) {
	l.bad.Add(1)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.worst = how
}

// end stops the clients. It is idempotent.
func (l *traffic) end() {
	select {
	case <-l.stop:
	default:
		close(l.stop)
	}
	l.clients.Wait()
}

// more waits until 200 further sessions were tried.
func (l *traffic) more() {
	l.t.Helper()
	const n = 200
	from := l.tried.Load()
	eventually(l.t, 4*patience, func() string {
		if now := l.tried.Load() - from; now < n {
			return fmt.Sprintf("%d of %d sessions tried", now, n)
		}
		return ""
	})
}

// judge ends the clients and checks that none was turned away without reason, and that
// the limited target never had more sessions than the limit.
func (l *traffic) judge(what string, limit int) {
	l.t.Helper()
	l.judgeLimit(what, limit)
	if n := l.bad.Load(); n > 0 {
		l.t.Errorf("%d of %d connections were refused or reset, one of them: %s", n, l.tried.Load(), l.worst)
	}
}

// judgeLimit is judge without a verdict about those that were turned away.
func (l *traffic) judgeLimit(what string, limit int) {
	l.t.Helper()
	l.end()
	at, when := most(l.truth.spans(0, nil), 0)
	l.t.Logf("%s: %d connections tried, %d refused or reset; at most %d sessions at the target with a limit of %d (%d refused by it)",
		what, l.tried.Load(), l.bad.Load(), at, limit, l.full.Load())
	if at > limit {
		l.t.Errorf("the target had %d sessions at %v, want at most %d", at, when, limit)
	}
	if l.full.Load() == 0 {
		l.t.Error("the limit was never full, so nothing is shown about it")
	}
}

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
	seen := newTruth()
	limited := startWitness(t, seen, "127.0.0.1")
	w := newWorld(t, options{replicas: 2, ttl: 4 * time.Second,
		rules: func(_, free endpoint) string { return standard(limit)(limited.endpoint, free) },
		env:   map[string]string{"USHER_DRAIN_GRACE": "5s", "USHER_DRAIN_TIMEOUT": "1m", "USHER_UPGRADE_TIMEOUT": "2m"}})

	load := startTraffic(t, seen, limited.endpoint, w.free, 4, w.balancer.addr, w.replicas[0].socks)
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

	seen.next()
	load = startTraffic(t, seen, limited.endpoint, w.free, limit+2, w.balancer.addr)
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
	seen := newTruth()
	limited := startWitness(t, seen, "127.0.0.1")
	w := newWorld(t, options{replicas: 3, ttl: 2 * time.Second,
		rules: func(_, free endpoint) string { return standard(limit)(limited.endpoint, free) }})
	held := client{proxy: w.balancer.addr}.ask(t, 9, w.free.String())
	held.want(t, 9, granted)
	victim, n := w.busiest()

	load := startTraffic(t, seen, limited.endpoint, w.free, limit+2, w.balancer.addr)
	load.more()
	bad, begin := load.bad.Load(), time.Now()
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
	lost := load.bad.Load()
	load.more()
	if later := load.bad.Load() - lost; later > 0 {
		t.Errorf("%d connections were refused or reset later", later)
	}
	load.judgeLimit("a killed replica", limit)
	t.Logf("the killed replica got no traffic after %v; %d connections were reset or refused until then", took.Round(time.Millisecond), lost-bad)
	held.close()
}
