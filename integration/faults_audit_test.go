package integration

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
)

// shard is one of the parts of the counts in the cluster "default".
type shard int

func (s shard) tag() string             { return fmt.Sprintf("{default:%d}", int(s)) }
func (s shard) key(name string) string  { return "usher:" + s.tag() + ":" + name }
func (s shard) members() string         { return s.key("m") }
func (s shard) totals() string          { return s.key("t") }
func (s shard) cards() string           { return s.key("c") } // how replicas find each other
func (s shard) ledger(id string) string { return s.key("r:") + id }

// ledger is the data of a shard at one moment.
type ledger struct {
	members, totals map[string]string
	own             map[string]map[string]string // by replica that is a member
}

var errMoving = errors.New("the members changed between two reads")

// read reads the data of a shard in one step.
func (d deployment) read(ctx context.Context, s shard) (l ledger, err error) {
	before, err := d.db.HGetAll(ctx, s.members()).Result()
	if err != nil {
		return l, err
	}
	var m, t *redis.MapStringStringCmd
	own := map[string]*redis.MapStringStringCmd{}
	_, err = d.db.TxPipelined(ctx, func(p redis.Pipeliner) error {
		m, t = p.HGetAll(ctx, s.members()), p.HGetAll(ctx, s.totals())
		for field := range before {
			if id, ok := strings.CutPrefix(field, "@"); ok {
				own[id] = p.HGetAll(ctx, s.ledger(id))
			}
		}
		return nil
	})
	if err != nil {
		return l, err
	}
	l = ledger{m.Val(), t.Val(), map[string]map[string]string{}}
	for field := range l.members {
		if id, ok := strings.CutPrefix(field, "@"); ok {
			if own[id] == nil {
				return l, errMoving
			}
			l.own[id] = own[id].Val()
		}
	}
	return l, nil
}

// readAll reads all shards, one after the other.
func (d deployment) readAll(ctx context.Context) ([]ledger, error) {
	all := make([]ledger, d.shards)
	for i := range all {
		var err error
		if all[i], err = d.read(ctx, shard(i)); err != nil {
			return nil, fmt.Errorf("%s: %w", shard(i).tag(), err)
		}
	}
	return all, nil
}

// whole reports whether all parts exist and belong to one epoch. If a store lost some,
// the other parts cannot be compared.
func (l ledger) whole() bool {
	epoch := l.members["birth"]
	if epoch == "" || l.totals[".b"] != epoch {
		return false
	}
	for _, own := range l.own {
		if !strings.HasPrefix(own[".t"], epoch+":") {
			return false
		}
	}
	return true
}

// counts returns the totals, and the sums over the replicas.
func (l ledger) counts() (totals, sums map[string]int) {
	totals, sums = map[string]int{}, map[string]int{}
	for field, value := range l.totals {
		if field[0] != '.' && field[0] != '!' {
			totals[field], _ = strconv.Atoi(value)
		}
	}
	for _, own := range l.own {
		for field, value := range own {
			if field[0] != '.' {
				n, _ := strconv.Atoi(value)
				sums[field] += n
				if rule, keyed := cutKey(field); keyed {
					sums[rule] += n
				}
			}
		}
	}
	return totals, sums
}

// cutKey cuts the key off the name of a counter, digest/rule/key.
func cutKey(counter string) (rule string, keyed bool) {
	digest, rest, _ := strings.Cut(counter, "/")
	rule, _, keyed = strings.Cut(rest, "/")
	return digest + "/" + rule, keyed
}

// byLimit returns the totals of the world's limits in some shards, and an error if
// anything else is counted there.
func (f *faultWorld) byLimit(shards ...ledger) ([]int, error) {
	all := make([]int, len(f.targets))
	for _, l := range shards {
		totals, _ := l.counts()
		for counter, n := range totals {
			rule, keyed := cutKey(counter)
			_, rule, _ = strings.Cut(rule, "/")
			i := slices.IndexFunc(f.targets, func(t *faultTarget) bool { return t.counter == rule })
			if i < 0 || keyed && f.targets[i].perKey == 0 {
				return nil, fmt.Errorf("a counter %q that belongs to no rule", counter)
			}
			if !keyed {
				all[i] += n
			}
		}
	}
	return all, nil
}

// trouble says why the counts do not add up, or returns "". They add up after each
// script.
func (l ledger) trouble() string {
	if totals, sums := l.counts(); !maps.Equal(totals, sums) {
		return fmt.Sprintf("totals %v, the replicas have %v: %+v", totals, sums, l)
	}
	return ""
}

// audit checks the store's counts until ctx ends.
func (r *trial) audit(ctx context.Context) {
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		for i := range r.audits {
			l, err := r.read(ctx, shard(i))
			if err != nil || !l.whole() {
				continue // the shard cannot be reached, or has just lost a part
			}
			r.audits[i]++
			if trouble := l.trouble(); trouble != "" {
				r.trouble.CompareAndSwap(nil, &trouble)
			}
		}
	}
}

