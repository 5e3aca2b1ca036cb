package proxy

import (
	"cmp"
	"errors"
	"slices"
	"strings"
	"time"

	"usher/limiter"
	"usher/proxy/record"
)

// maxHolders is how many holders of a limit are named.
const maxHolders = 5

// holding returns who holds a counter, or its key if that is not "".
func (t *table) holding(counter, key string) holding {
	h, sums := holding{known: true, key: key}, make(map[record.Holder]int)
	for _, v := range t.seen() {
		if l := v.limit(); l.Rule != counter || key != "" && l.Key != key {
			continue
		}
		h.here++
		who := record.Holder{Client: v.session.from.Addr()}
		if v.stage.command != 0 {
			who.User = v.session.user
		}
		sums[who]++
	}
	for who, n := range sums {
		who.Sessions = n
		h.holders = append(h.holders, who)
	}
	slices.SortFunc(h.holders, func(a, b record.Holder) int {
		return cmp.Or(cmp.Compare(b.Sessions, a.Sessions), a.Client.Compare(b.Client), cmp.Compare(a.User, b.User))
	})
	h.holders = h.holders[:min(len(h.holders), maxHolders)]
	return h
}

// held counts the refusal of a session that ends with err, if a limit has refused it, and
// returns what a full limit held then. nil: none was full.
func (s *Server) held(err error, now time.Time) *record.Held {
	var by limitReachedError
	if !errors.As(err, &by) {
		return nil
	}
	r := s.table.refused.add(by.counter, now)
	if !errors.Is(err, limiter.ErrFull) { // a rate holds nothing
		return nil
	}
	keyword, _, _ := strings.Cut(by.text, ":")
	h := &record.Held{Limit: keyword, Max: by.limit.Max, Sessions: by.limit.Sessions, Here: -1}
	key := ""
	if by.limit.ByKey {
		key = by.key
	}
	who := s.table.refused.holding(r, key, now, func() holding { return s.table.holding(by.counter, key) })
	if who.known {
		h.Here, h.Holders = who.here, who.holders
	}
	return h
}
