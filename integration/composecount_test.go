package integration

import (
	"fmt"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// targetCount watches the connections that the target of the demo has at port 80: the
// sessions of the rule with the limit, as the kernel of the target knows them.
type targetCount struct {
	tables []string // of its network namespace
	limit  int

	mu      sync.Mutex
	excused string // address of a replica that cannot close its connections now
	peak    int
	looks   int
}

// countAtTarget begins to watch, until the test ends.
func (d *demo) countAtTarget(t *testing.T, limit int) *targetCount {
	t.Helper()
	pid := mustDocker(t, "inspect", "-f", "{{.State.Pid}}", strings.TrimSpace(d.must("ps", "-q", "target")))
	n := &targetCount{limit: limit, tables: []string{"/proc/" + pid + "/net/tcp", "/proc/" + pid + "/net/tcp6"}}
	stop := make(chan struct{})
	var watching sync.WaitGroup
	watching.Go(func() { n.watch(t, stop) })
	t.Cleanup(func() {
		close(stop)
		watching.Wait()
		t.Logf("the target had %d sessions of the limited rule at a time at most, in %d looks", n.peak, n.looks)
		if n.peak < limit {
			t.Error("the limit was never full, so nothing is shown about it")
		}
	})
	return n
}

// watch looks again and again. What is in two looks, one after the other, was there
// between them, all at the same time.
func (n *targetCount) watch(t *testing.T, stop <-chan struct{}) {
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	var before map[string]string
	for {
		select {
		case <-stop:
			return
		case <-tick.C:
		}
		now, err := n.look()
		if err != nil {
			t.Error("the connections of the target:", err)
			return
		}
		n.judge(t, before, now)
		before = now
	}
}

func (n *targetCount) judge(t *testing.T, before, now map[string]string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.looks++
	open := 0
	for from, addr := range now {
		if _, both := before[from]; both && addr != n.excused {
			open++
		}
	}
	if open > n.peak {
		n.peak = open
		if open > n.limit {
			t.Errorf("the target has %d sessions, the limit is %d: %v", open, n.limit, now)
		}
	}
}

// look returns the connections that neither side has closed: address and port of the
// replica, and its address alone.
func (n *targetCount) look() (map[string]string, error) {
	const established, port80 = "01", ":0050"
	open := map[string]string{}
	for _, table := range n.tables {
		text, err := os.ReadFile(table)
		if err != nil {
			return nil, err
		}
		for line := range strings.Lines(string(text)) {
			f := strings.Fields(line)
			if len(f) < 4 || f[3] != established || !strings.HasSuffix(f[1], port80) {
				continue
			}
			addr, _, _ := strings.Cut(f[2], ":")
			open[f[2]] = addr[max(0, len(addr)-8):] // IPv4 is the end of a mapped address
		}
	}
	return open, nil
}

// excuse leaves the connections of a replica out: one that is stopped, or cut off from
// the store, cannot tell the target that its session has ended. "" excuses nobody.
func (n *targetCount) excuse(addr string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.excused = addr
}

// addressAtTarget returns the address of a replica, as the table of the target has it.
func (d *demo) addressAtTarget(t *testing.T, id string) string {
	t.Helper()
	text := mustDocker(t, "inspect", "-f", fmt.Sprintf("{{(index .NetworkSettings.Networks %s).IPAddress}}", strconv.Quote(d.project+"_front")), id)
	ip, err := netip.ParseAddr(text)
	if err != nil {
		t.Fatal(err)
	}
	b := ip.As4()
	return fmt.Sprintf("%02X%02X%02X%02X", b[3], b[2], b[1], b[0])
}
