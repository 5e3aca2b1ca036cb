package storetest

import (
	"fmt"
	"time"

	"usher/store"
	"usher/store/limit"
)

func firstJoin(f *fixture) {
	f.want("epoch of an empty shard", f.observe().Epoch, "")
	a := f.replica()
	reply := a.mustJoin()
	f.want("recovering", reply.Recovering, true)
	f.want("kept", reply.Kept, false)
	r := f.observe()
	f.want("epoch", r.Epoch, reply.Epoch)
	f.want("settings", r.Settings, keep)
	f.want("members", r.Members, []store.Member{{Replica: a.id, Token: a.last, State: store.MemberOK, Space: a.space}})
}

func recoveringAdmitsNothing(f *fixture) {
	a := f.replica()
	a.mustJoin()
	reply := a.batch(entry(5, 0, 3))
	f.want("recovering", reply.Recovering, true)
	f.want("granted", reply.Counts[0].Granted, 0)
}

func recoveringTakesClaims(f *fixture) {
	a := f.replica()
	f.want("claimed by join", a.mustJoin(entry(5, 3, 3)).Counts[0].Granted, 3)
	f.want("claimed by batch", a.batch(entry(5, 4, 6)).Counts[0].Granted, 4)
}

func endingRecovery(f *fixture) {
	a := f.replica()
	req := a.joinRequest(entry(5, 1, 1))
	req.More = true
	reply, err := f.conn.Join(f.ctx, req)
	f.wantErr("Join", err, nil)
	a.last = store.Token{Epoch: reply.Epoch, Stream: a.stream}
	a.learn(req.Entries, reply.Counts)
	end := store.EndRecovery{Replica: a.id, Token: a.last, Ready: true}

	recovering, err := f.conn.EndRecovery(f.ctx, end)
	f.wantErr("EndRecovery", err, nil)
	f.want("recovering while a replica claims", recovering, true)
	f.want("state", f.observe().Members[0].State, store.MemberClaiming)

	a.batch(entry(5, 1, 1))
	recovering, _ = f.conn.EndRecovery(f.ctx, store.EndRecovery{Replica: a.id, Token: a.last})
	f.want("recovering before it may end", recovering, true)
	recovering, _ = f.conn.EndRecovery(f.ctx, end)
	f.want("recovering when it may end", recovering, false)
	f.want("recovering, as the members see it", f.observe().Recovering, false)
	f.want("granted by a ready store", a.batch(entry(5, 1, 4)).Counts[0].Granted, 4)
}

func growthStops(f *fixture) {
	a, b := f.ready()
	f.want("a", a.batch(entry(5, 0, 3)).Counts[0], store.Count{Granted: 3, Total: 3})
	f.want("b", b.batch(entry(5, 0, 4)).Counts[0], store.Count{Granted: 2, Total: 5})
	f.want("a again", a.batch(entry(5, 3, 4)).Counts[0].Granted, 3)
	f.want("no limit", a.batch(entry(limit.None, 3, 4000)).Counts[0].Granted, 4000)
}

func maximumZero(f *fixture) {
	a, _ := f.ready()
	f.want("granted", a.batch(entry(0, 0, 1)).Counts[0], store.Count{})
}

func resend(f *fixture) {
	a, b := f.ready()
	req := a.batchRequest(entry(5, 0, 3))
	first := a.send(req)
	b.batch(entry(5, 0, 1))
	second := a.send(req)
	f.want("granted by the duplicate", second.Counts[0].Granted, first.Counts[0].Granted)
	f.want("total that the duplicate sees", second.Counts[0].Total, 4)
}

func lateCopy(f *fixture) {
	a, _ := f.ready()
	old := a.batchRequest(entry(5, 0, 3))
	a.send(old)
	a.batch(entry(5, 0, 0))
	_, err := f.conn.Batch(f.ctx, old)
	f.wantErr("late copy", err, store.ErrLost)
	f.checkSums()
}

func oldStream(f *fixture) {
	a, _ := f.ready()
	old := a.batchRequest(entry(5, 0, 3))
	a.mustJoin()
	_, err := f.conn.Batch(f.ctx, old)
	f.wantErr("batch of the stream before", err, store.ErrLost)
	f.checkSums()
}

