package memstore

import (
	"slices"
	"time"

	"usher/store"
	"usher/store/limit"
)

// terms are what a join or batch says for all of its entries.
type terms struct {
	now    time.Duration
	strict bool // claims do not go above the maximum
	more   bool // claims only: nothing grows
}

// level is one counter of an entry with its maximum and rate: the entry's own,
// or its rule's.
type level struct {
	name string
	max  int64
	rate limit.Rate
}

func levelsOf(e store.Entry) []level {
	if rule := store.RuleOf(e.Counter); rule != "" {
		return []level{{e.Counter, e.Max, e.Rate}, {rule, e.RuleMax, e.RuleRate}}
	}
	return []level{{e.Counter, e.Max, e.Rate}}
}

// apply works the entries of a replica in two passes, all that shrinks before
// all that grows, and answers them.
func (s *shard) apply(replica string, entries []store.Entry, how terms) []store.Count {
	held := map[string]int64{} // freed here, but for the next replica that asks
	var admitted []int64
	for _, e := range entries {
		s.shrink(replica, e, held)
	}
	for _, e := range entries {
		a := s.grow(replica, e, held, how)
		if e.Throttled() {
			admitted = append(admitted, a)
		}
	}
	if len(admitted) > 0 {
		s.r[replica].admitted = admitted
	}
	return s.answer(replica, entries)
}

func (s *shard) shrink(replica string, e store.Entry, held map[string]int64) {
	own := s.r[replica].own[e.Counter]
	levels := levelsOf(e)
	// Another was refused there. What this batch frees first takes the note away.
	wanted := func(l level) bool { return held[l.name] > 0 || s.t.notesAnother(l.name, replica) }
	to := min(own, e.Need)
	if own > e.Live && slices.ContainsFunc(levels, wanted) {
		to = min(to, e.Live)
	}
	if room := s.room(levels) + own - to; room < 0 {
		to = max(min(to, e.Live), to+room)
	}
	freed := own - to
	if freed == 0 {
		return
	}
	for _, l := range levels {
		if wanted(l) {
			held[l.name] += freed
			s.t.dropNotes(l.name, func(h string) bool { return h != replica })
		}
	}
	s.set(replica, e.Counter, to)
}

// grow returns how many of the waiting were admitted, of an entry with rates.
func (s *shard) grow(replica string, e store.Entry, held map[string]int64, how terms) int64 {
	own := s.r[replica].own[e.Counter]
	levels := levelsOf(e)
	tokens := s.tokens(e, levels, how)
	if !e.Counted() {
		s.begin(levels, tokens, how)
		return tokens
	}
	free, room := unlimited, s.room(levels)
	for _, l := range levels {
		if l.max != limit.None {
			free = min(free, l.max-s.t.count[l.name]-held[l.name])
		}
	}
	if s.m.recovering || how.more {
		free = min(free, 0)
	}
	floor := e.Live
	if how.strict {
		floor = min(e.Live, own+max(0, room))
	}
	to := min(e.Need, max(floor, own+free), e.Live+tokens)
	s.set(replica, e.Counter, to)
	admitted := max(0, to-e.Live)
	s.begin(levels, admitted, how)
	if s.m.recovering || how.more {
		return admitted
	}
	for _, l := range levels {
		switch {
		case to == e.Need:
			s.t.dropNotes(l.name, func(h string) bool { return h == replica })
		case l.max != limit.None && s.t.count[l.name] >= max(l.max, 1): // at 0 nobody frees anything
			s.t.note(l.name, replica)
		}
	}
	return admitted
}

// tokens is how many of the waiting the rates let begin.
func (s *shard) tokens(e store.Entry, levels []level, how terms) int64 {
	n := e.Need - e.Live
	if how.more && e.Throttled() {
		n = 0
	}
	for _, l := range levels {
		if l.rate.N > 0 {
			n = min(n, max(0, l.rate.N-s.w.Used(how.now, l.name)))
		}
	}
	return n
}

// begin uses up the windows of both levels.
func (s *shard) begin(levels []level, n int64, how terms) {
	for _, l := range levels {
		if l.rate.N > 0 && n > 0 {
			s.w.Use(how.now, l.name, l.rate.Per, n)
		}
	}
}

// answer reads what the replica has now of each entry.
func (s *shard) answer(replica string, entries []store.Entry) []store.Count {
	counts := make([]store.Count, len(entries))
	for i, e := range entries {
		counts[i] = store.Count{Granted: s.r[replica].own[e.Counter], Total: s.t.count[e.Counter]}
		if rule := store.RuleOf(e.Counter); rule != "" {
			counts[i].RuleTotal = s.t.count[rule]
		}
		for _, l := range levelsOf(e) {
			counts[i].Contended = counts[i].Contended || s.t.notesAnother(l.name, replica)
		}
	}
	return counts
}

// answerRates adds to an answer what a batch admitted under rates, when it
// took effect, and how the windows are now.
func (s *shard) answerRates(now time.Duration, entries []store.Entry, admitted []int64, counts []store.Count) {
	for i, e := range entries {
		if !e.Throttled() {
			continue
		}
		if len(admitted) > 0 { // fewer: not a copy, but a stream that was used twice
			counts[i].Admitted, admitted = admitted[0], admitted[1:]
		}
		levels := levelsOf(e)
		usedUp := func(l level) bool { return l.rate.N > 0 && s.w.Used(now, l.name) >= l.rate.N }
		counts[i].Throttled = usedUp(levels[0])
		counts[i].RuleThrottled = len(levels) > 1 && usedUp(levels[1])
	}
}

// unlimited is far above any count and far below overflow; redisstore's
// scripts use the same number.
const unlimited int64 = 1 << 52

// room is what is left under the maxima; below zero the counter is over.
func (s *shard) room(levels []level) int64 {
	room := unlimited
	for _, l := range levels {
		if l.max != limit.None {
			room = min(room, l.max-s.t.count[l.name])
		}
	}
	return room
}

// set writes a replica's count and moves the totals by the difference.
func (s *shard) set(replica, counter string, to int64) {
	own := s.r[replica].own
	s.t.add(counter, to-own[counter])
	if own[counter] = to; to == 0 {
		delete(own, counter)
	}
}

// add moves the totals of a counter and of its rule. A note goes with its total.
func (t *totals) add(counter string, n int64) {
	for _, name := range []string{counter, store.RuleOf(counter)} {
		if name == "" {
			continue
		}
		if t.count[name] += n; t.count[name] == 0 {
			delete(t.count, name)
			delete(t.notes, name)
		}
	}
}

func (t *totals) notesAnother(name, replica string) bool {
	return slices.ContainsFunc(t.notes[name], func(h string) bool { return h != replica })
}

// note puts the replica first and keeps the newest other name. With one name
// only, a busy replica would overwrite a quiet one's before it was ever read.
func (t *totals) note(name, replica string) {
	names := []string{replica}
	for _, h := range t.notes[name] {
		if h != replica {
			names = append(names, h)
			break
		}
	}
	t.notes[name] = names
}

func (t *totals) dropNotes(name string, drop func(replica string) bool) {
	if t.notes[name] = slices.DeleteFunc(t.notes[name], drop); len(t.notes[name]) == 0 {
		delete(t.notes, name)
	}
}
