package integration

import (
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// TestComposeUnderFaults pauses, kills, disconnects and restarts HAProxy, a replica and
// Redis of the shipped compose file, one after the other, while clients come and go. At
// most five sessions of the limited rule are open at a time. The services recover from
// each fault without help: the engine restarts what was killed.
//
// Then it scales the replicas, which HAProxy finds by DNS, up and down. Clients may not
// notice.
func TestComposeUnderFaults(t *testing.T) {
	needDocker(t, "redis:7-alpine", "haproxy:3.0-alpine", "busybox:1.36")
	d := newDemo(t)
	// With a short TTL, slots of dead replicas are free sooner, and restarts take less time.
	d.env = append(d.env, "USHER_LEASE_TTL=2s", "USHER_DRAIN_TIMEOUT=5s")
	d.up()
	clients := d.startClients(t)
	clients.atTarget = d.countAtTarget(t, 5)
	for _, f := range composeFaults {
		for _, service := range []string{"haproxy", "usher", "redis"} {
			t.Run(service+" "+f.name, func(t *testing.T) { d.underFault(t, clients, service, f) })
		}
	}
	t.Run("scaled", func(t *testing.T) { d.scaledUnderLoad(t, clients) })
}

// composeFault is a fault of a container, and its end.
type composeFault struct {
	name     string
	do, undo func(d *demo, service, id string)
}

var composeFaults = []composeFault{
	{"paused",
		func(d *demo, _, id string) { mustDocker(d.t, "pause", id) },
		func(d *demo, _, id string) { mustDocker(d.t, "unpause", id) }},
	{"killed", (*demo).killProcess, nothing},
	{"disconnected", (*demo).disconnect, (*demo).reconnect},
	{"restarted",
		func(d *demo, _, id string) { mustDocker(d.t, "restart", "--time", "20", id) },
		nothing},
}

func nothing(*demo, string, string) {}

// killProcess kills the program and not the container. The engine would not restart a
// container that was killed through it.
func (d *demo) killProcess(_, id string) {
	d.t.Helper()
	pid, err := strconv.Atoi(mustDocker(d.t, "inspect", "-f", "{{.State.Pid}}", id))
	if err == nil && pid > 1 {
		err = syscall.Kill(pid, syscall.SIGKILL)
	}
	if err != nil {
		d.t.Fatalf("process %d of %s: %v", pid, id, err)
	}
}

// lostNetwork is the network from which a service is disconnected. A replica loses
// Redis, and keeps its clients.
var lostNetwork = map[string]string{"haproxy": "edge", "usher": "back", "redis": "back"}

func (d *demo) disconnect(service, id string) {
	d.t.Helper()
	mustDocker(d.t, "network", "disconnect", d.project+"_"+lostNetwork[service], id)
}

func (d *demo) reconnect(service, id string) {
	d.t.Helper()
	args := []string{"network", "connect", "--alias", service}
	if service == "haproxy" {
		for _, e := range d.env {
			if net, ok := strings.CutPrefix(e, "USHER_EDGE_NET="); ok {
				args = append(args, "--ip", net+".2")
			}
		}
	}
	mustDocker(d.t, append(args, d.project+"_"+lostNetwork[service], id)...)
}

// underFault keeps up a fault for longer than a lease, and watches what must not be
// affected.
func (d *demo) underFault(t *testing.T, clients *composeClients, service string, f composeFault) {
	id := strings.Fields(d.must("ps", "-q", service))[0]
	held := d.holdUnlimited(t, 6)
	defer closeAll(held)
	if service == "usher" {
		clients.atTarget.excuse(d.addressAtTarget(t, id))
	}
	before, served := clients.failed.Load(), clients.served.Load()
	clients.named() // from now on
	f.do(d, service, id)
	over := time.Now().Add(3 * time.Second)
	poll(time.Until(over), func() string { return "it lasts" })
	if service == "redis" {
		if n := clients.failed.Load() - before; n > 0 {
			t.Errorf("%d of %d connections of the unlimited rule failed", n, clients.served.Load()-served+n)
		}
		if clients.served.Load() == served {
			t.Error("the unlimited rule stood still")
		}
	}
	f.undo(d, service, id)
	if service != "haproxy" {
		for _, h := range held {
			if !h.lives() && (service == "redis" || h.via != id[:12]+"-1") {
				t.Errorf("a session of %s ended", h.via)
			}
		}
	}
	t.Logf("%d of %d connections of the unlimited rule failed", clients.failed.Load()-before, clients.served.Load()-served+clients.failed.Load()-before)
	d.stats.waitUp(t, 3)
	clients.recovers(t)
	clients.atTarget.excuse("")
	limited := clients.named()
	t.Logf("limited rule: %v", limited)
	for how, n := range limited {
		if service == "redis" && how != "admitted" && how != "full" && how != "reply 1" {
			t.Errorf("limited rule: %d times %s", n, how)
		}
	}
}

// holdUnlimited opens sessions of the rule without a limit, on all replicas.
func (d *demo) holdUnlimited(t *testing.T, n int) (held []*hold) {
	t.Helper()
	for range n {
		eventually(t, 4*patience, func() string {
			h, refused := d.holdAt(t, "target:8080")
			if h != nil {
				held = append(held, h)
			}
			return refused
		})
	}
	return held
}

// scaledUnderLoad counts the clients that notice that replicas start and stop.
func (d *demo) scaledUnderLoad(t *testing.T, clients *composeClients) {
	for _, n := range []int{5, 3} {
		before, served := clients.failed.Load(), clients.served.Load()
		clients.named() // from now on
		d.must("up", "-d", "--no-build", "--no-recreate", "--scale", "usher="+strconv.Itoa(n))
		d.stats.waitUp(t, n)
		clients.recovers(t)
		failed := clients.failed.Load() - before
		limited := clients.named()
		t.Logf("to %d replicas: %d of %d connections of the unlimited rule failed; limited rule: %v", n, failed, clients.served.Load()-served+failed, limited)
		if failed > 0 {
			t.Errorf("to %d replicas: %d connections failed, the last one: %v", n, failed, clients.trouble())
		}
		for how, times := range limited {
			if how != "admitted" && how != "full" {
				t.Errorf("to %d replicas: limited rule: %d times %s", n, times, how)
			}
		}
	}
}

// composeClients come and go until the test ends.
type composeClients struct {
	served, failed atomic.Int64 // connections by the rule without a limit
	admitted       atomic.Int64 // by the rule with the limit of five
	atTarget       *targetCount
	mu             sync.Mutex
	limited        map[string]int // what became of connections by that rule
	last           error
}

// note counts what became of a connection by the rule with the limit.
func (c *composeClients) note(how string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.limited == nil {
		c.limited = map[string]int{}
	}
	c.limited[how]++
}

// named returns what became of connections by the rule with the limit since it was
// asked last.
func (c *composeClients) named() map[string]int {
	c.mu.Lock()
	defer c.mu.Unlock()
	was := c.limited
	c.limited = nil
	return was
}

func (c *composeClients) trouble() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.last
}