func staleJoin(f *fixture) {
	a, _ := f.ready()
	old := a.joinRequest(entry(5, 2, 2))
	a.mustJoin()
	_, err := f.conn.Join(f.ctx, old)
	f.wantErr("overtaken join", err, store.ErrStale)
	f.checkSums()
}

func keptJoin(f *fixture) {
	a, b := f.ready()
	a.batch(entry(5, 0, 4))
	reply := a.mustJoin() // claims nothing yet: counts stay
	f.want("kept", reply.Kept, true)
	f.want("recovering", reply.Recovering, false)
	f.want("granted to b beside the counts that were kept", b.batch(entry(5, 0, 5)).Counts[0].Granted, 1)
	f.want("restated", a.batch(entry(5, 2, 2)).Counts[0].Granted, 2)
}

func unansweredJoin(f *fixture) {
	a := f.replica()
	lost := a.joinRequest(entry(5, 3, 3))
	if _, err := f.conn.Join(f.ctx, lost); err != nil {
		f.Fatalf("Join: %v", err)
	}
	reply := a.mustJoin(entry(5, 2, 2))
	f.want("kept", reply.Kept, false)
	f.want("count", reply.Counts[0], store.Count{Granted: 2, Total: 2})
}

func otherHistory(f *fixture, turn func()) {
	a, b := f.ready()
	a.batch(entry(5, 0, 2))
	epoch := a.last.Epoch
	turn()
	late := a.batchRequest(entry(5, 2, 3))
	_, err := f.conn.Batch(f.ctx, late)
	f.wantErr("batch in another history", err, store.ErrLost)
	clear(a.own) // their data is gone
	reply := b.mustJoin(entry(5, 1, 1))
	f.want("recovering", reply.Recovering, true)
	f.want("kept", reply.Kept, false)
	f.want("same epoch", reply.Epoch == epoch, false)
	_, err = f.conn.Batch(f.ctx, late)
	f.wantErr("batch of the epoch before", err, store.ErrLost)
	f.want("claimed again", a.mustJoin(entry(5, 2, 2)).Counts[0], store.Count{Granted: 2, Total: 3})
}

func mismatch(f *fixture) {
	a, _ := f.ready()
	c := f.replica()
	c.settings.TTL = 3 * time.Second
	reply, err := c.join()
	f.wantErr("Join", err, nil)
	f.want("status", reply.Status, store.Mismatch)
	f.want("settings in force", reply.Settings, keep)
	f.want("members", len(f.observe().Members), 2)
	a.batch() // the others are not disturbed
}

// mustNotCreate: a replica that has met replicas with other settings does not create
// an epoch as long as they may return.
func mustNotCreate(f *fixture) {
	a := f.replica()
	a.mustNotCreate = true
	reply, err := a.join()
	f.wantErr("Join", err, nil)
	f.want("status without data", reply.Status, store.NoData)
	f.want("epoch", f.observe().Epoch, "")
	f.ready()
	f.want("status with data", a.mustJoin().Status, store.Joined)
}

func changeSettings(f *fixture) {
	a, b := f.ready()
	if _, err := a.expire(b); err != nil {
		f.Fatalf("Expire: %v", err)
	}
	a.settings.Strict = true
	f.want("status", a.mustJoin().Status, store.Joined)
	f.want("settings", f.observe().Settings, a.settings)
}

func shrinkFirst(f *fixture) {
	a, _ := f.ready()
	a.batch(keyedEntry("x", 5, 2, 2))
	reply := a.batch(keyedEntry("y", 5, 2, 2), keyedEntry("x", 5, 2, 0))
	f.want("y", reply.Counts[0], store.Count{Granted: 2, Total: 2, RuleTotal: 2})
	f.want("x", reply.Counts[1], store.Count{RuleTotal: 2})
}

func keyed(f *fixture) {
	a, b := f.ready()
	reply := a.batch(keyedEntry("x", 2, 3, 4), keyedEntry("y", 2, 3, 2))
	f.want("x", reply.Counts[0], store.Count{Granted: 2, Total: 2, RuleTotal: 3})
	f.want("y", reply.Counts[1], store.Count{Granted: 1, Total: 1, RuleTotal: 3})
	f.want("z at b", b.batch(keyedEntry("z", 2, 3, 1)).Counts[0].Granted, 0)
	f.want("key with a slash", b.batch(keyedEntry("a/b", 1, limit.None, 3)).Counts[0].Granted, 1)
}

