package redisstore

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/redis/go-redis/v9"

	"usher/store"
)

// Join implements store.Conn.
func (c *conn) Join(ctx context.Context, j store.Join) (_ store.JoinReply, err error) {
	defer show(&err)
	args := appendEntries([]any{
		j.Replica, j.Candidate, j.Stream, j.Settings.String(), j.Last.String(),
		bit(j.Settings.Strict), bit(j.More), j.Space, j.Number, bit(j.MustNotCreate),
	}, j.Entries)
	reply, err := c.send(ctx, c.scripts.join, c.keys.all(j.Replica), args)
	if err != nil {
		return store.JoinReply{}, err
	}
	r := read(reply)
	switch status := r.text(); status {
	case "OK":
		out := store.JoinReply{Epoch: r.text(), Recovering: r.flag(), Kept: r.flag(), Number: uint64(r.int())}
		out.Counts = r.counts(j.Entries)
		return out, r.err
	case "STALE":
		return store.JoinReply{}, store.ErrStale
	case "MISMATCH":
		settings, err := store.ParseSettings(r.text())
		return store.JoinReply{Status: store.Mismatch, Settings: settings}, err
	case "VOID":
		return store.JoinReply{Status: store.NoData}, nil
	case "DYING":
		return store.JoinReply{Status: store.Expiring, Epoch: r.text(), Token: r.token()}, r.err
	default:
		return store.JoinReply{}, fmt.Errorf("join answered %q", status)
	}
}

// Batch implements store.Conn.
func (c *conn) Batch(ctx context.Context, b store.Batch) (_ store.BatchReply, err error) {
	defer show(&err)
	args := appendEntries([]any{
		b.Replica, b.New.Epoch, b.Prev.String(), b.New.String(),
		bit(b.Strict), bit(b.More), b.Space, b.Number,
	}, b.Entries)
	keys, args := c.keys.appendWindows(c.keys.all(b.Replica), args, b.Entries)
	reply, err := c.send(ctx, c.scripts.batch, keys, args)
	if err != nil {
		return store.BatchReply{}, err
	}
	r := read(reply)
	switch status := r.text(); status {
	case "OK":
		out := store.BatchReply{Recovering: r.flag(), Number: uint64(r.int())}
		out.Counts = r.counts(b.Entries)
		return out, r.err
	case "LOST":
		return store.BatchReply{}, store.ErrLost
	default:
		return store.BatchReply{}, fmt.Errorf("batch answered %q", status)
	}
}

// Expire implements store.Conn.
func (c *conn) Expire(ctx context.Context, q store.Expire) (_ store.ExpireReply, err error) {
	defer show(&err)
	args := []any{q.Target, q.Epoch, q.Token.String(), q.Max}
	reply, err := c.send(ctx, c.scripts.expire, c.keys.all(q.Target), args)
	if err != nil {
		return 0, err
	}
	switch reply {
	case "GONE":
		return store.Gone, nil
	case "MORE":
		return store.More, nil
	case "NO":
		return store.Alive, nil
	case "LOST":
		return 0, store.ErrLost
	}
	return 0, fmt.Errorf("expire answered %q", reply)
}

// EndRecovery implements store.Conn.
func (c *conn) EndRecovery(ctx context.Context, q store.EndRecovery) (recovering bool, err error) {
	defer show(&err)
	args := []any{q.Token.Epoch, bit(q.Ready), q.Replica, q.Token.String()}
	for _, h := range q.Gone {
		args = append(args, h)
	}
	reply, err := c.send(ctx, c.scripts.endRecovery, []string{c.keys.membership()}, args)
	if err != nil {
		return false, err
	}
	switch reply {
	case "YOUNG":
		return true, nil
	case "MATURE":
		return false, nil
	case "LOST":
		return false, store.ErrLost
	}
	return false, fmt.Errorf("end recovery answered %q", reply)
}

// Observe implements store.Conn: one round trip, no script.
func (c *conn) Observe(ctx context.Context, counters []string) (_ store.Membership, err error) {
	defer show(&err)
	if err := c.checkPrimary(); err != nil {
		return store.Membership{}, err
	}
	var m *redis.MapStringStringCmd
	var t *redis.SliceCmd
	_, err = c.redis.Pipelined(ctx, func(p redis.Pipeliner) error {
		m = p.HGetAll(ctx, c.keys.membership())
		if len(counters) > 0 {
			t = p.HMGet(ctx, c.keys.totals(), counters...)
		}
		return nil
	})
	if err != nil {
		return store.Membership{}, classify(err)
	}
	out, err := parseRoster(m.Val())
	out.Totals = map[string]int64{}
	if t != nil {
		for i, v := range t.Val() {
			text, _ := v.(string)
			n, _ := strconv.ParseInt(text, 10, 64)
			out.Totals[counters[i]] = n
		}
	}
	return out, err
}

func parseRoster(fields map[string]string) (store.Membership, error) {
	out := store.Membership{
		Epoch: fields["birth"], Recovering: fields["young"] != "",
		Tombstones: map[string]uint64{}, Numbers: map[string]uint64{},
	}
	var err error
	if out.Epoch != "" {
		if out.Settings, err = store.ParseSettings(fields["settings"]); err != nil {
			return out, err
		}
	}
	for field, value := range fields {
		if field == "" { // not ours
			continue
		}
		name := field[1:]
		if !isName(name) {
			return out, errors.New("the members' key holds a name that Usher did not write")
		}
		switch field[0] {
		case '-':
			out.Tombstones[name] = parseUint(value)
		case '#':
			out.Numbers[name] = parseUint(value)
		case '@':
			token, rest, _ := strings.Cut(value, " ")
			state, space, _ := strings.Cut(rest, " ")
			if !isName(space) {
				return out, errors.New("the members' key holds a counter space that Usher did not write")
			}
			m := store.Member{Replica: name, State: store.MemberState(state), Space: space}
			if m.Token, err = store.ParseToken(token); err != nil {
				return out, err
			}
			out.Members = append(out.Members, m)
		}
	}
	slices.SortFunc(out.Members, func(a, b store.Member) int { return strings.Compare(a.Replica, b.Replica) })
	return out, nil
}

// isName reports whether s is valid as the name of a replica or a counter space. These
// names are shown to people.
func isName(s string) bool {
	return len(s) <= 128 && !strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r > '~' })
}
