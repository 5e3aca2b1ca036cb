package memstore_test

import (
	"errors"
	"testing"

	"usher/store"
	"usher/store/memstore"
	"usher/store/storetest"
)

func TestContract(t *testing.T) {
	storetest.Run(t, func(*testing.T) store.Store { return memstore.New() })
	t.Run("a copy of the join that bore the data, of which a part is lost, is stale", copyOfTheFirstJoin)
	t.Run("who has counts in the data and is not on its roster bears it anew", countsWithoutAMember)
}

// joined joins holders one after the other, the first of which bears the data.
func joined(t *testing.T, c store.Conn, holders ...string) (joins []store.Join) {
	t.Helper()
	for i, h := range holders {
		j := store.Join{
			Holder: h, Candidate: "b" + h, Stream: 1, Settings: store.Settings{Protocol: 1, Shards: 1}, Space: "c1aaaa",
			Entries: []store.Entry{{Counter: "c1aaaa/s1", Max: 5, RuleMax: store.NoLimit, Live: 1, Need: 1}},
		}
		reply, err := c.Join(t.Context(), j)
		if err != nil || reply.Birth != "b"+holders[0] || reply.Counts[0].Total != int64(i+1) {
			t.Fatalf("join of %s: %+v, %v", h, reply, err)
		}
		joins = append(joins, j)
	}
	return joins
}

func copyOfTheFirstJoin(t *testing.T) {
	for _, lost := range [][]string{{"r:x"}, {"r:x", "m"}, {"r:x", "t"}} {
		s := memstore.New()
		c, _ := s.Dial(t.Context(), 0)
		first := joined(t, c, "x", "y")[0]
		for _, key := range lost {
			s.Drop(key)
		}
		if reply, err := c.Join(t.Context(), first); !errors.Is(err, store.ErrStale) {
			t.Errorf("without %v: %+v, %v", lost, reply, err)
		}
	}
}

func countsWithoutAMember(t *testing.T) {
	s := memstore.New()
	c, _ := s.Dial(t.Context(), 0)
	joins := joined(t, c, "x", "y")
	for _, key := range []string{"r:x", "m", "t"} {
		s.Drop(key)
	}
	if _, err := c.Join(t.Context(), joins[0]); err != nil { // the same birth again, without y
		t.Fatal(err)
	}
	again := joins[1]
	again.Stream, again.Candidate, again.Last = 2, "by2", store.Token{Birth: "bx", Stream: 1}
	if reply, err := c.Join(t.Context(), again); err != nil || reply.Birth != "by2" || reply.Kept {
		t.Errorf("%+v, %v: want data born anew", reply, err)
	}
}

func TestHistory(t *testing.T) {
	s := memstore.New()
	storetest.RunHistory(t, s, func() { s.Restart(s.Snapshot()) })
}
