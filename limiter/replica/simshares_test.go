package replica

import (
	"slices"
	"strings"

	"usher/store"
	"usher/store/limit"
)

// totals returns the totals and notes before a batch, where checkShares needs them.
func (w *world) totals() map[string]string {
	if !w.mix.keys {
		return nil
	}
	return w.data.Dump()["t"]
}

// checkShares checks E and Q within a batch that took effect. had is what the replica
// held before; before has the store's totals and notes.
func (w *world) checkShares(b store.Batch, reply store.BatchReply, had map[string]int64, before map[string]string) {
	if before == nil || reply.Recovering || b.More {
		return
	}
	freed, freeing, grew := map[string]int64{}, map[string]bool{}, map[string]bool{}
	for i, e := range b.Entries {
		k := reply.Counts[i]
		for _, name := range []string{e.Counter, store.RuleOf(e.Counter)} {
			freed[name] += max(0, had[e.Counter]-k.Granted)
			freeing[name] = freeing[name] || had[e.Counter] > e.Live
			grew[name] = grew[name] || k.Granted > max(had[e.Counter], e.Live)
		}
	}
	for i, e := range b.Entries {
		k, rule := reply.Counts[i], store.RuleOf(e.Counter)
		forOthers := freeing[e.Counter] && notesAnother(before, e.Counter, b.Replica) ||
			freeing[rule] && notesAnother(before, rule, b.Replica)
		if k.Granted < e.Need && !full(e, k) && !forOthers {
			w.fail("E", "%s got %d of %d of %s, which is not full: %+v", b.Replica, k.Granted, e.Need, e.Counter, k)
		}
		if grew[rule] && notesAnother(before, rule, b.Replica) && k.RuleTotal > e.RuleMax-freed[rule] {
			w.fail("Q", "%s took back what it freed of %s, where another was refused", b.Replica, rule)
		}
	}
}

func full(e store.Entry, k store.Count) bool {
	return e.Max != limit.None && k.Total >= e.Max || e.RuleMax != limit.None && k.RuleTotal >= e.RuleMax
}

func notesAnother(totals map[string]string, name, replica string) bool {
	return slices.ContainsFunc(strings.Fields(totals["!"+name]), func(h string) bool { return h != replica })
}

// checkLeft checks F: a replica that has left normally has left nothing behind.
func (n *node) checkLeft(r *Request, o *Outcome) {
	if !n.stopping || n.m.phase != left || r.Op != Expire || o.Err != nil {
		return
	}
	if token, own := n.w.data.Ledger(n.m.id); token != (store.Token{}) {
		n.w.fail("F", "%s has left, the store has %s and %v of it", n.m.id, token, own)
	}
}
