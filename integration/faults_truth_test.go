package integration

import (
	"bufio"
	"cmp"
	"fmt"
	"io"
	"net"
	"slices"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// truth is what clients and targets saw of all sessions, on one clock. If bytes came
// through a session, it could relay at some moment after they were sent. It was
// admitted before, so it could relay all the time in between. If more of these spans
// overlap than the limit, the limit was exceeded, whatever the store counts.
type truth struct {
	begin time.Time

	mu       sync.Mutex
	sessions []*proven // by id
	first    int       // of the present run
}

// proven is one session, as far as its life is known for certain.
type proven struct {
	id      int
	target  int // number of the target, and so of the limit
	replica int
	key     int           // of the client's address
	asked   time.Duration // the client began to ask for it
	from    time.Duration // it was told that it is connected
	sent    []time.Duration
	echoed  []time.Duration // when the target sent number i back
	until   time.Duration   // could relay; from if nothing ever came through
}

func newTruth() *truth { return &truth{begin: time.Now()} }

func (t *truth) now() time.Duration { return time.Since(t.begin) }

// next begins a new run. All sessions have ended, and older ones no longer count.
func (t *truth) next() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.first = len(t.sessions)
}

// admitted records a new session.
func (t *truth) admitted(target, replica, key int, asked time.Duration) *proven {
	t.mu.Lock()
	defer t.mu.Unlock()
	s := &proven{id: len(t.sessions), target: target, replica: replica, key: key, asked: asked, from: t.now()}
	s.until = s.from
	t.sessions = append(t.sessions, s)
	return s
}

// send returns the number of the next line of s, which is sent now or later.
func (t *truth) send(s *proven) int {
	t.mu.Lock()
	defer t.mu.Unlock()
	s.sent, s.echoed = append(s.sent, t.now()), append(s.echoed, 0)
	return len(s.sent) - 1
}

// arrived records that line n of session id came to its target, which is about to send
// it back.
func (t *truth) arrived(id, n int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	s := t.sessions[id]
	s.until = max(s.until, s.sent[n])
	s.echoed[n] = t.now()
}

// read records a line that came to its target.
func (t *truth) read(line string) {
	var id, n int
	if _, err := fmt.Sscanf(line, "session %d line %d\n", &id, &n); err == nil {
		t.arrived(id, n)
	}
}

// returned records that line n came back to its client.
func (t *truth) returned(s *proven, n int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	s.until = max(s.until, s.echoed[n])
}

// span is a period in which a session could certainly relay.
type span struct{ from, until time.Duration }

// some returns copies of the sessions of a target in this run that pass the filter and
// through which anything came.
func (t *truth) some(target int, filter func(proven) bool) []proven {
	t.mu.Lock()
	defer t.mu.Unlock()
	var all []proven
	for _, s := range t.sessions[t.first:] {
		if s.target == target && s.until > s.from && (filter == nil || filter(*s)) {
			all = append(all, *s)
		}
	}
	return all
}

// spans returns the periods in which sessions could certainly relay.
func (t *truth) spans(target int, filter func(proven) bool) []span {
	var all []span
	for _, s := range t.some(target, filter) {
		all = append(all, span{s.from, s.until})
	}
	return all
}

// most returns the highest number of spans that overlap after since, and when.
func most(all []span, since time.Duration) (n int, at time.Duration) {
	type edge struct {
		at   time.Duration
		step int
	}
	var edges []edge
	for _, s := range all {
		if s.until > max(s.from, since) {
			edges = append(edges, edge{max(s.from, since), 1}, edge{s.until, -1})
		}
	}
	slices.SortFunc(edges, func(a, b edge) int {
		// Spans that only touch do not overlap.
		return cmp.Or(cmp.Compare(a.at, b.at), a.step-b.step)
	})
	open := 0
	for _, e := range edges {
		if open += e.step; open > n {
			n, at = open, e.at
		}
	}
	return n, at
}

// witness is a target that sends each line back. It records the lines that sessions
// number.
type witness struct {
	endpoint
	truth *truth

	mu    sync.Mutex
	conns map[net.Conn]struct{}
	peak  int // connections at a time
}

func startWitness(t testing.TB, truth *truth, host string) *witness {
	t.Helper()
	ln, err := net.Listen("tcp", host+":0")
	if err != nil {
		t.Fatal(err)
	}
	addr := ln.Addr().(*net.TCPAddr)
	w := &witness{endpoint: endpoint{addr.IP.String(), addr.Port}, truth: truth, conns: map[net.Conn]struct{}{}}
	var running sync.WaitGroup
	running.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			w.mu.Lock()
			w.conns[c] = struct{}{}
			w.peak = max(w.peak, established(w.conns))
			w.mu.Unlock()
			running.Go(func() { w.serve(c) })
		}
	})
	t.Cleanup(func() {
		ln.Close()
		w.mu.Lock()
		for c := range w.conns {
			c.Close()
		}
		w.mu.Unlock()
		running.Wait()
	})
	return w
}

