package storetest

import "usher/store"

// loseAll drops all data of a shard with these replicas.
func loseAll(drop func(string), replicas ...*replica) {
	drop("m")
	drop("t")
	for _, h := range replicas {
		drop("r:" + h.id)
	}
}

func copyOfTheFirstJoin(f *fixture, drop func(string)) {
	for _, lost := range [][]string{{}, {"m"}, {"t"}} {
		a, b := f.replica(), f.replica()
		first := a.joinRequest(entry(5, 1, 1))
		if reply, err := f.conn.Join(f.ctx, first); err != nil || reply.Epoch != first.Candidate {
			f.Fatalf("the first join: %+v, %v", reply, err)
		}
		if _, err := f.conn.Join(f.ctx, b.joinRequest(entry(5, 1, 1))); err != nil {
			f.Fatalf("the second join: %v", err)
		}
		drop("r:" + a.id)
		for _, key := range lost {
			drop(key)
		}
		_, err := f.conn.Join(f.ctx, first)
		f.wantErr("a copy of the first join", err, store.ErrStale)
		loseAll(drop, a, b)
	}
}

func countsWithoutAMember(f *fixture, drop func(string)) {
	a, b := f.replica(), f.replica()
	first, second := a.joinRequest(entry(5, 1, 1)), b.joinRequest(entry(5, 1, 1))
	_, err := f.conn.Join(f.ctx, first)
	f.wantErr("the first join", err, nil)
	_, err = f.conn.Join(f.ctx, second)
	f.wantErr("the second join", err, nil)
	loseAll(drop, a)
	_, err = f.conn.Join(f.ctx, first) // the same epoch again, without b
	f.wantErr("a copy of the first join", err, nil)
	again := b.joinRequest(entry(5, 1, 1))
	again.Last = store.Token{Epoch: first.Candidate, Stream: second.Stream}
	reply, err := f.conn.Join(f.ctx, again)
	f.wantErr("the next join", err, nil)
	f.want("epoch", reply.Epoch, again.Candidate)
	f.want("kept", reply.Kept, false)
}

func copyOfAnEndRecovery(f *fixture, drop func(string)) {
	a := f.replica()
	first := a.joinRequest()
	reply, err := f.conn.Join(f.ctx, first)
	f.wantErr("the first join", err, nil)
	a.last = store.Token{Epoch: reply.Epoch, Stream: first.Stream}
	a.batch()
	end := store.EndRecovery{Replica: a.id, Token: a.last, Ready: true}
	_, err = f.conn.EndRecovery(f.ctx, end)
	f.wantErr("end recovery", err, nil)
	loseAll(drop, a)
	_, err = f.conn.Join(f.ctx, first)
	f.wantErr("a copy of the join", err, nil)
	_, err = f.conn.EndRecovery(f.ctx, end)
	f.wantErr("a copy of the EndRecovery", err, store.ErrLost)
	f.want("recovering", f.observe().Recovering, true)
}

// A sender whose token the store has not seen, that is no member, or has joined
// since: the data was lost, and a copy of a join created the epoch again.
func endRecoveryToken(f *fixture) {
	a, b := f.replica(), f.replica()
	a.mustJoin()
	b.mustJoin()
	joined := a.last
	a.batch()
	for _, m := range []store.EndRecovery{
		{Replica: a.id, Token: a.last.Next()},
		{Replica: a.id, Token: store.Token{Epoch: joined.Epoch, Stream: joined.Stream + 1}},
		{Replica: b.id, Token: b.last.Next()},
		{Replica: "nobody", Token: joined},
	} {
		m.Ready = true
		_, err := f.conn.EndRecovery(f.ctx, m)
		f.wantErr("end recovery", err, store.ErrLost)
	}
	recovering, err := f.conn.EndRecovery(f.ctx, store.EndRecovery{Replica: a.id, Token: joined, Ready: true})
	f.wantErr("end recovery by an earlier token", err, nil)
	f.want("recovering", recovering, false)
}