func overDrains(f *fixture) {
	a, b := f.ready()
	a.batch(entry(5, 0, 5))
	b.mustJoin(entry(5, 3, 3)) // b comes back with sessions that the store no longer counted
	f.want("total above", f.observe("c1aaaa/s1").Totals["c1aaaa/s1"], 8)
	f.want("a asks for more", a.batch(entry(5, 4, 6)).Counts[0], store.Count{Granted: 4, Total: 7})
	f.want("b keeps its own", b.batch(entry(5, 3, 3)).Counts[0].Granted, 3)
	f.want("a drains", a.batch(entry(5, 1, 1)).Counts[0], store.Count{Granted: 1, Total: 4})
	f.want("then grows", a.batch(entry(5, 1, 4)).Counts[0], store.Count{Granted: 2, Total: 5})
}

func claimsAbove(f *fixture) {
	strict := keep
	strict.Strict = true
	a, b := f.replica(), f.replica()
	a.settings, b.settings = strict, strict
	a.mustJoin(entry(5, 4, 4))
	f.want("strict claim", b.mustJoin(entry(5, 3, 3)).Counts[0].Granted, 1)
	f.endRecovery(a)
	f.want("strict later", b.batch(entry(5, 3, 3)).Counts[0].Granted, 1)
}

func fairness(f *fixture) {
	a, b := f.ready()
	a.batch(entry(2, 0, 2))
	f.want("b is refused", b.batch(entry(2, 0, 1)).Counts[0], store.Count{Total: 2})
	f.want("a learns of it", a.batch(entry(2, 2, 2)).Counts[0].Contended, true)
	// A session of a ends while another of a waits: the slot is for b.
	f.want("a's waiter", a.batch(entry(2, 1, 2)).Counts[0], store.Count{Granted: 1, Total: 1})
	f.want("b asks again", b.batch(entry(2, 0, 1)).Counts[0].Granted, 1)
	f.want("a may hand over again", a.batch(entry(2, 1, 1)).Counts[0].Contended, false)
}

func fairnessOfRule(f *fixture) {
	a, b := f.ready()
	a.batch(keyedEntry("x", 2, 3, 2), keyedEntry("y", 2, 3, 1))
	f.want("b is refused", b.batch(keyedEntry("z", 2, 3, 1)).Counts[0].Granted, 0)
	reply := a.batch(keyedEntry("y", 2, 3, 2), keyedEntry("x", 2, 3, 1)) // all have ended, and other sessions ask
	f.want("taken back of y", reply.Counts[0].Granted, 0)
	f.want("taken back of x", reply.Counts[1].Granted, 0)
	f.want("b gets its share", b.batch(keyedEntry("z", 2, 3, 2)).Counts[0].Granted, 2)
}

func twoNames(f *fixture) {
	a, b := f.ready()
	a.batch(entry(1, 0, 1))
	b.batch(entry(1, 0, 1)) // refused, noted
	a.batch(entry(1, 1, 2)) // refused as well, which must not remove b's name
	f.want("contended", a.batch(entry(1, 1, 1)).Counts[0].Contended, true)
	a.batch(entry(1, 0, 1))
	f.want("b gets the slot", b.batch(entry(1, 0, 1)).Counts[0].Granted, 1)
}

func expireToken(f *fixture) {
	a, b := f.ready()
	b.batch(entry(5, 0, 2))
	seen := *b
	b.batch()
	reply, err := a.expire(&seen)
	f.wantErr("Expire", err, nil)
	f.want("expire of a token that moved on", reply, store.Alive)
	reply, err = a.expire(b)
	f.wantErr("Expire", err, nil)
	f.want("expire", reply, store.Gone)
	f.want("total", f.observe("c1aaaa/s1").Totals["c1aaaa/s1"], 0)
	reply, _ = a.expire(b)
	f.want("expire again", reply, store.Gone)
	_, err = f.conn.Batch(f.ctx, b.batchRequest())
	f.wantErr("batch of a expired replica", err, store.ErrLost)
	f.want("kept after a expire", b.mustJoin(entry(5, 1, 1)).Kept, false)
}

