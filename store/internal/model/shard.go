package model

import (
	"cmp"
	"maps"
	"slices"
	"time"

	"usher/store"
	"usher/store/limit"
)

// shard is the data of one shard. Each part can be missing on its own, because
// Redis can evict a key on its own. An epoch counts only where m, t and the
// replica's ledger agree on it.
type shard struct {
	history string // changes whenever the data may have gone back in time
	m       *membership
	t       *totals
	r       map[string]*ledger // by replica
	w       limit.Windows      // by counter, and by rule with keys
	k       limit.Windows      // by rule: for how many keys a window was opened
}

// membership is m: the replicas that are members.
type membership struct {
	epoch, history string
	recovering     bool
	settings       store.Settings
	members        map[string]*store.Member
	tombstones     map[string]uint64
	numbers        map[string]uint64 // space -> number, while a member is on it
	lastNumber     uint64
}

// totals is t: what all replicas hold together.
type totals struct {
	epoch string
	count map[string]int64    // by counter, and by rule with keys; never 0
	notes map[string][]string // up to two replicas last refused there, newest first
}

// ledger is r: what one replica holds.
type ledger struct {
	token    store.Token
	granted  map[string]int64 // never 0
	admitted []int64          // of the last batch with rates, by entry with a rate
}

func (s *shard) join(j store.Join) (store.JoinReply, error) {
	r := s.r[j.Replica]
	if s.m != nil && s.m.tombstones[j.Replica] >= j.Stream || //mutate:a-late-join-is-accepted //mutate:no-tombstone
		r != nil && r.token.Stream >= j.Stream {
		return store.JoinReply{}, store.ErrStale
	}
	// Is it a copy of the join that created this epoch, and a part of the data is lost?
	if s.isOf(j.Candidate) { //mutate:a-copy-of-the-join-that-created-an-epoch-creates-it-again
		return store.JoinReply{}, store.ErrStale
	}
	if s.hasConflict(j) { //mutate:no-settings-check
		return store.JoinReply{Status: store.Mismatch, Settings: s.m.settings}, nil
	}
	switch needed := s.needsNewEpoch(j); {
	case needed && j.MustNotCreate:
		return store.JoinReply{Status: store.NoData}, nil
	case needed:
		s.create(j)
	default:
		if me := s.m.members[j.Replica]; me != nil && me.State == store.MemberExpiring {
			return store.JoinReply{Status: store.Expiring, Epoch: s.m.epoch, Token: me.Token}, nil
		}
	}
	kept := s.openLedger(j)
	s.m.settings = j.Settings
	s.m.number(j.Replica, j.Space, j.Number)
	counts := s.apply(j.Replica, j.Entries, terms{strict: j.Settings.Strict, more: true})
	s.setMember(j.Replica, store.Token{Epoch: s.m.epoch, Stream: j.Stream}, j.More, j.Space)
	return store.JoinReply{
		Status: store.Joined, Epoch: s.m.epoch, Recovering: s.m.recovering, Kept: kept,
		Number: s.m.numbers[j.Space], Counts: counts,
	}, nil
}

// needsNewEpoch reports whether the joining replica cannot build on the data.
func (s *shard) needsNewEpoch(j store.Join) bool {
	if s.m == nil || s.t == nil || s.t.epoch != s.m.epoch ||
		s.m.history != s.history { //mutate:a-join-builds-on-data-of-another-history
		return true
	}
	r, me := s.r[j.Replica], s.m.members[j.Replica]
	if me != nil && (r == nil || r.token != me.Token) ||
		me == nil && r != nil && r.token.Epoch == s.m.epoch { //mutate:counts-without-a-member-are-kept
		return true
	}
	// The data was rolled back to before the last batch that the replica knows of.
	return r != nil && r.token.Epoch == j.Last.Epoch && older(r.token, j.Last)
}

func older(a, b store.Token) bool {
	return cmp.Or(cmp.Compare(a.Stream, b.Stream), cmp.Compare(a.Seq, b.Seq)) < 0
}

// create starts an epoch: the data is recovering, and has no members yet.
func (s *shard) create(j store.Join) {
	s.t = &totals{epoch: j.Candidate, count: map[string]int64{}, notes: map[string][]string{}}
	s.m = &membership{
		epoch: j.Candidate, history: s.history, settings: j.Settings,
		recovering: true, //mutate:no-recovery
		members:    map[string]*store.Member{}, tombstones: map[string]uint64{}, numbers: map[string]uint64{},
	}
}

// openLedger prepares the replica's ledger for its claims and reports whether its
// counts were kept. Claims may come in several requests. If the counts were cleared
// first, others could get the slots of running sessions in between.
func (s *shard) openLedger(j store.Join) (kept bool) {
	r := s.r[j.Replica]
	if r != nil && r.token.Epoch == s.m.epoch {
		if j.Last.Epoch == s.m.epoch { //mutate:counts-cleared-at-a-join
			return true
		}
		// An earlier join of this replica that was never answered: it counted at
		// most MaxEntries counters.
		for c, n := range r.granted {
			s.t.add(c, -n) //mutate:an-unanswered-join-counts-twice
		}
	}
	s.r[j.Replica] = &ledger{granted: map[string]int64{}}
	return false
}

// setMember writes the replica's token into the membership and its ledger.
func (s *shard) setMember(replica string, t store.Token, more bool, space string) {
	state := store.MemberOK
	if more {
		state = store.MemberClaiming
	}
	s.r[replica].token = t
	s.m.members[replica] = &store.Member{Replica: replica, Token: t, State: state, Space: space}
}

