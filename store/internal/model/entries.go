package model

import (
	"slices"
	"time"

	"usher/store"
	"usher/store/limit"
)

// terms are the parts of a join or a batch that apply to all of its entries.
type terms struct {
	now    time.Duration
	strict bool // claims do not go above the maximum
	more   bool // these are claims: nothing grows
}

// level is a counter of an entry with its maximum and rate: the entry's own
// counter, or its rule's.
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

// apply applies a replica's entries, and answers them. The first pass takes the entries
// that shrink, the second those that grow.
func (s *shard) apply(replica string, entries []store.Entry, how terms) []store.Count {
	held := map[string]int64{} // freed by this batch, and kept for the next replica that asks
	var admitted []int64       //mutate:one-pass
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
	granted := s.r[replica].granted[e.Counter]
	levels := levelsOf(e)
	// wanted reports whether another replica was refused at l. The first entry of
	// a batch that frees a slot there removes the note. For later entries, held
	// shows that there was one.
	wanted := func(l level) bool { return held[l.name] > 0 || s.t.notesAnother(l.name, replica) }
	to := min(granted, e.Need)
	if granted > e.Live && slices.ContainsFunc(levels, wanted) {
		to = min(to, e.Live)
	}
	if room := s.room(levels) + granted - to; room < 0 {
		to = max(min(to, e.Live), to+room)
	}
	freed := granted - to
	if freed == 0 {
		return
	}
	for _, l := range levels {
		if wanted(l) {
			held[l.name] += freed //mutate:what-is-freed-is-not-held
			s.t.dropNotes(l.name, func(h string) bool { return h != replica })
		}
	}
	s.set(replica, e.Counter, to)
}

// grow returns how many waiting sessions an entry with rates admitted.
func (s *shard) grow(replica string, e store.Entry, held map[string]int64, how terms) int64 {
	granted := s.r[replica].granted[e.Counter]
	levels := levelsOf(e)
	tokens := s.tokens(e, levels, how)
	if !e.Counted() {
		s.begin(e, tokens, how)
		return tokens
	}
	free, room := unlimited, s.room(levels)
	for _, l := range levels {
		if l.max != limit.None {
			free = min(free, l.max-s.t.count[l.name]-held[l.name])
		}
	}
	if s.m.recovering || how.more { //mutate:a-recovering-store-grows
		free = min(free, 0)
	}
	floor := e.Live
	if how.strict {
		floor = min(e.Live, granted+max(0, room)) //mutate:strict-claims-above-the-maximum
	}
	to := min(e.Need, max(floor, granted+free), e.Live+tokens) //mutate:slots-in-hand-begin-sessions-of-a-throttled-counter
	s.set(replica, e.Counter, to)
	admitted := max(0, to-e.Live)
	s.begin(e, admitted, how) //mutate:a-refusal-uses-up-the-rate
	if s.m.recovering || how.more {
		return admitted
	}
	for _, l := range levels {
		switch {
		case to == e.Need:
			s.t.dropNotes(l.name, func(h string) bool { return h == replica })
		case l.max != limit.None && s.t.count[l.name] >= max(l.max, 1): // at a maximum of 0 nobody ever frees a slot
			s.t.note(l.name, replica) //mutate:no-note
		}
	}
	return admitted
}

// shortenWindows shortens windows that are used up and were opened by a longer rate.
func (s *shard) shortenWindows(now time.Duration, entries []store.Entry) {
	for _, e := range entries {
		s.w.Shorten(now, e.Counter, e.Rate)
		if e.RuleRate.N == 0 && !e.Opens() {
			continue
		}
		rule := store.RuleOf(e.Counter)
		s.w.Shorten(now, rule, e.RuleRate)
		if e.Opens() {
			s.k.Shorten(now, rule, limit.Rate{N: e.MaxKeys, Per: e.Rate.Per})
		}
	}
}

// tokens is how many of the waiting sessions the rates admit.
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
	if s.noWindow(how.now, e) { //mutate:any-number-of-keys-open-windows
		return 0
	}
	return n
}

// noWindow reports whether a key has no window and may open none.
func (s *shard) noWindow(now time.Duration, e store.Entry) bool {
	return e.Opens() && s.w.Used(now, e.Counter) == 0 && s.k.Used(now, store.RuleOf(e.Counter)) >= e.MaxKeys
}

// begin counts n sessions in the windows of both levels. A key that opens its window
// counts as one of the keys that its rule may have.
func (s *shard) begin(e store.Entry, n int64, how terms) {
	if n == 0 {
		return
	}
	if e.Opens() && s.w.Used(how.now, e.Counter) == 0 { //mutate:a-key-with-a-window-uses-up-a-place-for-keys
		s.k.Use(how.now, store.RuleOf(e.Counter), e.Rate.Per, 1)
	}
	for _, l := range levelsOf(e) { //mutate:the-rate-of-the-rule-is-not-used-up
		if l.rate.N > 0 {
			s.w.Use(how.now, l.name, l.rate.Per, n)
		}
	}
}

// answer reads what the replica holds now of each entry.
func (s *shard) answer(replica string, entries []store.Entry) []store.Count {
	counts := make([]store.Count, len(entries))
	for i, e := range entries {
		counts[i] = store.Count{Granted: s.r[replica].granted[e.Counter], Total: s.t.count[e.Counter]}
		if rule := store.RuleOf(e.Counter); rule != "" {
			counts[i].RuleTotal = s.t.count[rule]
		}
		for _, l := range levelsOf(e) {
			counts[i].Contended = counts[i].Contended || s.t.notesAnother(l.name, replica)
		}
	}
	return counts
}

// answerRates adds to an answer what the batch admitted under rates when it
// took effect, and which windows are used up now.
func (s *shard) answerRates(now time.Duration, entries []store.Entry, admitted []int64, counts []store.Count) {
	for i, e := range entries {
		if !e.Throttled() {
			continue
		}
		if len(admitted) > 0 { // there are too few if this is another batch under the same token
			counts[i].Admitted, admitted = admitted[0], admitted[1:]
		}
		levels := levelsOf(e)
		usedUp := func(l level) bool { return l.rate.N > 0 && s.w.Used(now, l.name) >= l.rate.N }
		counts[i].Throttled = usedUp(levels[0])
		counts[i].RuleThrottled = len(levels) > 1 && usedUp(levels[1])
		counts[i].NoWindow = s.noWindow(now, e)
	}
}

// unlimited is far above any count and far below overflow. The scripts of
// redisstore use the same number.
const unlimited int64 = 1 << 52

// room is how much is left below the maxima. Below zero, the counter is over its limit.
func (s *shard) room(levels []level) int64 {
	room := unlimited
	for _, l := range levels {
		if l.max != limit.None {
			room = min(room, l.max-s.t.count[l.name])
		}
	}
	return room
}

// set writes a replica's count and changes the totals by the difference.
func (s *shard) set(replica, counter string, to int64) {
	granted := s.r[replica].granted
	s.t.add(counter, to-granted[counter])
	if granted[counter] = to; to == 0 {
		delete(granted, counter)
	}
}

// add changes the totals of a counter and of its rule. If a total becomes 0, its notes
// are removed.
func (t *totals) add(counter string, n int64) {
	for _, name := range []string{counter, store.RuleOf(counter)} { //mutate:the-total-of-the-rule-is-not-moved
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

// note puts the replica first and keeps the newest other name. With a single name, a
// busy replica would overwrite the name of a quiet one before anybody reads it.
func (t *totals) note(name, replica string) {
	names := []string{replica}
	for _, h := range t.notes[name] {
		if h != replica {
			names = append(names, h) //mutate:a-note-of-one-name
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
