package integration

import (
	"bufio"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// outcomes counts what became of the connections of one kind of clients.
type outcomes struct {
	tried, full    atomic.Int64 // full: refused by the limit
	refused, reset atomic.Int64 // refused otherwise; ended without a reply, or not relayed
}

func (n *outcomes) bad() int64 { return n.refused.Load() + n.reset.Load() }

func (n *outcomes) String() string {
	return fmt.Sprintf("%d tried, %d refused, %d reset", n.tried.Load(), n.refused.Load(), n.reset.Load())
}

// traffic is clients that connect without a pause, each with one session at a time: to
// a target with a limit, where a full limit is a good answer as well, and to one
// without.
type traffic struct {
	t      *testing.T
	truth  *truth
	target *witness // with the limit

	limited, free outcomes
	mu            sync.Mutex
	worst         string // one of those that were refused or reset

	stop    chan struct{}
	clients sync.WaitGroup
}

// pace keeps a client from using up the local ports.
const pace = 5 * time.Millisecond

// startTraffic lets so many clients of each kind connect to each proxy.
func startTraffic(t *testing.T, limited *witness, free endpoint, each int, proxies ...string) *traffic {
	t.Helper()
	limited.most()
	limited.truth.next()
	l := &traffic{t: t, truth: limited.truth, target: limited, stop: make(chan struct{})}
	for _, proxy := range proxies {
		for range each {
			l.clients.Go(func() { l.run(client{proxy: proxy}, limited.endpoint, &l.limited) })
			l.clients.Go(func() { l.run(client{proxy: proxy}, free, &l.free) })
		}
	}
	t.Cleanup(l.end)
	return l
}

func (l *traffic) run(c client, target endpoint, n *outcomes) {
	tick := time.NewTicker(pace)
	defer tick.Stop()
	for {
		select {
		case <-l.stop:
			return
		case <-tick.C:
			l.once(c, target, n)
		}
	}
}

// once opens a session, sends a line to the target and back, and closes it.
func (l *traffic) once(c client, target endpoint, n *outcomes) {
	n.tried.Add(1)
	asked := l.truth.now()
	a := c.connect(target.String())
	switch {
	case n == &l.limited && a.reply == notAllowed:
		n.full.Add(1)
		return
	case a.reply != granted && a.err == nil:
		l.failed(&n.refused, fmt.Sprintf("reply %d", a.reply))
		return
	case a.reply != granted:
		l.failed(&n.reset, fmt.Sprintf("reply %d, %v", a.reply, a.err))
		return
	}
	defer a.Close()
	if n == &l.free {
		if !a.relays() {
			l.failed(&n.reset, "nothing came through")
		}
		return
	}
	s := l.truth.admitted(0, 0, 0, asked)
	line := l.truth.send(s)
	if a.SetDeadline(time.Now().Add(patience)) != nil {
		return
	}
	if _, err := fmt.Fprintf(a, "session %d line %d\n", s.id, line); err != nil {
		l.failed(&n.reset, err.Error())
		return
	}
	if _, err := bufio.NewReaderSize(a, 64).ReadString('\n'); err != nil {
		l.failed(&n.reset, err.Error())
		return
	}
	l.truth.returned(s, line)
}

func (l *traffic) failed(n *atomic.Int64, how string) {
	n.Add(1)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.worst = how
}

func (l *traffic) bad() int64 { return l.limited.bad() + l.free.bad() }

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
	from := l.limited.tried.Load() + l.free.tried.Load()
	eventually(l.t, 4*patience, func() string {
		if now := l.limited.tried.Load() + l.free.tried.Load() - from; now < n {
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
	if n := l.bad(); n > 0 {
		l.t.Errorf("%s: %d connections were refused or reset, one of them: %s", what, n, l.worst)
	}
}

// judgeLimit is judge without a verdict about those that were turned away. It holds the
// limit to what the target counts, and to what clients and target know together.
func (l *traffic) judgeLimit(what string, limit int) {
	l.t.Helper()
	l.end()
	at, when := most(l.truth.spans(0, nil), 0)
	counted := l.target.most()
	l.t.Logf("%s: with the limit %s, %d by the limit; without %s; at most %d sessions at the target with a limit of %d",
		what, &l.limited, l.limited.full.Load(), &l.free, counted, limit)
	if at > limit || counted > limit {
		l.t.Errorf("%s: the target had %d sessions at a time, clients %d at %v, want at most %d", what, counted, at, when, limit)
	}
	if l.limited.full.Load() == 0 || counted < limit {
		l.t.Error("the limit was never full, so nothing is shown about it")
	}
}
