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
	for name, young := range map[string]bool{"next batch": false, "next heartbeat": true} {
		t.Run(name, func(t *testing.T) {
			h := newHolder("h", store.Settings{TTL: 10 * time.Second}, true, newID)
			h.young = young
			list := &h.queue
			if young {
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
