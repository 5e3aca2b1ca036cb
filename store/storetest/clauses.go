package storetest

import (
	"fmt"
	"time"

	"usher/store"
)

func firstJoin(f *fixture) {
	f.want("birth of an empty shard", f.observe().Birth, "")
	a := f.holder()
	reply := a.mustJoin()
	f.want("young", reply.Young, true)
	f.want("kept", reply.Kept, false)
	r := f.observe()
	f.want("birth", r.Birth, reply.Birth)
	f.want("settings", r.Settings, keep)
	f.want("members", r.Members, []store.Member{{Holder: a.id, Token: a.last, State: store.OK, Space: a.space}})
}

func youngGivesNothing(f *fixture) {
	a := f.holder()
	a.mustJoin()
	reply := a.batch(entry(5, 0, 3))
	f.want("young", reply.Young, true)
	f.want("own", reply.Counts[0].Own, 0)
}

func youngTakesClaims(f *fixture) {
	a := f.holder()
	f.want("claimed by join", a.mustJoin(entry(5, 3, 3)).Counts[0].Own, 3)
	f.want("claimed by batch", a.batch(entry(5, 4, 6)).Counts[0].Own, 4)
}

func maturing(f *fixture) {
	a := f.holder()
	req := a.joinRequest(entry(5, 1, 1))
	req.More = true
	reply, err := f.conn.Join(f.ctx, req)
	f.wantErr("Join", err, nil)
	a.last = store.Token{Birth: reply.Birth, Stream: a.stream}
	a.learn(req.Entries, reply.Counts)
	mature := store.Mature{Holder: a.id, Token: a.last, Ripe: true}

	young, err := f.conn.Mature(f.ctx, mature)
	f.wantErr("Mature", err, nil)
	f.want("young while a holder claims", young, true)
	f.want("state", f.observe().Members[0].State, store.Claiming)

	a.batch(entry(5, 1, 1))
	young, _ = f.conn.Mature(f.ctx, store.Mature{Holder: a.id, Token: a.last})
	f.want("young before it is ripe", young, true)
	young, _ = f.conn.Mature(f.ctx, mature)
	f.want("young when ripe", young, false)
	f.want("young on the roster", f.observe().Young, false)
	f.want("own of a mature store", a.batch(entry(5, 1, 4)).Counts[0].Own, 4)
}

func growthStops(f *fixture) {
	a, b := f.mature()
	f.want("a", a.batch(entry(5, 0, 3)).Counts[0], store.Count{Own: 3, Total: 3})
	f.want("b", b.batch(entry(5, 0, 4)).Counts[0], store.Count{Own: 2, Total: 5})
	f.want("a again", a.batch(entry(5, 3, 4)).Counts[0].Own, 3)
	f.want("no limit", a.batch(entry(store.NoLimit, 3, 4000)).Counts[0].Own, 4000)
}

func maximumZero(f *fixture) {
	a, _ := f.mature()
	f.want("own", a.batch(entry(0, 0, 1)).Counts[0], store.Count{})
}

func resend(f *fixture) {
	a, b := f.mature()
	req := a.batchRequest(entry(5, 0, 3))
	first := a.send(req)
	b.batch(entry(5, 0, 1))
	second := a.send(req)
	f.want("own of the duplicate", second.Counts[0].Own, first.Counts[0].Own)
	f.want("total that the duplicate sees", second.Counts[0].Total, 4)
}

func lateCopy(f *fixture) {
	a, _ := f.mature()
	old := a.batchRequest(entry(5, 0, 3))
	a.send(old)
	a.batch(entry(5, 0, 0))
	_, err := f.conn.Batch(f.ctx, old)
	f.wantErr("late copy", err, store.ErrLost)
	f.checkSums()
}

func oldStream(f *fixture) {
	a, _ := f.mature()
	old := a.batchRequest(entry(5, 0, 3))
	a.mustJoin()
	_, err := f.conn.Batch(f.ctx, old)
	f.wantErr("batch of the stream before", err, store.ErrLost)
	f.checkSums()
}

func staleJoin(f *fixture) {
	a, _ := f.mature()
	old := a.joinRequest(entry(5, 2, 2))
	a.mustJoin()
	_, err := f.conn.Join(f.ctx, old)
	f.wantErr("overtaken join", err, store.ErrStale)
	f.checkSums()
}