// many gives h more counters than one expire takes.
func (h *replica) many() {
	for done := 0; done < store.MaxExpire+10; {
		var entries []store.Entry
		for len(entries) < store.MaxEntries && done < store.MaxExpire+10 {
			entries = append(entries, keyedEntry(fmt.Sprint("k", done), 1, limit.None, 1))
			done++
		}
		h.send(h.batchRequest(entries...))
	}
}

func expireMany(f *fixture) {
	a, b := f.ready()
	b.many()
	reply, err := a.expire(b)
	f.wantErr("first call", err, nil)
	f.want("first call", reply, store.More)
	f.want("left", f.observe("c1aaaa/s1").Totals["c1aaaa/s1"], 10)
	reply, _ = a.expire(b)
	f.want("second call", reply, store.Gone)
	f.want("left", f.observe("c1aaaa/s1").Totals["c1aaaa/s1"], 0)
}

func expiring(f *fixture) {
	a, b := f.ready()
	b.many()
	if reply, err := a.expire(b); reply != store.More || err != nil {
		f.Fatalf("Expire: %v, %v", reply, err)
	}
	_, err := f.conn.Batch(f.ctx, b.batchRequest())
	f.wantErr("batch of a expiring replica", err, store.ErrLost)
	reply, err := f.conn.Join(f.ctx, b.joinRequest())
	f.wantErr("Join", err, nil)
	f.want("status", reply.Status, store.Expiring)
	f.want("token to expire", reply.Token, b.last)
	done, _ := b.expire(b)
	f.want("own expire", done, store.Gone)
	f.want("joined anew", b.mustJoin().Kept, false)
}

func tombstone(f *fixture) {
	a, b := f.ready()
	late := b.joinRequest(entry(5, 2, 2))
	late.Stream = b.last.Stream
	if reply, err := a.expire(b); reply != store.Gone || err != nil {
		f.Fatalf("Expire: %v, %v", reply, err)
	}
	_, err := f.conn.Join(f.ctx, late)
	f.wantErr("late join", err, store.ErrStale)
	f.want("tombstone", f.observe().Tombstones[b.id], b.last.Stream)
	if _, err := f.conn.EndRecovery(f.ctx, store.EndRecovery{Replica: a.id, Token: a.last, Gone: []string{b.id}}); err != nil {
		f.Fatalf("EndRecovery: %v", err)
	}
	f.want("tombstones", len(f.observe().Tombstones), 0)
}

func leave(f *fixture) {
	a, b := f.ready()
	a.batch(entry(5, 0, 2))
	for _, h := range []*replica{a, b} {
		if reply, err := h.expire(h); reply != store.Gone || err != nil {
			f.Fatalf("leave: %v, %v", reply, err)
		}
	}
	r := f.observe("c1aaaa/s1")
	f.want("members", len(r.Members), 0)
	f.want("total", r.Totals["c1aaaa/s1"], 0)
	c := f.replica()
	reply := c.mustJoin()
	f.want("epoch after a clean stop", reply.Epoch, a.last.Epoch)
	f.want("recovering after a clean stop", reply.Recovering, false)
}

func numbers(f *fixture) {
	a, b := f.ready()
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
	c := f.replica()
	c.space = "c1cccc"
	join := c.joinRequest()
	join.Number = 7
	reply, err := f.conn.Join(f.ctx, join)
	f.wantErr("Join", err, nil)
	f.want("number known before", reply.Number, 7)
	c.last = store.Token{Epoch: reply.Epoch, Stream: c.stream}
	if _, err := a.expire(c); err != nil {
		f.Fatalf("Expire: %v", err)
	}
	f.want("a space whose replica is gone", f.observe().Numbers, map[string]uint64{"c1bbbb": 2})
}

func otherEpoch(f *fixture) {
	a, b := f.ready()
	a.last.Epoch = "another"
	_, err := f.conn.Batch(f.ctx, a.batchRequest())
	f.wantErr("batch", err, store.ErrLost)
	_, err = b.expire(a)
	f.wantErr("expire", err, store.ErrLost)
	_, err = f.conn.EndRecovery(f.ctx, store.EndRecovery{Replica: a.id, Token: a.last, Ready: true})
	f.wantErr("end recovery", err, store.ErrLost)
}
