package model

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"usher/store"
	"usher/store/limit"
)

// Dump returns the data as redisstore keeps it: by key (m, t, r:<replica>,
// w:<counter>, k:<rule>), field and value. The field of a window is "". Empty hashes are
// left out, as Redis does not keep them.
func (s *Store) Dump() map[string]map[string]string {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := map[string]map[string]string{}
	if s.m != nil {
		out["m"] = s.m.dump()
	}
	if s.t != nil {
		fields := map[string]string{".b": s.t.epoch}
		for c, n := range s.t.count {
			fields[c] = strconv.FormatInt(n, 10)
		}
		for c, names := range s.t.notes {
			fields["!"+c] = strings.Join(names, " ")
		}
		out["t"] = fields
	}
	for h, r := range s.r {
		fields := map[string]string{".t": r.token.String()}
		for c, n := range r.granted {
			fields[c] = strconv.FormatInt(n, 10)
		}
		if len(r.admitted) > 0 {
			fields[".a"] = strings.Trim(fmt.Sprint(r.admitted), "[]")
		}
		out["r:"+h] = fields
	}
	for key, used := range s.windows() {
		out[key] = map[string]string{"": strconv.FormatInt(used, 10)}
	}
	return out
}

// Windows returns how many sessions began in each open window, by key (w:<counter>),
// and how many keys opened one (k:<rule>).
func (s *Store) Windows() map[string]int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.windows()
}

func (s *Store) windows() map[string]int64 {
	out := map[string]int64{}
	for kind, windows := range map[string]*limit.Windows{"w:": &s.w, "k:": &s.k} {
		for name, used := range windows.Open(s.clock()) {
			out[kind+name] = used
		}
	}
	return out
}

func (m *membership) dump() map[string]string {
	fields := map[string]string{"birth": m.epoch, "settings": m.settings.String()}
	if m.recovering {
		fields["young"] = "1"
	}
	if m.lastNumber > 0 {
		fields["gen"] = strconv.FormatUint(m.lastNumber, 10)
	}
	for h, member := range m.members {
		fields["@"+h] = member.Token.String() + " " + string(member.State) + " " + member.Space
	}
	for h, stream := range m.tombstones {
		fields["-"+h] = strconv.FormatUint(stream, 10)
	}
	for space, n := range m.numbers {
		fields["#"+space] = strconv.FormatUint(n, 10)
	}
	return fields
}

// Ledger returns a replica's token and what the store counts for it.
func (s *Store) Ledger(replica string) (store.Token, map[string]int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if r := s.r[replica]; r != nil {
		return r.token, maps.Clone(r.granted)
	}
	return store.Token{}, nil
}

// Audit compares the totals with the sums over the replicas of this epoch, and
// returns an error if they differ. The epoch is "" if there is no data, or if
// a part of it is missing.
func (s *Store) Audit() (epoch string, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.m == nil || s.t == nil || s.t.epoch != s.m.epoch {
		return "", nil
	}
	sum := map[string]int64{}
	for h := range s.m.members {
		r := s.r[h]
		if r == nil || r.token.Epoch != s.m.epoch {
			return "", nil
		}
		for c, n := range r.granted {
			sum[c] += n
			if rule := store.RuleOf(c); rule != "" {
				sum[rule] += n
			}
		}
	}
	if maps.Equal(sum, s.t.count) {
		return s.m.epoch, nil
	}
	return s.m.epoch, fmt.Errorf("totals are %v, the replicas have %v", s.t.count, sum)
}

// The methods below damage the data as real stores may, to test code that relies on the
// contract.

// Flush loses all data, as FLUSHALL does. The server keeps running.
func (s *Store) Flush() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.shard = shard{history: s.history, r: map[string]*ledger{}}
}

// Drop loses one key, as an eviction does.
func (s *Store) Drop(key string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch replica, isLedger := strings.CutPrefix(key, "r:"); {
	case key == "m":
		s.m = nil
	case key == "t":
		s.t = nil
	case isLedger:
		delete(s.r, replica)
	case strings.HasPrefix(key, "k:"):
		s.k.Drop(strings.TrimPrefix(key, "k:"))
	default:
		s.w.Drop(strings.TrimPrefix(key, "w:"))
	}
}

// Snapshot is a copy of the data at one moment.
type Snapshot struct{ shard }

// Snapshot copies the data.
func (s *Store) Snapshot() Snapshot {
	s.mu.Lock()
	defer s.mu.Unlock()
	return Snapshot{s.shard.clone()}
}

// Restart replaces the data with a snapshot (the zero Snapshot has no data), and begins
// another history. So does a server that restarts, and one that followed another server
// and is promoted again.
func (s *Store) Restart(from Snapshot) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.shard = from.shard.clone()
	s.history = newHistory()
}

func (s *shard) clone() shard {
	out := shard{r: map[string]*ledger{}}
	if s.m != nil {
		m := *s.m
		m.members, m.tombstones, m.numbers = maps.Clone(m.members), maps.Clone(m.tombstones), maps.Clone(m.numbers)
		for h, member := range m.members {
			copied := *member
			m.members[h] = &copied
		}
		out.m = &m
	}
	if s.t != nil {
		out.t = &totals{epoch: s.t.epoch, count: maps.Clone(s.t.count), notes: maps.Clone(s.t.notes)}
		for c, names := range out.t.notes {
			out.t.notes[c] = slices.Clone(names)
		}
	}
	for h, r := range s.r {
		out.r[h] = &ledger{token: r.token, granted: maps.Clone(r.granted), admitted: slices.Clone(r.admitted)}
	}
	out.w, out.k = s.w.Clone(), s.k.Clone()
	return out
}
