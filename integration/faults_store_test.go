package integration

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"usher/store/redisstore/redistest"
)

// longOutage is longer than any lease.
const longOutage = faultTTL * 6 / 5

// snapshot returns the file from which the store starts, if there is one.
func (r *trial) snapshot() string {
	r.t.Helper()
	values, err := r.db.ConfigGet(r.t.Context(), "dir").Result()
	if err != nil {
		r.t.Fatal(err)
	}
	return filepath.Join(values["dir"], "dump.rdb")
}

// do sends commands to the store. Each must succeed.
func (r *trial) do(commands ...string) {
	r.t.Helper()
	r.tell(r.db, commands...)
}

func (r *trial) tell(c redis.UniversalClient, commands ...string) {
	r.t.Helper()
	for _, command := range commands {
		var args []any
		for word := range strings.FieldsSeq(command) {
			args = append(args, word)
		}
		if err := c.Do(r.t.Context(), args...).Err(); err != nil {
			r.t.Fatalf("%s: %v", command, err)
		}
	}
}

// outage kills the store, and starts it again after a while, with the data of the
// snapshot if there is one.
func (r *trial) outage(d time.Duration) {
	before := r.epoch(r.t, 0)
	r.redis.Kill()
	down := r.truth.now()
	r.last(d)
	up := r.truth.now()
	r.redis.Start()
	r.waitNewEpoch(r.t, 0, before)
	switch {
	case r.strict && d > faultFence:
		r.endedBy(down+faultFence, -1, up)
	case !r.strict:
		r.someSurvive(-1, span{down, up})
	}
}

func emptyShort(r *trial) { r.noSnapshot(); r.outage(faultTTL / 10) }
func emptyLong(r *trial)  { r.noSnapshot(); r.outage(longOutage) }

func (r *trial) noSnapshot() {
	if err := os.Remove(r.snapshot()); err != nil && !os.IsNotExist(err) {
		r.t.Fatal(err)
	}
}

// olderSnapshot starts the store with a snapshot from some time before.
func olderSnapshot(r *trial) {
	r.do("SAVE")
	file := r.snapshot()
	r.last(faultTTL / 4)
	r.outage(faultTTL / 10)
	r.loaded(file)
}

// loaded checks that the store started with a snapshot, and removes the snapshot.
func (r *trial) loaded(file string) {
	r.t.Helper()
	info, err := r.db.Info(r.t.Context(), "persistence").Result()
	if err != nil || strings.Contains(info, "rdb_last_load_keys_loaded:0\r") {
		r.t.Errorf("the store came back without its snapshot: %v %s", err, info)
	}
	if err := os.Remove(file); err != nil {
		r.t.Error(err)
	}
}

// newcomer starts a replica that is in no snapshot. The saved snapshot is of a store
// that has no sessions and has finished its recovery.
func newcomer(t *testing.T, f *faultWorld) {
	if err := f.db.Save(t.Context()).Err(); err != nil {
		t.Fatal(err)
	}
	const last = 2
	f.replicas[last].kill()
	eventually(t, patience, func() string {
		if l, err := f.read(t.Context(), 0); err != nil || len(l.own) != last {
			return fmt.Sprintf("the killed replica is still there: %+v %v", l, err)
		}
		return ""
	})
	f.replace(t, last)
}

// newcomerFirst starts the store with that snapshot while the other replicas cannot
// reach it. Nothing in the data contradicts the newcomer.
func newcomerFirst(r *trial) {
	file, before := r.snapshot(), r.epoch(r.t, 0)
	r.redis.Kill()
	for _, p := range r.proxies[:2] {
		p.set(partition)
	}
	r.redis.Start()
	r.last(faultTTL / 2)
	for _, p := range r.proxies {
		p.set(mix{})
	}
	r.waitNewEpoch(r.t, 0, before)
	r.loaded(file)
}

// lateOverRestarts restarts the store again and again, sometimes with no data. Requests
// from before a restart arrive afterwards, over new connections.
func lateOverRestarts(r *trial) {
	r.noSnapshot()
	r.onWires(mix{lateByOther: 0.15, delayed: 0.1}, func() {
		for range 2 {
			r.last(faultTTL / 10)
			before := r.epoch(r.t, 0)
			r.redis.Kill()
			r.redis.Start()
			r.waitNewEpoch(r.t, 0, before)
			r.last(faultTTL)
			flushed(r)
		}
	})
}

// rolledBack restores older data in a server that keeps running.
func rolledBack(r *trial) {
	ctx, before := r.t.Context(), r.epoch(r.t, 0)
	names, err := r.db.Keys(ctx, "usher:*").Result()
	if err != nil {
		r.t.Fatal(err)
	}
	saved := make([]*redis.StringCmd, len(names))
	if _, err := r.db.TxPipelined(ctx, func(p redis.Pipeliner) error {
		for i, name := range names {
			saved[i] = p.Dump(ctx, name)
		}
		return nil
	}); err != nil {
		r.t.Fatal(err)
	}
	r.last(faultTTL / 4)
	if _, err := r.db.TxPipelined(ctx, func(p redis.Pipeliner) error {
		for i, name := range names {
			p.RestoreReplace(ctx, name, 0, saved[i].Val())
		}
		return nil
	}); err != nil {
		r.t.Fatal(err)
	}
	r.waitNewEpoch(r.t, 0, before)
}

