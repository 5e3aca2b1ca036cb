package limiter

import (
	"fmt"
	"testing"
	"time"

	"usher/store"
)

// TestQueuesStayShort: whoever came and went while nothing was sent leaves
// nothing behind, and takes nobody's place.
func TestQueuesStayShort(t *testing.T) {
	for name, recovering := range map[string]bool{"next batch": false, "next heartbeat": true} {
		t.Run(name, func(t *testing.T) {
			h := newReplica("h", store.Settings{TTL: 10 * time.Second}, true, newID)
			h.recovering = recovering
			list := &h.queue
			if recovering {
				list = &h.patient
			}
			ask := func(key string) *waiter {
				_, w, err := h.ask(0, Limit{Rule: "c1aaaa/s1", Max: 1, Key: key, KeyMax: 1}, time.Second)
				if err != nil {
					t.Fatal(err)
				}
				return w
			}
			stay := []*waiter{ask("first"), ask("second")}
			for i := range 10_000 {
				h.withdraw(ask(fmt.Sprint(i)))
				if i == 5_000 {
					stay = append(stay, ask("third"))
				}
			}
			if len(h.counters) != len(stay) || len(*list) > 4*len(stay) {
				t.Fatalf("%d wait, %d counters are in the table and %d in the queue", len(stay), len(h.counters), len(*list))
			}
			for i, c := range standing(*list, stay[0].counter.place) {
				if c != stay[i].counter {
					t.Errorf("place %d is that of %s, want %s", i, c.name, stay[i].counter.name)
				}
			}
		})
	}
}

// TestAloneAmongMany: what a replica by itself has of a rule is known without
// looking at each of its sessions.
func TestAloneAmongMany(t *testing.T) {
	for _, strict := range []bool{false, true} {
		h := newReplica("h", store.Settings{TTL: 10 * time.Second, Strict: strict}, true, newID)
		admit := func(key string) *slot {
			s, err := h.admitAlone(0, Limit{Rule: "c1aaaa/s1", Max: 1001, Key: key, KeyMax: 1})
			if err != nil {
				t.Fatal(err)
			}
			return s
		}
		cost := func() float64 { return testing.AllocsPerRun(1000, func() { h.release(0, admit("one more")) }) }
		few := cost()
		var held []*slot
		for i := range 1000 {
			held = append(held, admit(fmt.Sprint(i)))
		}
		if many := cost(); many > few+10 {
			t.Errorf("an admission makes %v allocations among a thousand sessions, alone %v", many, few)
		}
		if n := h.ruleLive["c1aaaa/s1"]; n != 1000 {
			t.Errorf("%d sessions of the rule are known, want 1000", n)
		}
		if strict {
			h.take(held[0].counter, 1)
		}
		for _, s := range held {
			h.release(0, s)
		}
		if len(h.ruleLive) != 0 {
			t.Errorf("all have ended, and %v are left", h.ruleLive)
		}
	}
}

// TestKeptOutForgets: who asks while a try to join is under way, and is told that
// others run with other settings, is not remembered.
func TestKeptOutForgets(t *testing.T) {
	ours := store.Settings{Protocol: protocol, TTL: time.Second, Shards: 1}
	theirs := ours
	theirs.TTL *= 2
	h := newReplica("h", ours, true, newID)
	h.connected = true
	for i := range 2 {
		now := time.Duration(i) * time.Second
		r := h.next(now)
		if r.op != opJoin {
			t.Fatalf("%+v", r)
		}
		h.rivals.settings = store.Settings{} // as at the first try
		if _, w, err := h.ask(now, Limit{Rule: "c1aaaa/s1", Max: 9, Key: fmt.Sprint(i), KeyMax: 1}, now+time.Second); w == nil {
			t.Fatal(err)
		}
		h.handle(now, r, outcome{join: store.JoinReply{Status: store.Mismatch, Settings: theirs}})
	}
	if len(h.counters) != 0 {
		t.Errorf("%d counters without a session or a waiter are on the table", len(h.counters))
	}
}
