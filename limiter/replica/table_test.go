package replica

import (
	"fmt"
	"testing"
	"time"

	"usher/store"
)

// keyEntry is a counter of one key of a rule.
func keyEntry(key string, ruleMax int64) Want {
	return Want{Entry: store.Entry{Counter: "c1aaaa/s1/" + key, Max: 1, RuleMax: ruleMax}}
}

// TestQueuesStayShort: clients that come and go while nothing is sent leave nothing in
// the queues, and other counters keep their positions.
func TestQueuesStayShort(t *testing.T) {
	for name, recovering := range map[string]bool{"next batch": false, "next heartbeat": true} {
		t.Run(name, func(t *testing.T) {
			m := newMachine(false)
			m.others.recovering = recovering
			list := &m.queues.send
			if recovering {
				list = &m.queues.heartbeat
			}
			ask := func(key string) *Waiter {
				_, w, err := m.Ask(0, nil, nil, keyEntry(key, 1), time.Second)
				if err != nil {
					t.Fatal(err)
				}
				return w
			}
			stay := []*Waiter{ask("first"), ask("second")}
			for i := range 10_000 {
				m.Withdraw(ask(fmt.Sprint(i)))
				if i == 5_000 {
					stay = append(stay, ask("third"))
				}
			}
			if len(m.table.counters) != len(stay) || len(*list) > 4*len(stay) {
				t.Fatalf("%d wait, %d counters are in the table and %d in the queue", len(stay), len(m.table.counters), len(*list))
			}
			for i, c := range stillQueued(*list, stay[0].counter.queue) {
				if c != stay[i].counter {
					t.Errorf("number %d in the queue is %s, want %s", i, c.name, stay[i].counter.name)
				}
			}
		})
	}
}

// TestLocalAdmissionAmongMany: the number of a rule's sessions that were admitted
// locally is known without looking at each session.
func TestLocalAdmissionAmongMany(t *testing.T) {
	for _, strict := range []bool{false, true} {
		m := newMachine(strict)
		admit := func(key string) *Slot {
			s, err := m.AdmitLocally(0, nil, keyEntry(key, 1001))
			if err != nil {
				t.Fatal(err)
			}
			return s
		}
		cost := func() float64 { return testing.AllocsPerRun(1000, func() { m.Release(0, admit("one more")) }) }
		few := cost()
		var held []*Slot
		for i := range 1000 {
			held = append(held, admit(fmt.Sprint(i)))
		}
		if many := cost(); many > few+10 {
			t.Errorf("an admission makes %v allocations among a thousand sessions, %v without them", many, few)
		}
		if n := m.table.ruleLive["c1aaaa/s1"]; n != 1000 {
			t.Errorf("%d sessions of the rule are known, want 1000", n)
		}
		if strict {
			m.takeAway(held[0].counter, 1)
		}
		for _, s := range held {
			m.Release(0, s)
		}
		if len(m.table.ruleLive) != 0 {
			t.Errorf("all have ended, and %v are left", m.table.ruleLive)
		}
	}
}

// TestMismatchedReplicaForgetsWaiters: a client that asks during an attempt to join,
// and is refused because of conflicting replicas, is forgotten.
func TestMismatchedReplicaForgetsWaiters(t *testing.T) {
	ours := store.Settings{Protocol: 1, TTL: time.Second, Shards: 1}
	theirs := ours
	theirs.TTL *= 2
	m := New("h", ours, true, newID)
	m.link.connected = true
	for i := range 2 {
		now := time.Duration(i) * time.Second
		r := m.Next(now)
		if r.Op != Join {
			t.Fatalf("%+v", r)
		}
		m.others.conflict.settings = store.Settings{} // as at the first try
		if _, w, err := m.Ask(now, nil, nil, keyEntry(fmt.Sprint(i), 9), now+time.Second); w == nil {
			t.Fatal(err)
		}
		m.Handle(now, r, Outcome{Join: store.JoinReply{Status: store.Mismatch, Settings: theirs}})
	}
	if len(m.table.counters) != 0 {
		t.Errorf("%d counters without a session or a waiter are in the table", len(m.table.counters))
	}
}