// failedBack makes the store follow a lagging replica of its own, and then promotes it
// again. The process and its connections stay the same. The first replica to speak is
// the only one whose batches are all in the data. So only the replication history shows
// that batches of the others are missing.
func failedBack(r *trial) {
	second := redistest.Start(r.t)
	lagging := second.Client()
	r.do("CONFIG SET repl-diskless-sync-delay 0")
	r.tell(lagging, "CONFIG SET repl-diskless-sync-delay 0")
	r.follow(lagging, r.redis.Addr) // the first replica of a server changes its history, too
	r.waitSettled(r.t)
	before := r.epoch(r.t, 0)
	unaware, others := r.proxies[0], r.proxies[1:]
	unaware.set(partition)
	r.do("SET all-before 1")
	eventually(r.t, patience, func() string {
		if n, err := lagging.Exists(r.t.Context(), "all-before").Result(); n != 1 {
			return fmt.Sprintf("the replica has not got what was written: %v", err)
		}
		return ""
	})
	r.tell(lagging, "REPLICAOF 127.0.0.1 1") // nobody listens there, so from now on it lags
	r.last(faultTTL / 20)
	r.tell(lagging, "REPLICAOF NO ONE")
	r.follow(r.db, second.Addr)
	for _, p := range others {
		p.set(partition)
	}
	r.do("REPLICAOF NO ONE")
	unaware.set(mix{})
	r.waitNewEpoch(r.t, 0, before)
	for _, p := range others {
		p.set(mix{})
	}
}

// follow makes a server a replica of another, and waits until it has the data.
func (r *trial) follow(c redis.UniversalClient, addr string) {
	r.t.Helper()
	r.tell(c, "REPLICAOF "+strings.Replace(addr, ":", " ", 1))
	eventually(r.t, patience, func() string {
		info, err := c.Info(r.t.Context(), "replication").Result()
		if err != nil || !strings.Contains(info, "master_link_status:up\r") {
			return fmt.Sprintf("it does not follow %s: %v %s", addr, err, info)
		}
		return ""
	})
}

func flushed(r *trial) {
	before := r.epoch(r.t, 0)
	r.do("FLUSHALL")
	r.waitNewEpoch(r.t, 0, before)
}

// oneKeyLost deletes each kind of key in turn, while all replicas use it.
func oneKeyLost(r *trial) {
	const s = shard(0)
	for _, which := range []string{s.members(), s.totals(), s.ledger("")} {
		eventually(r.t, patience, func() string {
			if l, err := r.read(r.t.Context(), 0); err != nil || !l.whole() || len(l.own) != len(r.replicas) {
				return fmt.Sprintf("not all replicas have joined: %+v %v", l, err)
			}
			return ""
		})
		before := r.epoch(r.t, 0)
		if which == s.ledger("") {
			names, err := r.db.Keys(r.t.Context(), which+"*").Result()
			if err != nil || len(names) == 0 {
				r.t.Fatalf("no replica has a key: %v", err)
			}
			which = names[0]
		}
		r.do("DEL " + which)
		r.waitNewEpoch(r.t, 0, before)
	}
}

// scriptsFlushed removes the scripts from the store again and again.
func scriptsFlushed(r *trial) {
	before, had := r.epoch(r.t, 0), r.replies[granted].Load()
	for range 20 {
		r.do("SCRIPT FLUSH")
		r.last(faultTTL / 20)
	}
	info, err := r.db.Info(r.t.Context(), "errorstats").Result()
	if err != nil || !strings.Contains(info, "errorstat_NOSCRIPT") {
		r.t.Errorf("no script was ever missed: %v %s", err, info)
	}
	if r.replies[granted].Load() == had {
		r.t.Error("nobody was admitted meanwhile")
	}
	if now := r.epoch(r.t, 0); now != before {
		r.t.Errorf("epoch %s after scripts were flushed, was %s", now, before)
	}
}

// paused makes the store answer nobody, first for a moment, then for longer than any
// lease. Afterwards the store executes what it received meanwhile.
func paused(r *trial) {
	for _, d := range []time.Duration{faultTTL / 4, longOutage} {
		at := r.truth.now()
		r.do(fmt.Sprintf("CLIENT PAUSE %d ALL", d.Milliseconds()))
		set := r.truth.now()
		r.do("PING")
		if r.truth.now()-at < d*9/10 {
			r.t.Error("the store answered while it was paused")
		}
		if r.strict && d > faultFence {
			r.endedBy(set+faultFence, -1, at+d)
		}
	}
}