// startClients starts four clients of the rule without a limit, and eight clients that
// compete for five slots. Each keeps its slot for much less than a lease.
func (d *demo) startClients(t *testing.T) *composeClients {
	c := new(composeClients)
	stop := make(chan struct{})
	var running sync.WaitGroup
	again := func(pause time.Duration) bool {
		select {
		case <-stop:
			return false
		case <-time.After(pause):
			return true
		}
	}
	repeat := func(clients int, visit func()) {
		for range clients {
			running.Go(func() {
				for again(50 * time.Millisecond) {
					visit()
				}
			})
		}
	}
	repeat(4, func() {
		if err := d.visit("target:8080"); err != nil {
			c.mu.Lock()
			c.last = err
			c.mu.Unlock()
			c.failed.Add(1)
			return
		}
		c.served.Add(1)
	})
	repeat(8, func() {
		a := client{proxy: d.proxy}.connect("target:80")
		switch {
		case a.reply == notAllowed:
			c.note("full")
		case a.reply != granted && a.err == nil:
			c.note(fmt.Sprint("reply ", a.reply))
		case a.reply != granted:
			c.note("reset")
		default:
			defer a.Close()
			c.note("admitted")
			c.admitted.Add(1)
			again(100 * time.Millisecond)
		}
	})
	t.Cleanup(func() {
		close(stop)
		running.Wait()
		t.Logf("%d connections by the rule without a limit, %d failed; %d sessions of the limited rule",
			c.served.Load(), c.failed.Load(), c.admitted.Load())
	})
	return c
}

// recovers waits until sessions of both rules are admitted again.
func (c *composeClients) recovers(t *testing.T) {
	t.Helper()
	admitted, served := c.admitted.Load(), c.served.Load()
	eventually(t, 4*patience, func() string {
		if a, s := c.admitted.Load()-admitted, c.served.Load()-served; a < 10 || s < 10 {
			return fmt.Sprintf("%d sessions of the limited rule and %d of the other since", a, s)
		}
		return ""
	})
}

// visit fetches a byte by the rule without a limit.
func (d *demo) visit(target string) error {
	a := client{proxy: d.proxy}.connect(target)
	if a.reply != granted {
		return fmt.Errorf("reply %d: %w", a.reply, a.err)
	}
	defer a.Close()
	if err := a.SetDeadline(time.Now().Add(patience)); err != nil {
		return err
	}
	if _, err := io.WriteString(a, "GET / HTTP/1.0\r\n\r\n"); err != nil {
		return err
	}
	text, err := io.ReadAll(a)
	if err != nil {
		return err
	}
	if !strings.HasPrefix(string(text), "HTTP/1.") {
		return errors.New("no answer came through")
	}
	return nil
}
