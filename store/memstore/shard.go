package memstore

import (
	"cmp"
	"maps"
	"slices"
	"time"

	"usher/store"
)

// shard is the data of one shard. Each part can be missing on its own, as a
// key of Redis can be evicted on its own; a birth counts only where m, t and
// the holder's ledger agree on it.
type shard struct {
	history string // another one whenever the data may have gone back
	m       *roster
	t       *totals
	r       map[string]*ledger // by holder
	w       store.Windows      // of rates
}

// roster is m: who there is.
type roster struct {
	birth, history string
	young          bool
	settings       store.Settings
	members        map[string]*store.Member
	tombstones     map[string]uint64
	numbers        map[string]uint64 // space -> number, while a member is on it
	lastNumber     uint64
}

// totals is t: what all holders have together.
type totals struct {
	birth string
	count map[string]int64    // by counter and by rule with keys, never 0
	notes map[string][]string // up to two holders last refused there, newest first
}

// ledger is r: what one holder has.
type ledger struct {
	token    store.Token
	own      map[string]int64 // never 0
	admitted []int64          // of the last batch with rates, by entry with a rate
}

func (s *shard) join(j store.Join) (store.JoinReply, error) {
	r := s.r[j.Holder]
	if s.m != nil && s.m.tombstones[j.Holder] >= j.Stream || r != nil && r.token.Stream >= j.Stream {
		return store.JoinReply{}, store.ErrStale
	}
	if s.m != nil && s.m.birth == j.Candidate || s.t != nil && s.t.birth == j.Candidate {
		return store.JoinReply{}, store.ErrStale // a copy of the join that bore this data, of which a part is lost
	}
	if s.m != nil && s.m.settings != j.Settings && s.m.hasOther(j.Holder) {
		return store.JoinReply{Status: store.Mismatch, Settings: s.m.settings}, nil
	}
	switch fresh := s.mustBeBornAnew(j); {
	case fresh && j.Reluctant:
		return store.JoinReply{Status: store.Void}, nil
	case fresh:
		s.bear(j)
	default:
		if me := s.m.members[j.Holder]; me != nil && me.State == store.DyingOne {
			return store.JoinReply{Status: store.Dying, Birth: s.m.birth, Token: me.Token}, nil
		}
	}
	kept := s.openLedger(j)
	s.m.settings = j.Settings
	s.m.number(j.Holder, j.Space, j.Number)
	counts := s.apply(j.Holder, j.Entries, terms{strict: j.Settings.Strict, more: true})
	s.seat(j.Holder, store.Token{Birth: s.m.birth, Stream: j.Stream}, j.More, j.Space)
	return store.JoinReply{
		Status: store.Joined, Birth: s.m.birth, Young: s.m.young, Kept: kept,
		Number: s.m.numbers[j.Space], Counts: counts,
	}, nil
}

// mustBeBornAnew reports whether the data that is here cannot be built on.
func (s *shard) mustBeBornAnew(j store.Join) bool {
	if s.m == nil || s.t == nil || s.t.birth != s.m.birth || s.m.history != s.history {
		return true
	}
	r, me := s.r[j.Holder], s.m.members[j.Holder]
	if me != nil && (r == nil || r.token != me.Token) || me == nil && r != nil && r.token.Birth == s.m.birth {
		return true
	}
	// The holder was told of a later state than the data shows: it went back.
	return r != nil && r.token.Birth == j.Last.Birth && older(r.token, j.Last)
}

func older(a, b store.Token) bool {
	return cmp.Or(cmp.Compare(a.Stream, b.Stream), cmp.Compare(a.Seq, b.Seq)) < 0
}

// bear begins new data: it is young, and knows nobody yet.
func (s *shard) bear(j store.Join) {
	s.t = &totals{birth: j.Candidate, count: map[string]int64{}, notes: map[string][]string{}}
	s.m = &roster{
		birth: j.Candidate, history: s.history, young: true, settings: j.Settings,
		members: map[string]*store.Member{}, tombstones: map[string]uint64{}, numbers: map[string]uint64{},
	}
}

// openLedger makes the holder's ledger ready for its claims and reports
// whether its counts stayed. Clearing them before claims that come in chunks
// would give away the slots of live sessions.
func (s *shard) openLedger(j store.Join) (kept bool) {
	r := s.r[j.Holder]
	if r != nil && r.token.Birth == s.m.birth {
		if j.Last.Birth == s.m.birth {
			return true
		}
		// A join of its own that was never answered: at most MaxEntries counters.
		for c, n := range r.own {
			s.t.add(c, -n)
		}
	}
	s.r[j.Holder] = &ledger{own: map[string]int64{}}
	return false
}