func keptJoin(f *fixture) {
	a, b := f.mature()
	a.batch(entry(5, 0, 4))
	reply := a.mustJoin() // claims nothing yet: counts stay
	f.want("kept", reply.Kept, true)
	f.want("young", reply.Young, false)
	f.want("own of b beside the kept", b.batch(entry(5, 0, 5)).Counts[0].Own, 1)
	f.want("restated", a.batch(entry(5, 2, 2)).Counts[0].Own, 2)
}

func unansweredJoin(f *fixture) {
	a := f.holder()
	lost := a.joinRequest(entry(5, 3, 3))
	if _, err := f.conn.Join(f.ctx, lost); err != nil {
		f.Fatalf("Join: %v", err)
	}
	reply := a.mustJoin(entry(5, 2, 2))
	f.want("kept", reply.Kept, false)
	f.want("count", reply.Counts[0], store.Count{Own: 2, Total: 2})
}

func otherHistory(f *fixture, turn func()) {
	a, b := f.mature()
	a.batch(entry(5, 0, 2))
	birth := a.last.Birth
	turn()
	late := a.batchRequest(entry(5, 2, 3))
	_, err := f.conn.Batch(f.ctx, late)
	f.wantErr("batch in another history", err, store.ErrLost)
	clear(a.own) // with the data that is gone
	reply := b.mustJoin(entry(5, 1, 1))
	f.want("young", reply.Young, true)
	f.want("kept", reply.Kept, false)
	f.want("same birth", reply.Birth == birth, false)
	_, err = f.conn.Batch(f.ctx, late)
	f.wantErr("batch of the birth before", err, store.ErrLost)
	f.want("claimed again", a.mustJoin(entry(5, 2, 2)).Counts[0], store.Count{Own: 2, Total: 3})
}

func mismatch(f *fixture) {
	a, _ := f.mature()
	c := f.holder()
	c.settings.TTL = 3 * time.Second
	reply, err := c.join()
	f.wantErr("Join", err, nil)
	f.want("status", reply.Status, store.Mismatch)
	f.want("settings in force", reply.Settings, keep)
	f.want("members", len(f.observe().Members), 2)
	a.batch() // the others are not disturbed
}

// reluctant: whoever has met others with other settings does not bear data that
// may still be theirs.
func reluctant(f *fixture) {
	a := f.holder()
	a.reluctant = true
	reply, err := a.join()
	f.wantErr("Join", err, nil)
	f.want("status without data", reply.Status, store.Void)
	f.want("birth", f.observe().Birth, "")
	f.mature()
	f.want("status with data", a.mustJoin().Status, store.Joined)
}

func changeSettings(f *fixture) {
	a, b := f.mature()
	if _, err := a.reap(b); err != nil {
		f.Fatalf("Reap: %v", err)
	}
	a.settings.Strict = true
	f.want("status", a.mustJoin().Status, store.Joined)
	f.want("settings", f.observe().Settings, a.settings)
}

func shrinkFirst(f *fixture) {
	a, _ := f.mature()
	a.batch(keyedEntry("x", 5, 2, 2))
	reply := a.batch(keyedEntry("y", 5, 2, 2), keyedEntry("x", 5, 2, 0))
	f.want("y", reply.Counts[0], store.Count{Own: 2, Total: 2, RuleTotal: 2})
	f.want("x", reply.Counts[1], store.Count{RuleTotal: 2})
}

func keyed(f *fixture) {
	a, b := f.mature()
	reply := a.batch(keyedEntry("x", 2, 3, 4), keyedEntry("y", 2, 3, 2))
	f.want("x", reply.Counts[0], store.Count{Own: 2, Total: 2, RuleTotal: 3})
	f.want("y", reply.Counts[1], store.Count{Own: 1, Total: 1, RuleTotal: 3})
	f.want("z at b", b.batch(keyedEntry("z", 2, 3, 1)).Counts[0].Own, 0)
	f.want("key with a slash", b.batch(keyedEntry("a/b", 1, store.NoLimit, 3)).Counts[0].Own, 1)
}