func (s *shard) batch(now time.Duration, b store.Batch) (store.BatchReply, error) {
	r := s.r[b.Replica]
	if s.m == nil || s.t == nil || s.m.epoch != b.New.Epoch || s.t.epoch != b.New.Epoch || r == nil { //mutate:an-epoch-in-m-only
		return store.BatchReply{}, store.ErrLost
	}
	if s.m.history != s.history { //mutate:a-batch-builds-on-data-of-another-history
		return store.BatchReply{}, store.ErrLost // what other replicas did since then may be missing
	}
	me := s.m.members[b.Replica]
	if me == nil || me.State == store.MemberExpiring ||
		r.token != b.Prev && r.token != b.New { //mutate:no-token-check
		return store.BatchReply{}, store.ErrLost
	}
	s.shortenWindows(now, b.Entries)
	if r.token == b.New { //mutate:duplicates-take-effect
		counts := s.answer(b.Replica, b.Entries)
		// The rates that the first copy used up: this copy must not use up more.
		s.answerRates(now, b.Entries, r.admitted, counts) //mutate:a-duplicate-is-answered-anew
		return store.BatchReply{Recovering: s.m.recovering, Number: s.m.numbers[b.Space], Counts: counts}, nil
	}
	space := me.Space
	if b.Space != "" {
		space = b.Space
		s.m.number(b.Replica, space, b.Number)
	}
	counts := s.apply(b.Replica, b.Entries, terms{now: now, strict: b.Strict, more: b.More})
	s.answerRates(now, b.Entries, r.admitted, counts)
	s.setMember(b.Replica, b.New, b.More, space)
	return store.BatchReply{Recovering: s.m.recovering, Number: s.m.numbers[b.Space], Counts: counts}, nil
}

func (s *shard) expire(q store.Expire) (store.ExpireReply, error) {
	if s.m == nil || s.m.epoch != q.Epoch {
		return 0, store.ErrLost
	}
	target := s.m.members[q.Target]
	if target == nil {
		return store.Gone, nil
	}
	if target.Token != q.Token { //mutate:an-expire-of-any-token
		return store.Alive, nil
	}
	r := s.r[q.Target]
	if s.t == nil || s.t.epoch != q.Epoch || r == nil || r.token != q.Token {
		s.m = nil // corrupt: the next join creates a new epoch
		return 0, store.ErrLost
	}
	for i, c := range slices.Sorted(maps.Keys(r.granted)) {
		if i == q.Max {
			target.State = store.MemberExpiring //mutate:no-expiring-mark
			return store.More, nil
		}
		s.t.add(c, -r.granted[c])
		delete(r.granted, c)
	}
	delete(s.r, q.Target)
	delete(s.m.members, q.Target)
	s.m.tombstones[q.Target] = q.Token.Stream
	s.m.forget(target.Space)
	return store.Gone, nil
}

func (s *shard) endRecovery(q store.EndRecovery) (recovering bool, err error) {
	if s.m == nil || s.m.epoch != q.Token.Epoch {
		return false, store.ErrLost
	}
	me := s.m.members[q.Replica]
	if me == nil ||
		!me.Token.Reaches(q.Token) { //mutate:whoever-ended-the-recovery-before-ends-it-again
		return false, store.ErrLost
	}
	for _, h := range q.Gone {
		delete(s.m.tombstones, h)
	}
	claiming := false
	for _, m := range s.m.members {
		claiming = claiming || m.State == store.MemberClaiming //mutate:a-recovery-ends-while-a-replica-claims
	}
	if q.Ready && !claiming {
		s.m.recovering = false
	}
	return s.m.recovering, nil
}

func (s *shard) observe(counters []string) store.Membership {
	out := store.Membership{Tombstones: map[string]uint64{}, Numbers: map[string]uint64{}, Totals: map[string]int64{}}
	if s.m != nil {
		out.Epoch, out.Recovering, out.Settings = s.m.epoch, s.m.recovering, s.m.settings
		maps.Copy(out.Tombstones, s.m.tombstones)
		maps.Copy(out.Numbers, s.m.numbers)
		for _, h := range slices.Sorted(maps.Keys(s.m.members)) {
			out.Members = append(out.Members, *s.m.members[h])
		}
	}
	for _, c := range counters {
		out.Totals[c] = 0
		if s.t != nil {
			out.Totals[c] = s.t.count[c]
		}
	}
	return out
}

// isOf reports whether any part of the data is of that epoch.
func (s *shard) isOf(epoch string) bool {
	return s.m != nil && s.m.epoch == epoch || s.t != nil && s.t.epoch == epoch
}

// hasConflict reports whether another replica is a member with other settings.
func (s *shard) hasConflict(j store.Join) bool {
	if s.m == nil || s.m.settings == j.Settings {
		return false
	}
	for h := range s.m.members {
		if h != j.Replica {
			return true
		}
	}
	return false
}

// number gives the space a number if it has none, preferably the one that the replica
// knows. It forgets the space that the replica leaves if no other member is in it.
func (m *membership) number(replica, space string, known uint64) {
	left := ""
	if me := m.members[replica]; me != nil && me.Space != space {
		left = me.Space
		me.Space = space
	}
	if space != "" && m.numbers[space] == 0 {
		m.lastNumber = max(m.lastNumber+1, known)
		m.numbers[space] = m.lastNumber
	}
	if left != "" {
		m.forget(left)
	}
}

// forget drops the number of a space that has no members.
func (m *membership) forget(space string) {
	for _, o := range m.members {
		if o.Space == space {
			return
		}
	}
	delete(m.numbers, space)
}