// seat writes the holder's token where the roster and its ledger keep it.
func (s *shard) seat(holder string, t store.Token, more bool, space string) {
	state := store.OK
	if more {
		state = store.Claiming
	}
	s.r[holder].token = t
	s.m.members[holder] = &store.Member{Holder: holder, Token: t, State: state, Space: space}
}

func (s *shard) batch(now time.Duration, b store.Batch) (store.BatchReply, error) {
	r := s.r[b.Holder]
	if s.m == nil || s.t == nil || s.m.birth != b.New.Birth || s.t.birth != b.New.Birth || r == nil {
		return store.BatchReply{}, store.ErrLost
	}
	if s.m.history != s.history {
		return store.BatchReply{}, store.ErrLost // who acted in the meantime may be missing here
	}
	me := s.m.members[b.Holder]
	if me == nil || me.State == store.DyingOne || r.token != b.Prev && r.token != b.New {
		return store.BatchReply{}, store.ErrLost
	}
	if r.token == b.New {
		counts := s.answer(b.Holder, b.Entries)
		s.answerRates(now, b.Entries, r.admitted, counts) // as it was: a copy must not use up more
		return store.BatchReply{Young: s.m.young, Number: s.m.numbers[b.Space], Counts: counts}, nil
	}
	space := me.Space
	if b.Space != "" {
		space = b.Space
		s.m.number(b.Holder, space, b.Number)
	}
	counts := s.apply(b.Holder, b.Entries, terms{now: now, strict: b.Strict, more: b.More})
	s.answerRates(now, b.Entries, r.admitted, counts)
	s.seat(b.Holder, b.New, b.More, space)
	return store.BatchReply{Young: s.m.young, Number: s.m.numbers[b.Space], Counts: counts}, nil
}

func (s *shard) reap(q store.Reap) (store.ReapReply, error) {
	if s.m == nil || s.m.birth != q.Birth {
		return 0, store.ErrLost
	}
	target := s.m.members[q.Target]
	if target == nil {
		return store.Gone, nil
	}
	if target.Token != q.Token {
		return store.No, nil
	}
	r := s.r[q.Target]
	if s.t == nil || s.t.birth != q.Birth || r == nil || r.token != q.Token {
		s.m = nil // corrupt: the next join bears new data
		return 0, store.ErrLost
	}
	for i, c := range slices.Sorted(maps.Keys(r.own)) {
		if i == q.Most {
			target.State = store.DyingOne
			return store.More, nil
		}
		s.t.add(c, -r.own[c])
		delete(r.own, c)
	}
	delete(s.r, q.Target)
	delete(s.m.members, q.Target)
	s.m.tombstones[q.Target] = q.Token.Stream
	s.m.forget(target.Space)
	return store.Gone, nil
}

func (s *shard) mature(q store.Mature) (bool, error) {
	if s.m == nil || s.m.birth != q.Token.Birth {
		return false, store.ErrLost
	}
	if me := s.m.members[q.Holder]; me == nil || !me.Token.Reaches(q.Token) {
		return false, store.ErrLost
	}
	for _, h := range q.Gone {
		delete(s.m.tombstones, h)
	}
	claiming := false
	for _, m := range s.m.members {
		claiming = claiming || m.State == store.Claiming
	}
	if q.Ripe && !claiming {
		s.m.young = false
	}
	return s.m.young, nil
}

func (s *shard) observe(counters []string) store.Roster {
	out := store.Roster{Tombstones: map[string]uint64{}, Numbers: map[string]uint64{}, Totals: map[string]int64{}}
	if s.m != nil {
		out.Birth, out.Young, out.Settings = s.m.birth, s.m.young, s.m.settings
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

func (m *roster) hasOther(holder string) bool {
	for h := range m.members {
		if h != holder {
			return true
		}
	}
	return false
}

// number gives the space a number if it has none, the holder's own if that is
// free, and forgets the space that the holder leaves if nobody else is on it.
func (m *roster) number(holder, space string, hint uint64) {
	left := ""
	if me := m.members[holder]; me != nil && me.Space != space {
		left = me.Space
		me.Space = space
	}
	if space != "" && m.numbers[space] == 0 {
		m.lastNumber = max(m.lastNumber+1, hint)
		m.numbers[space] = m.lastNumber
	}
	if left != "" {
		m.forget(left)
	}
}

// forget drops the number of a space that no member is on.
func (m *roster) forget(space string) {
	for _, o := range m.members {
		if o.Space == space {
			return
		}
	}
	delete(m.numbers, space)
}
