package redisstore

import (
	"fmt"
	"slices"
	"strconv"

	"usher/store"
	"usher/store/limit"
)

// bit returns a flag in the form that scripts use.
func bit(on bool) string {
	if on {
		return "1"
	}
	return "0"
}

// appendEntries adds the five arguments of each entry.
func appendEntries(args []any, entries []store.Entry) []any {
	for _, e := range entries {
		args = append(args, e.Counter, e.Max, e.RuleMax, e.Live, e.Need)
	}
	return args
}

// appendWindows adds the key and the arguments of each rate, one for each
// level (the keys of one rule share its window), and of each bound on the keys of
// a rule, and which entries are held to which rates; nothing if none is.
func (k keys) appendWindows(keys []string, args []any, entries []store.Entry) ([]string, []any) {
	if !slices.ContainsFunc(entries, store.Entry.Throttled) {
		return keys, args
	}
	done := map[string]bool{}
	add := func(level, key string, r limit.Rate) {
		if r.N > 0 && !done[level] {
			done[level] = true
			keys = append(keys, key)
			args = append(args, level, r.N, max(r.Per.Milliseconds(), 1))
		}
	}
	held := make([]byte, len(entries))
	for i, e := range entries {
		rule := store.RuleOf(e.Counter)
		add(e.Counter, k.window(e.Counter), e.Rate)
		add(rule, k.window(rule), e.RuleRate)
		if e.Opens() {
			add("+"+rule, k.opened(rule), limit.Rate{N: e.MaxKeys, Per: e.Rate.Per})
		}
		held[i] = '0'
		if e.Rate.N > 0 {
			held[i]++
		}
		if e.RuleRate.N > 0 {
			held[i] += 2
		}
	}
	return keys, append(args, string(held))
}

// reader reads a script's reply, value by value. The first value that is not as
// documented is the error of the whole reply.
type reader struct {
	rest []any
	err  error
}

func read(reply any) *reader {
	list, ok := reply.([]any)
	if !ok {
		list = []any{reply}
	}
	return &reader{rest: list}
}

func (r *reader) next() any {
	if len(r.rest) == 0 {
		r.fail("is too short")
		return nil
	}
	v := r.rest[0]
	r.rest = r.rest[1:]
	return v
}

func (r *reader) text() string {
	s, ok := r.next().(string)
	if !ok {
		r.fail("lacks a text")
	}
	return s
}

func (r *reader) int() int64 {
	n, ok := r.next().(int64)
	if !ok {
		r.fail("lacks a number")
	}
	return n
}

func (r *reader) flag() bool { return r.int() != 0 }

func (r *reader) counts(entries []store.Entry) []store.Count {
	counts := make([]store.Count, len(entries))
	for i, e := range entries {
		counts[i] = store.Count{Granted: r.int(), Total: r.int(), RuleTotal: r.int(), Contended: r.flag()}
		if e.Throttled() {
			counts[i].Admitted = r.int()
			usedUp := r.int()
			counts[i].Throttled, counts[i].RuleThrottled = usedUp&1 != 0, usedUp&2 != 0
			counts[i].NoWindow = usedUp&4 != 0
		}
	}
	if len(r.rest) != 0 {
		r.fail("is too long")
	}
	return counts
}

func (r *reader) token() store.Token {
	t, err := store.ParseToken(r.text())
	if err != nil {
		r.fail(err.Error())
	}
	return t
}

func (r *reader) fail(what string) {
	if r.err == nil {
		r.err = fmt.Errorf("a script's reply %s", what)
	}
}

func parseUint(s string) uint64 {
	n, _ := strconv.ParseUint(s, 10, 64)
	return n
}