// stopped does the same by stopping the process.
func stopped(r *trial) {
	at := r.halt(r.redis.PID())
	r.last(longOutage)
	woken := r.truth.now()
	if err := syscall.Kill(r.redis.PID(), syscall.SIGCONT); err != nil {
		r.t.Fatal(err)
	}
	if r.strict {
		r.endedBy(at+faultFence, -1, woken)
	} else {
		r.someSurvive(-1, span{at, woken})
	}
}

// halt stops a process, and returns since when it has been stopped.
func (r *trial) halt(pid int) time.Duration {
	r.t.Helper()
	if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
		r.t.Fatal(err)
	}
	eventually(r.t, patience, func() string {
		stat := readFile(r.t, fmt.Sprintf("/proc/%d/stat", pid))
		if _, state, _ := strings.Cut(stat, ") "); !strings.HasPrefix(state, "T") {
			return "still running: " + stat
		}
		return ""
	})
	return r.truth.now()
}

// unableToSave makes the store refuse writes, and nothing else.
func unableToSave(r *trial) {
	r.redis.FailToSave()
	at := r.truth.now()
	r.last(longOutage)
	healed := r.truth.now()
	r.do("CONFIG SET stop-writes-on-bgsave-error no", "CONFIG SET dbfilename dump.rdb")
	if r.strict {
		r.endedBy(at+faultFence, -1, healed)
	} else {
		r.someSurvive(-1, span{at, healed})
	}
}

// limitMemory leaves the store room for this many more bytes.
func (r *trial) limitMemory(policy string, room int) {
	info, err := r.db.InfoMap(r.t.Context(), "memory").Result()
	if err != nil {
		r.t.Fatal(err)
	}
	var used int
	if _, err := fmt.Sscan(info["Memory"]["used_memory"], &used); err != nil {
		r.t.Fatal(err)
	}
	r.do("CONFIG SET maxmemory-policy "+policy, fmt.Sprintf("CONFIG SET maxmemory %d", used+room))
}

// flood writes other keys, this many at once, and returns the first error.
func (r *trial) flood(from, n int) error {
	ctx, value := r.t.Context(), strings.Repeat("x", 4000)
	_, err := r.db.Pipelined(ctx, func(p redis.Pipeliner) error {
		for i := range n {
			p.Set(ctx, fmt.Sprintf("other:%d", from+i), value, 0)
		}
		return nil
	})
	return err
}

// drain deletes what flood wrote.
func (r *trial) drain(written int) {
	r.do("CONFIG SET maxmemory 0", "CONFIG SET maxmemory-policy noeviction")
	for i := range written {
		r.do(fmt.Sprintf("UNLINK other:%d", i))
	}
}

// fillUp writes other keys until the store accepts no more, and returns how many there
// are now.
func (r *trial) fillUp(written int) int {
	r.t.Helper()
	for {
		err := r.flood(written, 10)
		written += 10
		switch {
		case err != nil && strings.Contains(err.Error(), "OOM"):
			return written
		case err != nil:
			r.t.Fatal(err)
		case written > 10000:
			r.t.Fatal("the store's memory has no end")
		}
	}
}

// memoryFull reaches maxmemory in a store that evicts nothing. Writes are refused.
// Scripts must work, even if they have to be loaded again.
func memoryFull(r *trial) {
	before, written := r.epoch(r.t, 0), 0
	r.limitMemory("noeviction", 1<<19)
	written = r.fillUp(written)
	begin := r.truth.now()
	for r.truth.now()-begin < faultTTL {
		r.last(faultTTL / 100)
		written = r.fillUp(written) // the memory for buffers varies
	}
	r.do("SCRIPT FLUSH")
	r.last(faultTTL / 4)
	if now := r.epoch(r.t, 0); now != before {
		r.t.Errorf("epoch %s after the store was full, was %s", now, before)
	}
	r.someSurvive(-1, span{begin, r.truth.now()})
	for i := range r.targets {
		if len(r.truth.some(i, func(s proven) bool { return s.asked > begin })) == 0 {
			r.t.Errorf("target %d: nobody was admitted meanwhile", i)
		}
	}
	r.drain(written)
}

// evicted floods a store that may evict any key, until it has evicted some of Usher's.
func evicted(r *trial) {
	before := r.epoch(r.t, 0)
	r.limitMemory("allkeys-lru", 1<<19)
	written := 0
	eventually(r.t, 2*patience, func() string {
		if err := r.flood(written%5000, 50); err != nil {
			r.t.Fatal(err)
		}
		written += 50
		if b := r.epoch(r.t, 0); b != before && b != "" {
			return ""
		}
		return fmt.Sprintf("no key of ours was evicted for %d others", written)
	})
	r.last(faultTTL / 4)
	r.drain(min(written, 5000))
}