func overDrains(f *fixture) {
	a, b := f.mature()
	a.batch(entry(5, 0, 5))
	b.mustJoin(entry(5, 3, 3)) // b comes back with sessions that the store had given up
	f.want("total above", f.observe("c1aaaa/s1").Totals["c1aaaa/s1"], 8)
	f.want("a asks for more", a.batch(entry(5, 4, 6)).Counts[0], store.Count{Own: 4, Total: 7})
	f.want("b keeps its own", b.batch(entry(5, 3, 3)).Counts[0].Own, 3)
	f.want("a drains", a.batch(entry(5, 1, 1)).Counts[0], store.Count{Own: 1, Total: 4})
	f.want("then grows", a.batch(entry(5, 1, 4)).Counts[0], store.Count{Own: 2, Total: 5})
}

func claimsAbove(f *fixture) {
	strict := keep
	strict.Strict = true
	a, b := f.holder(), f.holder()
	a.settings, b.settings = strict, strict
	a.mustJoin(entry(5, 4, 4))
	f.want("strict claim", b.mustJoin(entry(5, 3, 3)).Counts[0].Own, 1)
	f.ripen(a)
	f.want("strict later", b.batch(entry(5, 3, 3)).Counts[0].Own, 1)
}

func fairness(f *fixture) {
	a, b := f.mature()
	a.batch(entry(2, 0, 2))
	f.want("b is refused", b.batch(entry(2, 0, 1)).Counts[0], store.Count{Total: 2})
	f.want("a learns of it", a.batch(entry(2, 2, 2)).Counts[0].Contended, true)
	// One session of a ends while another of a waits: the slot is b's.
	f.want("a's waiter", a.batch(entry(2, 1, 2)).Counts[0], store.Count{Own: 1, Total: 1})
	f.want("b asks again", b.batch(entry(2, 0, 1)).Counts[0].Own, 1)
	f.want("a may hand over again", a.batch(entry(2, 1, 1)).Counts[0].Contended, false)
}

func fairnessOfRule(f *fixture) {
	a, b := f.mature()
	a.batch(keyedEntry("x", 2, 3, 2), keyedEntry("y", 2, 3, 1))
	f.want("b is refused", b.batch(keyedEntry("z", 2, 3, 1)).Counts[0].Own, 0)
	reply := a.batch(keyedEntry("y", 2, 3, 2), keyedEntry("x", 2, 3, 1)) // all have ended, and others ask
	f.want("taken back of y", reply.Counts[0].Own, 0)
	f.want("taken back of x", reply.Counts[1].Own, 0)
	f.want("b gets its share", b.batch(keyedEntry("z", 2, 3, 2)).Counts[0].Own, 2)
}

func twoNames(f *fixture) {
	a, b := f.mature()
	a.batch(entry(1, 0, 1))
	b.batch(entry(1, 0, 1)) // refused, noted
	a.batch(entry(1, 1, 2)) // refused too, must not wipe b's name
	f.want("contended", a.batch(entry(1, 1, 1)).Counts[0].Contended, true)
	a.batch(entry(1, 0, 1))
	f.want("b gets the slot", b.batch(entry(1, 0, 1)).Counts[0].Own, 1)
}

func reapToken(f *fixture) {
	a, b := f.mature()
	b.batch(entry(5, 0, 2))
	seen := *b
	b.batch()
	reply, err := a.reap(&seen)
	f.wantErr("Reap", err, nil)
	f.want("reap of a token that moved on", reply, store.No)
	reply, err = a.reap(b)
	f.wantErr("Reap", err, nil)
	f.want("reap", reply, store.Gone)
	f.want("total", f.observe("c1aaaa/s1").Totals["c1aaaa/s1"], 0)
	reply, _ = a.reap(b)
	f.want("reap again", reply, store.Gone)
	_, err = f.conn.Batch(f.ctx, b.batchRequest())
	f.wantErr("batch of a reaped holder", err, store.ErrLost)
	f.want("kept after a reap", b.mustJoin(entry(5, 1, 1)).Kept, false)
}

// many gives h more counters than one reap takes.
func (h *holder) many() {
	for done := 0; done < store.MaxReap+10; {
		var entries []store.Entry
		for len(entries) < store.MaxEntries && done < store.MaxReap+10 {
			entries = append(entries, keyedEntry(fmt.Sprint("k", done), 1, store.NoLimit, 1))
			done++
		}
		h.send(h.batchRequest(entries...))
	}
}

