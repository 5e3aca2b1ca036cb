package integration

import (
	"fmt"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// poolPhase is a rolling reload: one replica after the other gets other rules.
type poolPhase struct {
	name   string
	change func(rules string) string // of the rules so far; nil: none
	number int
	alone  bool // the rules are in no pool any more
}

// TestPoolReloads reloads replicas one after the other while clients come and go, on a bad
// network. The targets count the sessions: nobody is admitted by a number while the pool
// has as many, no number ends a session, and a change of another rule changes nothing.
func TestPoolReloads(t *testing.T) {
	if testing.Short() {
		t.Skip("takes half a minute")
	}
	t.Parallel()
	const first = 4
	f := newFaultWorld(t, faultOptions{net: 15, pool: []int{first, first, first}, env: map[string]string{
		"USHER_LEASE_TTL": "4s", "USHER_STORE_WAIT": "1s",
	}})
	unrelated := func(rules string) string {
		return strings.Replace(rules, "socks pass", "socks block {\n\tfrom: 0/0 to: 192.0.2.0/24\n}\nsocks pass", 1)
	}
	dropped := func(rules string) string { return strings.ReplaceAll(rules, "\tsession.pool: faults\n", "") }
	w := &poolWatch{faultWorld: f, t: t, number: []int{first, first, first}, since: make([]time.Duration, 3)}
	w.underReloads([]poolPhase{
		{"an unrelated rule", unrelated, first, false},
		{"a higher number", nil, 7, false},
		{"a lower number", nil, 2, false},
		{"the number of before", nil, first, false},
		{"no pool", dropped, first, true},
	})
}

// poolWatch follows which number each replica asks with.
type poolWatch struct {
	*faultWorld
	t      *testing.T
	number []int           // of each replica
	since  []time.Duration // for certain
	told   []toldNumber
}

// toldNumber is a time in which a replica asked with one number.
type toldNumber struct {
	replica, number int
	from, until     time.Duration
}

func (w *poolWatch) underReloads(phases []poolPhase) {
	r := &trial{faultWorld: w.faultWorld, t: w.t, began: w.truth.now(), stop: make(chan struct{}), audits: make([]int, w.shards)}
	r.working.Go(func() { r.work(0, 0, 0) }) // a session that stays to the end
	for i := range w.replicas {
		for n := range 4 {
			r.working.Go(func() { r.work(i, 0, 1+n) })
		}
	}
	var held []int
	highest, alone := 0, time.Duration(0)
	func() {
		defer func() { close(r.stop); r.working.Wait() }()
		eventually(w.t, patience, func() string {
			if held = w.living(); len(held) == 0 {
				return "nobody stays"
			}
			return ""
		})
		r.saturated(nil)
		for _, p := range w.proxies {
			p.set(mix{cutBefore: 0.03, cutAfter: 0.03, late: 0.03, delayed: 0.06})
		}
		for _, p := range phases {
			if p.alone {
				alone = w.truth.now()
			} else {
				highest = max(highest, p.number)
			}
			w.roll(r, p)
		}
		for _, p := range w.proxies {
			p.set(mix{})
		}
	}()
	did := w.happened()
	if did[cutBefore] == 0 || did[cutAfter] == 0 || did[late] == 0 {
		w.t.Error("the bad network was a good one")
	}
	w.judge(highest, alone, held)
	w.t.Logf("%d granted, %d full, %d without an answer of the store; faults %v",
		r.replies[granted].Load(), r.replies[notAllowed].Load(), r.replies[failure].Load(), did)
}

// roll changes the rules of each replica in turn, with clients at all of them in between.
func (w *poolWatch) roll(r *trial, p poolPhase) {
	w.t.Helper()
	if p.change != nil {
		w.rules = p.change(w.rules)
	}
	for i, rep := range w.replicas {
		before := rep.status(w.t).Rules.Loaded
		w.write(w.t, i, w.rules, p.number)
		w.told = append(w.told, toldNumber{i, w.number[i], w.since[i], w.truth.now()})
		rep.signal(syscall.SIGHUP)
		eventually(w.t, patience, func() string {
			if st := rep.status(w.t).Rules; !st.Loaded.After(before) || !st.ReloadOK {
				return fmt.Sprintf("%s: %s has not loaded the rules: %+v", p.name, rep.name, st)
			}
			return ""
		})
		w.number[i], w.since[i] = p.number, w.truth.now()
		r.last(time.Second / 2)
	}
	since := w.truth.now()
	eventually(w.t, patience, func() string {
		n, _ := most(w.truth.spans(0, nil), since)
		if n < p.number {
			return fmt.Sprintf("%s: at most %d sessions relay, want %d", p.name, n, p.number)
		}
		if len(w.truth.some(0, func(s proven) bool { return s.asked > since })) == 0 {
			return p.name + ": nobody is admitted"
		}
		return ""
	})
	for i := range w.replicas {
		w.told = append(w.told, toldNumber{i, w.number[i], w.since[i], w.truth.now()})
	}
	w.t.Logf("%s: %d sessions within %v", p.name, p.number, w.truth.now()-since)
}

// living returns the sessions that their clients hold to the end.
func (w *poolWatch) living() (ids []int) {
	w.truth.mu.Lock()
	defer w.truth.mu.Unlock()
	for _, s := range w.truth.sessions[w.truth.first:] {
		if s.key == 0 && s.until > s.from {
			ids = append(ids, s.id)
		}
	}
	return ids
}

// judge checks what holds for the whole run: up to alone, when the first replica may have
// left the pool.
func (w *poolWatch) judge(highest int, alone time.Duration, held []int) {
	w.t.Helper()
	inPool := slices.DeleteFunc(w.truth.spans(0, nil), func(s span) bool { return s.from >= alone })
	if n, at := most(inPool, 0); n > highest {
		w.t.Errorf("%d sessions could relay at %v, the highest number is %d", n, at, highest)
	}
	judged := 0
	for _, s := range w.truth.some(0, func(s proven) bool { return s.from < alone }) {
		i := slices.IndexFunc(w.told, func(n toldNumber) bool {
			return n.replica == s.replica && n.from < s.asked && s.from < n.until
		})
		if i < 0 {
			continue // its replica had a reload just then
		}
		judged++
		// All that existed while s asked, and s itself.
		n := len(w.truth.some(0, func(o proven) bool { return o.from <= s.asked && o.until >= s.from })) + 1
		if n > w.told[i].number {
			w.t.Errorf("session %d was admitted as number %d at %v by replica %d, whose number was %d", s.id, n, s.from, s.replica+1, w.told[i].number)
		}
	}
	end := w.truth.now()
	for _, id := range held {
		if s := w.truth.sessions[id]; s.until < w.told[len(w.told)-1].from {
			w.t.Errorf("session %d of replica %d ended at %v of %v, and its client did not end it", id, s.replica+1, s.until, end)
		}
	}
	if judged < 20 || len(held) == 0 {
		w.t.Errorf("%d sessions were judged by a number, and %d stayed", judged, len(held))
	}
	w.t.Logf("%d sessions were judged by a number, and %d stayed to the end", judged, len(held))
}