func (w *witness) serve(c net.Conn) {
	defer func() {
		c.Close()
		w.mu.Lock()
		delete(w.conns, c)
		w.mu.Unlock()
	}()
	for lines := bufio.NewReader(c); ; {
		line, err := lines.ReadString('\n')
		if err != nil {
			return
		}
		w.truth.read(line)
		if _, err := io.WriteString(c, line); err != nil {
			return
		}
	}
}

// established returns how many connections neither side has closed, as the kernel of
// the target knows. They were all open at the same time: each was open before the first
// was asked about, and was still open when it was asked about.
func established(conns map[net.Conn]struct{}) (n int) {
	for c := range conns {
		raw, err := c.(*net.TCPConn).SyscallConn()
		if err != nil {
			continue
		}
		raw.Control(func(fd uintptr) { //nolint:errcheck // the test closes it just now
			if info, err := unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO); err == nil && info.State == unix.BPF_TCP_ESTABLISHED {
				n++
			}
		})
	}
	return n
}

// most returns the highest number of simultaneous connections since the last call.
func (w *witness) most() (n int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	n, w.peak = w.peak, 0
	return n
}

// open returns how many connections the target has.
func (w *witness) open() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.conns)
}

// beat is how often a session sends a line, whether or not earlier ones came back.
const beat = 15 * time.Millisecond

// hold sends through a session until it breaks, the time is up or stop is closed. Then
// it closes the session.
func (t *truth) hold(s *proven, c net.Conn, most time.Duration, stop <-chan struct{}) {
	var reading sync.WaitGroup
	broken := make(chan struct{})
	reading.Go(func() {
		defer close(broken)
		for lines := bufio.NewReader(c); ; {
			line, err := lines.ReadString('\n')
			if err != nil {
				return
			}
			var id, n int
			if _, err := fmt.Sscanf(line, "session %d line %d\n", &id, &n); err == nil && id == s.id {
				t.returned(s, n)
			}
		}
	})
	timer, tick := time.NewTimer(most), time.NewTicker(beat)
	defer timer.Stop()
	defer tick.Stop()
	for over := false; !over; {
		line := fmt.Sprintf("session %d line %d\n", s.id, t.send(s))
		if _, err := io.WriteString(c, line); err != nil {
			break
		}
		select {
		case <-tick.C:
		case <-broken:
			over = true
		case <-timer.C:
			over = true
		case <-stop:
			over = true
		}
	}
	c.Close()
	reading.Wait()
}

// TestMost checks most, which finds sessions above a limit, with examples.
func TestMost(t *testing.T) {
	for _, c := range []struct {
		spans []span
		since time.Duration
		want  int
	}{
		{nil, 0, 0},
		{[]span{{0, 2}}, 0, 1},
		{[]span{{0, 3}, {1, 2}}, 0, 2},
		{[]span{{0, 3}, {3, 6}}, 0, 1}, // one ends as the other begins
		{[]span{{0, 3}, {0, 3}, {0, 3}}, 2, 3},
		{[]span{{0, 3}, {0, 3}, {3, 6}}, 4, 1},
		{[]span{{0, 5}, {1, 3}, {2, 5}, {5, 8}}, 0, 3},
		{[]span{{0, 5}, {2, 2}}, 0, 1}, // nothing ever came through the second
	} {
		if got, at := most(c.spans, c.since); got != c.want {
			t.Errorf("%v since %d: %d at %d, want %d", c.spans, c.since, got, at, c.want)
		}
	}
}

// TestExcess checks that sessions of a replica that was cut off are excused, even if
// their proof of life comes after it was counted again.
func TestExcess(t *testing.T) {
	r := &trial{faultWorld: &faultWorld{truth: newTruth()}, t: t}
	s := r.truth.admitted(0, 1, 0, 0)
	cut := r.truth.now()
	r.excused = excuse{replica: 1, from: cut, until: r.truth.now() + 1}
	if n := r.excess(0); n != 0 {
		t.Errorf("%d sessions are excused that have proved nothing, want 0", n)
	}
	line := r.truth.send(s)
	r.truth.arrived(s.id, line)
	r.truth.admitted(0, 1, 0, r.truth.now()) // after it counted again: not excused
	if n := r.excess(0); n != 1 {
		t.Errorf("%d sessions are excused, want 1", n)
	}
}