func reapMany(f *fixture) {
	a, b := f.mature()
	b.many()
	reply, err := a.reap(b)
	f.wantErr("first call", err, nil)
	f.want("first call", reply, store.More)
	f.want("left", f.observe("c1aaaa/s1").Totals["c1aaaa/s1"], 10)
	reply, _ = a.reap(b)
	f.want("second call", reply, store.Gone)
	f.want("left", f.observe("c1aaaa/s1").Totals["c1aaaa/s1"], 0)
}

func dying(f *fixture) {
	a, b := f.mature()
	b.many()
	if reply, err := a.reap(b); reply != store.More || err != nil {
		f.Fatalf("Reap: %v, %v", reply, err)
	}
	_, err := f.conn.Batch(f.ctx, b.batchRequest())
	f.wantErr("batch of a dying holder", err, store.ErrLost)
	reply, err := f.conn.Join(f.ctx, b.joinRequest())
	f.wantErr("Join", err, nil)
	f.want("status", reply.Status, store.Dying)
	f.want("token to reap", reply.Token, b.last)
	done, _ := b.reap(b)
	f.want("own reap", done, store.Gone)
	f.want("joined anew", b.mustJoin().Kept, false)
}

func tombstone(f *fixture) {
	a, b := f.mature()
	late := b.joinRequest(entry(5, 2, 2))
	late.Stream = b.last.Stream
	if reply, err := a.reap(b); reply != store.Gone || err != nil {
		f.Fatalf("Reap: %v, %v", reply, err)
	}
	_, err := f.conn.Join(f.ctx, late)
	f.wantErr("late join", err, store.ErrStale)
	f.want("tombstone", f.observe().Tombstones[b.id], b.last.Stream)
	if _, err := f.conn.Mature(f.ctx, store.Mature{Holder: a.id, Token: a.last, Gone: []string{b.id}}); err != nil {
		f.Fatalf("Mature: %v", err)
	}
	f.want("tombstones", len(f.observe().Tombstones), 0)
}

func leave(f *fixture) {
	a, b := f.mature()
	a.batch(entry(5, 0, 2))
	for _, h := range []*holder{a, b} {
		if reply, err := h.reap(h); reply != store.Gone || err != nil {
			f.Fatalf("leave: %v, %v", reply, err)
		}
	}
	r := f.observe("c1aaaa/s1")
	f.want("members", len(r.Members), 0)
	f.want("total", r.Totals["c1aaaa/s1"], 0)
	c := f.holder()
	reply := c.mustJoin()
	f.want("birth after a clean stop", reply.Birth, a.last.Birth)
	f.want("young after a clean stop", reply.Young, false)
}

func numbers(f *fixture) {
	a, b := f.mature()
	f.want("first number", f.observe().Numbers, map[string]uint64{"c1aaaa": 1})
	req := b.batchRequest()
	req.Space = "c1bbbb"
	f.want("number of a new space", b.send(req).Number, 2)
	f.want("both", f.observe().Numbers, map[string]uint64{"c1aaaa": 1, "c1bbbb": 2})
	f.want("number in later batches", b.batch().Number, 0)
	req = a.batchRequest()
	req.Space = "c1bbbb"
	a.send(req)
	f.want("a space that all have left", f.observe().Numbers, map[string]uint64{"c1bbbb": 2})
	c := f.holder()
	c.space = "c1cccc"
	join := c.joinRequest()
	join.Number = 7
	reply, err := f.conn.Join(f.ctx, join)
	f.wantErr("Join", err, nil)
	f.want("number known before", reply.Number, 7)
	c.last = store.Token{Birth: reply.Birth, Stream: c.stream}
	if _, err := a.reap(c); err != nil {
		f.Fatalf("Reap: %v", err)
	}
	f.want("a space whose holder is gone", f.observe().Numbers, map[string]uint64{"c1bbbb": 2})
}

func otherBirth(f *fixture) {
	a, b := f.mature()
	a.last.Birth = "another"
	_, err := f.conn.Batch(f.ctx, a.batchRequest())
	f.wantErr("batch", err, store.ErrLost)
	_, err = b.reap(a)
	f.wantErr("reap", err, store.ErrLost)
	_, err = f.conn.Mature(f.ctx, store.Mature{Holder: a.id, Token: a.last, Ripe: true})
	f.wantErr("mature", err, store.ErrLost)
}