// refill fills every limit, checks that it is full everywhere, and empties it.
// Afterwards nothing may be left in the store, at the targets and in the replicas.
func (f *faultWorld) refill(t *testing.T) {
	t.Helper()
	f.waitSettled(t)
	f.waitEmpty(t)
	var all crowd
	t.Cleanup(func() { all.close() })
	for i, limit := range f.limits {
		held := f.fill(t, i, limit)
		all = append(all, held...)
		for _, r := range f.replicas {
			f.refused(t, r, i, keys-1)
		}
		if f.targets[i].halfDone {
			continue // a negotiation carries no lines
		}
		if n := len(held.alive()); n != limit {
			t.Errorf("target %d: %d sessions relay, want %d", i, n, limit)
		}
	}
	eventually(t, patience, func() string {
		all, err := f.readAll(t.Context())
		if err != nil {
			return err.Error()
		}
		for _, l := range all {
			if !l.whole() || len(l.own) != len(f.replicas) || l.trouble() != "" {
				return fmt.Sprintf("the store's data: %+v %s", l, l.trouble())
			}
		}
		if counted, err := f.byLimit(all...); err != nil || !slices.Equal(counted, f.limits) {
			return fmt.Sprintf("the store counts %v, limits are %v: %v", counted, f.limits, err)
		}
		return ""
	})
	all.close()
	f.waitEmpty(t)
	f.waitNoLeak(t)
}

// fill opens limit sessions to target i, over all replicas in turn.
func (f *faultWorld) fill(t *testing.T, i, limit int) (held crowd) {
	t.Helper()
	tries := 0
	trouble := poll(patience, func() string {
		for len(held) < limit {
			tries++
			key := 0
			if k := f.targets[i].perKey; k > 0 {
				key = len(held) / k
			}
			a := f.targets[i].ask(client{proxy: f.replicas[tries%len(f.replicas)].socks, from: f.from(key)})
			if a.Conn == nil {
				return fmt.Sprintf("target %d: session %d of %d was answered %d %v", i, len(held)+1, limit, a.reply, a.err)
			}
			held = append(held, a)
			if len(held) == f.targets[i].perKey && len(held) < limit {
				f.refused(t, f.replicas[0], i, key)
			}
		}
		return ""
	})
	if trouble != "" {
		held.close()
		all, err := f.readAll(t.Context())
		t.Fatalf("the limit cannot be filled again: %s; the store: %+v %v", trouble, all, err)
	}
	return held
}

// refused checks that r refuses a session of a key for target i because the limit is
// reached.
func (f *faultWorld) refused(t *testing.T, r *replica, i, key int) {
	t.Helper()
	eventually(t, patience, func() string {
		a := f.targets[i].ask(client{proxy: r.socks, from: f.from(key)})
		if a.Conn != nil {
			a.Close()
			t.Fatalf("%s admits a session above the limit of target %d", r.name, i)
		}
		if a.reply != f.targets[i].above {
			return fmt.Sprintf("%s answers %d %v to a session above the limit of target %d", r.name, a.reply, a.err, i)
		}
		return ""
	})
}

// waitEmpty waits until no replica, target or store has a session.
func (f *faultWorld) waitEmpty(t *testing.T) {
	t.Helper()
	eventually(t, patience, func() string {
		for _, r := range f.replicas {
			if n := r.status(t).Sessions; n != 0 {
				return fmt.Sprintf("%s has %d sessions", r.name, n)
			}
		}
		for i, target := range f.targets {
			if n := target.open(); n != 0 {
				return fmt.Sprintf("target %d has %d connections", i, n)
			}
		}
		all, err := f.readAll(t.Context())
		if err != nil {
			return err.Error()
		}
		for i, l := range all {
			if totals, sums := l.counts(); len(totals)+len(sums) > 0 {
				return fmt.Sprintf("without a session %s counts %v, its replicas %v", shard(i).tag(), totals, sums)
			}
			if trouble := f.strays(t, shard(i), l); trouble != "" {
				return trouble
			}
		}
		return ""
	})
}

// strays returns the keys that belong to no member. If the store lost the data that
// named a dead replica, the key of that replica stays. It counts for nothing.
func (f *faultWorld) strays(t *testing.T, s shard, l ledger) string {
	t.Helper()
	names, err := f.names(t.Context(), s)
	if err != nil {
		return err.Error()
	}
	for _, name := range names {
		id, ok := strings.CutPrefix(name, s.ledger(""))
		if name == s.members() || name == s.totals() || name == s.cards() || ok && l.own[id] != nil {
			continue
		}
		token, err := f.db.HGet(t.Context(), name, ".t").Result()
		if err != nil || strings.HasPrefix(token, l.members["birth"]+":") {
			return fmt.Sprintf("key %s (%s %v) belongs to nobody: %+v", name, token, err, l)
		}
	}
	return ""
}

// waitNoLeak waits until replicas have no more goroutines and descriptors than before
// the first session. Connections to the store may just be opened or closed.
func (f *faultWorld) waitNoLeak(t *testing.T) {
	t.Helper()
	eventually(t, patience, func() string {
		for i, r := range f.replicas {
			now := r.metrics(t)
			for _, name := range []string{"go_goroutines", "process_open_fds"} {
				if was := f.idle[i][name]; now[name] > was+3 {
					return fmt.Sprintf("%s: %s %v, was %v", r.name, name, now[name], was)
				}
			}
			if n := now.sum("usher_sessions"); n != 0 {
				return fmt.Sprintf("%s: usher_sessions %v", r.name, n)
			}
		}
		return ""
	})
}
